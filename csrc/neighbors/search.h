// What both searches need: their arguments, trees of points and of queries, the leaves to look in.
#pragma once

#include "neighbors/tree.h"

namespace meshsim {

using Pair = std::pair<double, int32_t>;  // square of a distance and who it is

// Leaves that some queries must look into; boxes as rows lo₀, hi₀, lo₁, … of length stride.
struct Candidates {
  const double* at;
  const int32_t *id, *leaves;
  const double* boxes;
  int64_t count, stride;
};

constexpr int64_t groups_a_chunk = 32;
constexpr size_t shared_leaves = 256;  // a group that needs more looks query by query

struct Given {
  Tensor points, queries;
  std::vector<int64_t> of_points, of_queries;
  int64_t n, m, dim;
  bool same;  // every point asks

  Given(const Tensor& points_, const Tensor& queries_, const std::optional<Tensor>& batch_points,
        const std::optional<Tensor>& batch_queries)
      : points(dense(points_)), queries(dense(queries_)) {
    check_cpu(points, "points");
    check_cpu(queries, "queries");
    check_shape(points, -1, -1, "points");
    dim = points.size(1);
    if (dim < 1 || dim > 3) bad_input("`points`: expected shape (*, 1..3), got ", shape_of(points));
    check_shape(queries, -1, dim, "queries");
    const ScalarType type = points.scalar_type();
    if (type != ScalarType::Float && type != ScalarType::Double)
      bad_input("`points`: expected float32 or float64, got ", torch::headeronly::toString(type));
    check_dtype(queries, type, "queries");
    n = points.size(0);
    m = queries.size(0);
    if (std::max(n, m) >= int64_t(1) << 31)
      bad_input("`points`: expected fewer than 2^31 points and queries, got ", std::max(n, m));
    if (batch_points.has_value() != batch_queries.has_value())
      bad_input("`batch_queries`: expected both batches or none");
    of_points = offsets_of(batch_points, n, "batch_points");
    of_queries = offsets_of(batch_queries, m, "batch_queries");
    if (of_points.size() != of_queries.size())
      bad_input("`batch_queries`: expected ", of_points.size(), " offsets as for the points, got ",
                of_queries.size());
    const auto check = [&](auto t) {
      check_finite<decltype(t)>(points, "points");
      check_finite<decltype(t)>(queries, "queries");
    };
    type == ScalarType::Float ? check(float()) : check(double());
    same = points.const_data_ptr() == queries.const_data_ptr() && of_points == of_queries;
  }
};

// Calls make(T(), D) with the type and the dimension.
template <class Make>
inline auto with_type(const Given& in, const Make& make) {
  const auto with_dim = [&](auto t) {
    if (in.dim == 1) return make(t, std::integral_constant<int, 1>());
    if (in.dim == 2) return make(t, std::integral_constant<int, 2>());
    return make(t, std::integral_constant<int, 3>());
  };
  return in.points.scalar_type() == ScalarType::Float ? with_dim(float()) : with_dim(double());
}

template <int D, class T>
struct Trees {
  Forest<D> points;
  std::optional<Forest<D>> others;

  explicit Trees(const Given& in)
      : points(in.points.const_data_ptr<T>(), in.of_points) {
    if (in.same) return;
    others.emplace(in.queries.const_data_ptr<T>(), in.of_queries);
  }
  const Forest<D>& queries() const { return others ? *others : points; }
};

// Candidate leaves with their boxes side by side; keeps its memory from group to group.
template <int D>
struct Gathered {
  std::vector<int32_t> leaves;
  std::vector<double> boxes;

  Candidates from(const Forest<D>& forest) {
    const int64_t n = leaves.size(), stride = (n + 7) / 8 * 8;
    leaves.resize(stride);  // whole vectors are read
    boxes.assign(2 * D * stride, 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int d = 0; d < D; ++d) {
        boxes[2 * d * stride + i] = forest.leaf_boxes[leaves[i]].lo[d];
        boxes[(2 * d + 1) * stride + i] = forest.leaf_boxes[leaves[i]].hi[d];
      }
    return {forest.at.data, forest.id.data, leaves.data(), boxes.data(), n, stride};
  }
};

template <int D>
Box<D> around(const double* queries, int64_t i) {
  Box<D> box;
  for (int d = 0; d < D; ++d) box.lo[d] = box.hi[d] = queries[d * leaf_size + i];
  return box;
}

}  // namespace meshsim
