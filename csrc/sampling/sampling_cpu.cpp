// Farthest-point sampling, see meshsim/ops/sampling.py.
//
// Parts of the tree that a new point is too far from to change are left alone; the result is that
// of looking at every point every time.
#include "neighbors/tree.h"

namespace meshsim {
namespace {

// The farthest point of a part of the tree; −1 once all are taken.
struct Farthest {
  double square;
  int32_t id;
  bool after(const Farthest& b) const {
    return square < b.square || (square == b.square && id > b.id);
  }
};

template <int D>
class Sampling {
 public:
  template <class T>
  Sampling(const T* points, const std::vector<int64_t>& offsets)
      : forest(points, offsets), square(forest.leaves() * leaf_size), best(forest.boxes.size()) {
    std::fill_n(square.data, forest.leaves() * leaf_size, std::numeric_limits<double>::infinity());
    for (Farthest& b : best) b = {std::numeric_limits<double>::infinity(), 0};
  }

  template <class T>
  void sample(int64_t batch, int64_t start, int64_t n, const T* points, int64_t* out) {
    const Subtree& root = forest.roots[batch];
    for (int64_t i = 0; i < n; ++i) {
      const int64_t taken = i ? best[root.node].id : start;
      out[i] = taken;
      Box<D> point;
      for (int d = 0; d < D; ++d) point.lo[d] = point.hi[d] = points[taken * D + d];
      take(root, point, static_cast<int32_t>(taken));
    }
  }

 private:
  Forest<D> forest;
  Buffer<double> square;  // of the distance of each place of the leaves to the points taken
  std::vector<Farthest> best;

  void take(const Subtree& tree, const Box<D>& point, int32_t id) {
    Farthest& mine = best[tree.node];
    if (gap(forest.boxes[tree.node], point) > mine.square) return;
    if (tree.leaves == 1) {
      mine = take_leaf(tree.leaf, point, id);
      return;
    }
    const Subtree left = tree.left(), right = tree.right();
    take(left, point, id);
    take(right, point, id);
    mine = best[left.node].after(best[right.node]) ? best[right.node] : best[left.node];
  }

  Farthest take_leaf(int64_t leaf, const Box<D>& point, int32_t taken) {
    const double* at = forest.leaf_at(leaf);
    const int32_t* id = forest.leaf_id(leaf);
    double* mine = square.data + leaf * leaf_size;
    for (int64_t i = 0; i < leaf_size; ++i) {
      double sum = 0.0;
      for (int d = 0; d < D; ++d) {
        const double side = at[d * leaf_size + i] - point.lo[d];
        sum += side * side;
      }
      mine[i] = sum < mine[i] ? sum : mine[i];
    }
    Farthest out{-2.0, 0};
    for (int64_t i = 0; i < forest.size_of[leaf]; ++i) {
      if (id[i] == taken) mine[i] = -1.0;
      const Farthest here{mine[i], id[i]};
      if (out.after(here)) out = here;
    }
    return out;
  }
};

template <int D, class T>
Tensor sample(const Tensor& points, const std::vector<int64_t>& offsets, int64_t n, int64_t start) {
  const int64_t batches = offsets.size() - 1;
  const T* x = points.const_data_ptr<T>();
  check_finite<T>(points, "points");
  Tensor out = torch::stable::empty({batches * n}, ScalarType::Long);
  int64_t* to = out.mutable_data_ptr<int64_t>();
  if (n == 0) return out;
  Sampling<D> sampling(x, offsets);
  each(batches, [&](int64_t b) { sampling.sample(b, offsets[b] + start, n, x, to + b * n); });
  return out;
}

Tensor farthest_points(Tensor points_, int64_t n, int64_t start, std::optional<Tensor> batch) {
  const Tensor points = dense(points_);
  check_cpu(points, "points");
  check_shape(points, -1, -1, "points");
  const int64_t dim = points.size(1);
  if (dim < 1 || dim > 3) bad_input("`points`: expected shape (*, 1..3), got ", shape_of(points));
  if (points.size(0) >= int64_t(1) << 31)
    bad_input("`points`: expected fewer than 2^31, got ", points.size(0));
  const std::vector<int64_t> offsets = offsets_of(batch, points.size(0), "batch");
  if (n < 0) bad_input("`n`: expected >= 0, got ", n);
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    const int64_t size = offsets[b + 1] - offsets[b];
    if (n > size) bad_input("`n`: expected at most the ", size, " points of batch ", b, ", got ", n);
    if (n && (start < 0 || start >= size))
      bad_input("`start`: expected 0..", size - 1, " (batch ", b, "), got ", start);
  }
  const auto run = [&](auto t) {
    using T = decltype(t);
    if (dim == 1) return sample<1, T>(points, offsets, n, start);
    if (dim == 2) return sample<2, T>(points, offsets, n, start);
    return sample<3, T>(points, offsets, n, start);
  };
  if (points.scalar_type() == ScalarType::Float) return run(float());
  if (points.scalar_type() == ScalarType::Double) return run(double());
  bad_input("`points`: expected float32 or float64, got ",
            torch::headeronly::toString(points.scalar_type()));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("farthest_points", TORCH_BOX(&farthest_points));
}

}  // namespace meshsim
