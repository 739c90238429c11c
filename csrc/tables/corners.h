// Cells as the tables on CUDA take them: in parts of one shape each.
#pragma once

#include "device/sort.h"

namespace meshsim {

// Cells of one shape and those of their edges or faces that have the same number of corners.
struct Part {
  const int64_t *nodes, *local;  // (cells, width), (count, corners)
  int64_t cells, width, count, corners, points;

  __host__ __device__ int64_t rows() const { return cells * count; }

  // A corner of a face of a cell, −1 if it does not exist.
  __device__ int64_t node(int64_t cell, int64_t face, int64_t corner) const {
    const int64_t i = local[face * corners + corner];
    if (uint64_t(i) >= uint64_t(width)) return -1;
    const int64_t node = nodes[cell * width + i];
    return uint64_t(node) < uint64_t(points) ? node : -1;
  }
};

struct Parts {
  std::vector<Tensor> nodes, local;  // hold what the parts point to
  std::vector<Part> all;
  std::vector<int64_t> base;  // where the rows of each begin, counted through all
  int64_t rows = 0, widest = 1;

  Parts(const std::vector<Tensor>& nodes_, const std::vector<Tensor>& local_, int64_t points) {
    if (nodes_.size() != local_.size())
      bad_input("`local`: expected ", nodes_.size(), " tables as for the nodes, got ",
                local_.size());
    if (points < 0 || points > int64_t(INT32_MAX))
      bad_input("`n_points`: expected 0..2^31 - 1, got ", points);
    for (size_t i = 0; i < nodes_.size(); ++i) add(dense(nodes_[i]), dense(local_[i]), points);
    if (rows > int64_t(INT32_MAX))
      bad_input("`nodes`: expected fewer than 2^31 edges or faces of cells, got ", rows);
  }

 private:
  void add(const Tensor& n, const Tensor& l, int64_t points) {
    check_device(n, "nodes");
    check_shape(n, -1, -1, "nodes");
    check_index(n, points, "nodes");
    check_shape(l, -1, -1, "local");
    check_index(l, n.size(1), "local");
    all.push_back({static_cast<const int64_t*>(n.const_data_ptr()),
                   static_cast<const int64_t*>(l.const_data_ptr()), n.size(0), n.size(1),
                   l.size(0), l.size(1), points});
    base.push_back(rows);
    rows += all.back().rows();
    widest = std::max(widest, l.size(1));
    nodes.push_back(n);
    local.push_back(l);
  }
};

}  // namespace meshsim
