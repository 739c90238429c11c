// Cells of one shape with those of their edges or faces that have the same number of corners.
#pragma once

#include "geometry.h"

namespace meshsim {

struct Part {
  Tensor nodes_, local_;
  const int64_t *nodes, *local;
  int64_t cells, width, count, corners;  // nodes (cells, width), local (count, corners)

  Part(const Tensor& n, const Tensor& l, int64_t points) : nodes_(dense(n)), local_(dense(l)) {
    check_cpu(nodes_, "nodes");
    check_shape(nodes_, -1, -1, "nodes");
    cells = nodes_.size(0);
    width = nodes_.size(1);
    check_index(nodes_, points, "nodes");
    check_shape(local_, -1, -1, "local");
    check_index(local_, width, "local");
    count = local_.size(0);
    corners = local_.size(1);
    nodes = nodes_.const_data_ptr<int64_t>();
    local = local_.const_data_ptr<int64_t>();
  }
  int64_t rows() const { return cells * count; }

  int64_t lowest(int64_t c, int64_t j) const {
    const int64_t *cell = nodes + c * width, *face = local + j * corners;
    if (corners == 3) return std::min(std::min(cell[face[0]], cell[face[1]]), cell[face[2]]);
    int64_t low = cell[face[0]];
    for (int64_t i = 1; i < corners; ++i) low = std::min(low, cell[face[i]]);
    return low;
  }
};

inline std::vector<Part> parts_of(const std::vector<Tensor>& nodes,
                                  const std::vector<Tensor>& local, int64_t points) {
  if (nodes.size() != local.size())
    bad_input("`local`: expected ", nodes.size(), " tables as for the nodes, got ", local.size());
  if (points < 0 || points > int64_t(std::numeric_limits<int32_t>::max()))
    bad_input("`n_points`: expected 0..2^31 - 1, got ", points);
  std::vector<Part> parts;
  for (size_t i = 0; i < nodes.size(); ++i) parts.emplace_back(nodes[i], local[i], points);
  return parts;
}

// Cuts the points into ranges of about as many lowest corners: a thread each. All threads read all
// cells, so that more than a few gain nothing. Results must not depend on the cuts.
inline std::vector<int64_t> cuts_of(const std::vector<Part>& parts, int64_t points) {
  int64_t rows = 0;
  for (const Part& part : parts) rows += part.corners ? part.rows() : 0;
  const int64_t ranges = std::min<int64_t>({torch::stable::get_num_threads(), 4, 1 + (rows >> 16)});
  std::vector<int64_t> some, cuts{0};
  const int64_t step = rows / 4096 + 1;
  for (const Part& part : parts)
    for (int64_t i = 0; ranges > 1 && part.corners && i < part.rows(); i += step)
      some.push_back(part.lowest(i / part.count, i % part.count));
  std::sort(some.begin(), some.end());
  for (int64_t r = 1; r < ranges; ++r) cuts.push_back(some[some.size() * r / ranges]);
  cuts.push_back(points);
  return cuts;
}

}  // namespace meshsim
