// Which simplex a point lies in and what a field is there, see meshsim/ops/locate.py.
#include "neighbors/tree.h"

namespace meshsim {
namespace {

double orient(const double (*x)[2]) {
  const double ax = x[1][0] - x[0][0], ay = x[1][1] - x[0][1];
  const double bx = x[2][0] - x[0][0], by = x[2][1] - x[0][1];
  return ax * by - ay * bx;
}

double orient(const double (*x)[3]) {
  double e[3][3];
  for (int i = 0; i < 3; ++i)
    for (int d = 0; d < 3; ++d) e[i][d] = x[i + 1][d] - x[0][d];
  const double u = e[1][1] * e[2][2] - e[1][2] * e[2][1];
  const double v = e[1][2] * e[2][0] - e[1][0] * e[2][2];
  const double w = e[1][0] * e[2][1] - e[1][1] * e[2][0];
  return (e[0][0] * u + e[0][1] * v) + e[0][2] * w;
}

template <int D, class T>
class Simplices {
 public:
  Simplices(const T* points_, const int64_t* cells_, int64_t n, double tolerance_)
      : points(points_), cells(cells_), tolerance(tolerance_), centres(n * D), boxes(n) {
    for (int64_t c = 0; c < n; ++c) measure(c);
    forest.emplace(centres.data(), std::vector<int64_t>{0, n});
    if (n) widen(forest->roots[0]);
  }

  void find(const T* query, int64_t* id, T* weights) const {
    Box<D> at;
    for (int d = 0; d < D; ++d) at.lo[d] = at.hi[d] = query[d];
    double best[D + 1];
    int64_t found = -1;
    if (!boxes.empty()) visit(forest->roots[0], at, found, best);
    *id = found;
    for (int i = 0; i <= D; ++i) weights[i] = found < 0 ? T(0) : static_cast<T>(best[i]);
  }

 private:
  const T* points;
  const int64_t* cells;
  const double tolerance;
  std::vector<double> centres;
  std::vector<Box<D>> boxes;  // a little larger than the cells
  std::optional<Forest<D>> forest;

  void corners(int64_t c, double (*x)[D]) const {
    for (int i = 0; i <= D; ++i)
      for (int d = 0; d < D; ++d) x[i][d] = points[cells[c * (D + 1) + i] * D + d];
  }

  void measure(int64_t c) {
    double x[D + 1][D], extent = 0.0;
    corners(c, x);
    Box<D>& box = boxes[c];
    for (int d = 0; d < D; ++d) {
      box.lo[d] = box.hi[d] = x[0][d];
      for (int i = 1; i <= D; ++i) {
        box.lo[d] = std::min(box.lo[d], x[i][d]);
        box.hi[d] = std::max(box.hi[d], x[i][d]);
      }
      centres[c * D + d] = 0.5 * box.lo[d] + 0.5 * box.hi[d];
      extent = std::max(extent, box.hi[d] - box.lo[d]);
    }
    const double pad = (D + 2) * tolerance * extent;
    for (int d = 0; d < D; ++d) {
      box.lo[d] -= pad;
      box.hi[d] += pad;
    }
  }

  // The tree is of centres: let its boxes hold the cells.
  void widen(const Subtree& tree) {
    Box<D>& box = forest->boxes[tree.node];
    if (tree.leaves == 1) {
      const int32_t* id = forest->leaf_id(tree.leaf);
      for (int64_t i = 0; i < forest->size_of[tree.leaf]; ++i)
        box = i ? both(box, boxes[id[i]]) : boxes[id[0]];
      return;
    }
    widen(tree.left());
    widen(tree.right());
    box = both(forest->boxes[tree.left().node], forest->boxes[tree.right().node]);
  }

  static Box<D> both(const Box<D>& a, const Box<D>& b) {
    Box<D> out;
    for (int d = 0; d < D; ++d) {
      out.lo[d] = std::min(a.lo[d], b.lo[d]);
      out.hi[d] = std::max(a.hi[d], b.hi[d]);
    }
    return out;
  }

  static bool holds(const Box<D>& box, const Box<D>& at) {
    bool inside = true;
    for (int d = 0; d < D; ++d) inside &= box.lo[d] <= at.lo[d] && at.lo[d] <= box.hi[d];
    return inside;
  }

  bool weigh(int64_t c, const Box<D>& at, double* weights) const {
    double x[D + 1][D], part[D + 1][D];
    corners(c, x);
    const double all = orient(x);
    if (all == 0.0) return false;
    for (int i = 0; i <= D; ++i) {
      std::copy_n(&x[0][0], (D + 1) * D, &part[0][0]);
      std::copy_n(at.lo, D, part[i]);
      weights[i] = orient(part) / all;
      if (!(weights[i] >= -tolerance)) return false;
    }
    return true;
  }

  void visit(const Subtree& tree, const Box<D>& at, int64_t& found, double* best) const {
    if (!holds(forest->boxes[tree.node], at)) return;
    if (tree.leaves > 1) {
      visit(tree.left(), at, found, best);
      visit(tree.right(), at, found, best);
      return;
    }
    const int32_t* id = forest->leaf_id(tree.leaf);
    for (int64_t i = 0; i < forest->size_of[tree.leaf]; ++i) {
      double weights[D + 1];
      if ((found >= 0 && id[i] > found) || !holds(boxes[id[i]], at) || !weigh(id[i], at, weights))
        continue;
      found = id[i];
      std::copy_n(weights, D + 1, best);
    }
  }
};

template <int D, class T>
std::tuple<Tensor, Tensor> find_all(const Tensor& points, const Tensor& cells,
                                    const Tensor& queries, double tolerance) {
  check_finite<T>(points, "points");
  check_finite<T>(queries, "queries");
  const int64_t m = queries.size(0);
  Tensor ids = torch::stable::empty({m}, ScalarType::Long);
  Tensor weights = torch::stable::new_empty(queries, {m, D + 1});
  const Simplices<D, T> simplices(points.const_data_ptr<T>(), cells.const_data_ptr<int64_t>(),
                                  cells.size(0), tolerance);
  const T* query = queries.const_data_ptr<T>();
  int64_t* id = ids.mutable_data_ptr<int64_t>();
  T* weight = weights.mutable_data_ptr<T>();
  each((m + 1023) / 1024, [&](int64_t c) {
    for (int64_t i = 1024 * c; i < std::min(m, 1024 * (c + 1)); ++i)
      simplices.find(query + i * D, id + i, weight + i * (D + 1));
  });
  return {ids, weights};
}

std::tuple<Tensor, Tensor> locate(Tensor points_, Tensor cells_, Tensor queries_,
                                  double tolerance) {
  const Tensor points = dense(points_), cells = dense(cells_), queries = dense(queries_);
  check_cpu(points, "points");
  check_cpu(queries, "queries");
  check_shape(points, -1, -1, "points");
  const int64_t dim = points.size(1);
  if (dim != 2 && dim != 3) bad_input("`points`: expected shape (*, 2..3), got ", shape_of(points));
  check_shape(queries, -1, dim, "queries");
  check_shape(cells, -1, dim + 1, "cells");
  check_index(cells, points.size(0), "cells");
  if (cells.size(0) >= int64_t(1) << 31)
    bad_input("`cells`: expected fewer than 2^31, got ", cells.size(0));
  if (!(tolerance >= 0)) bad_input("`tolerance`: expected a number >= 0, got ", tolerance);
  const ScalarType type = points.scalar_type();
  check_dtype(queries, type, "queries");
  if (type == ScalarType::Float)
    return dim == 2 ? find_all<2, float>(points, cells, queries, tolerance)
                    : find_all<3, float>(points, cells, queries, tolerance);
  if (type == ScalarType::Double)
    return dim == 2 ? find_all<2, double>(points, cells, queries, tolerance)
                    : find_all<3, double>(points, cells, queries, tolerance);
  bad_input("`points`: expected float32 or float64, got ", torch::headeronly::toString(type));
}

// Where each query's corners are; none where it lies outside.
struct Places {
  const int64_t *cells, *ids;
  int64_t k;

  const int64_t* corners(int64_t query) const {
    return ids[query] < 0 ? nullptr : cells + ids[query] * k;
  }
  void check(int64_t queries, int64_t n_cells, int64_t n) const {
    for (int64_t i = 0; i < queries; ++i) {
      if (ids[i] < -1)
        bad_input("`ids`: expected -1 or the number of a cell, got ", ids[i]);
      if (ids[i] >= n_cells)
        bad_input("`ids`: index ", ids[i], " at row ", i, " is outside 0..", n_cells - 1);
      const int64_t* corner = corners(i);
      for (int64_t j = 0; corner && j < k; ++j)
        if (corner[j] < 0 || corner[j] >= n)
          bad_input("`cells`: index ", corner[j], " at row ", ids[i], " is outside 0..", n - 1);
    }
  }
};

// Rows of `width` sums over the corners, in `Sum`.
template <class T, class Sum>
void weigh_rows(const Places& at, const T* values, const T* weights, int64_t queries, int64_t width,
                T outside, T* out) {
  each((queries + 1023) / 1024, [&](int64_t c) {
    Sum* row = thread_scratch<Sum>(width);
    for (int64_t i = 1024 * c; i < std::min(queries, 1024 * (c + 1)); ++i) {
      const int64_t* corner = at.corners(i);
      if (!corner) {
        std::fill_n(out + i * width, width, outside);
        continue;
      }
      std::fill_n(row, width, Sum(0));
      for (int64_t j = 0; j < at.k; ++j) {
        const T* from = values + corner[j] * width;
        const Sum weight = static_cast<Sum>(weights[i * at.k + j]);
        for (int64_t w = 0; w < width; ++w) row[w] += weight * static_cast<Sum>(from[w]);
      }
      for (int64_t w = 0; w < width; ++w) out[i * width + w] = static_cast<T>(row[w]);
    }
  });
}

Tensor interpolate(Tensor values_, Tensor cells_, Tensor ids_, Tensor weights_, double outside) {
  const Tensor values = dense(values_), cells = dense(cells_), ids = dense(ids_),
               weights = dense(weights_);
  check_cpu(values, "values");
  check_cpu(cells, "cells");
  check_cpu(ids, "ids");
  check_cpu(weights, "weights");
  check_shape(values, -1, -1, "values");
  check_shape(cells, -1, -1, "cells");
  check_shape(ids, -1, 0, "ids");
  check_shape(weights, ids.size(0), -1, "weights");
  check_dtype(cells, ScalarType::Long, "cells");
  check_dtype(ids, ScalarType::Long, "ids");
  check_dtype(weights, values.scalar_type(), "weights");
  if (weights.size(1) != cells.size(1))
    bad_input("`weights`: expected shape (*, ", cells.size(1), "), got ", shape_of(weights));
  const int64_t m = ids.size(0), width = values.size(1);
  const Places at{cells.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>(), cells.size(1)};
  at.check(m, cells.size(0), values.size(0));
  Tensor out = torch::stable::new_empty(values, {m, width});
  const auto run = [&](auto t, auto sum) {
    using T = decltype(t);
    weigh_rows<T, decltype(sum)>(at, values.const_data_ptr<T>(), weights.const_data_ptr<T>(), m,
                                 width, static_cast<T>(outside), out.mutable_data_ptr<T>());
  };
  if (values.scalar_type() == ScalarType::Float) run(float(), float());
  else if (values.scalar_type() == ScalarType::Double) run(double(), double());
  else if (values.scalar_type() == ScalarType::BFloat16) run(BFloat16(), float());
  else
    bad_input("`values`: expected float32, float64 or bfloat16, got ",
              torch::headeronly::toString(values.scalar_type()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("locate", TORCH_BOX(&locate));
  m.impl("interpolate", TORCH_BOX(&interpolate));
}

}  // namespace meshsim
