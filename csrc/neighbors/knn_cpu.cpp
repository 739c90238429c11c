// The k nearest neighbours, see meshsim/ops/neighbors.py.
//
// Queries go in groups of up to a leaf's points, so that the tree is walked once a group.
#include "neighbors/search.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace meshsim {

// The best so far of one query, in no order: all that lie within √limit, at least k once k came.
struct Nearest {
  double* square;
  int32_t* id;
  int64_t count, room;
  double limit;
};

namespace {

std::vector<Pair> pairs_of(const Nearest& best) {
  std::vector<Pair> pairs(best.count);
  for (int64_t i = 0; i < best.count; ++i) pairs[i] = {best.square[i], best.id[i]};
  return pairs;
}

}  // namespace

// Leaves exactly the k first by (square, id).
void keep_nearest(Nearest& best, int64_t k) {
  std::vector<Pair> pairs = pairs_of(best);
  std::nth_element(pairs.begin(), pairs.begin() + k - 1, pairs.end());
  best.count = k;
  best.limit = pairs[k - 1].first;
  for (int64_t i = 0; i < k; ++i) std::tie(best.square[i], best.id[i]) = pairs[i];
}

}  // namespace meshsim

#define MESHSIM_KERNELS "neighbors/knn_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

template <int D, class T>
class Knn {
 public:
  Knn(const Given& in_, int64_t k)
      : in(in_), search(in), columns(k), k(std::min(k, in.n)), room(2 * this->k + 64) {}

  std::tuple<Tensor, Tensor> operator()() {
    Tensor indices = torch::stable::full({in.m, columns}, -1.0, ScalarType::Long);
    Tensor distances = torch::stable::new_empty(in.points, {in.m, columns});
    to_id = indices.template mutable_data_ptr<int64_t>();
    to_distance = distances.template mutable_data_ptr<T>();
    for (int64_t i = 0; i < in.m * columns; ++i) to_distance[i] = std::numeric_limits<T>::infinity();
    const int64_t leaves = search.queries().leaves();
    if (k > 0)
      each((leaves + groups_a_chunk - 1) / groups_a_chunk, [&](int64_t c) {
        Gathered<D> near;
        const int64_t end = std::min(leaves, groups_a_chunk * (c + 1));
        for (int64_t g = groups_a_chunk * c; g < end; ++g) group(g, near);
      });
    return {indices, distances};
  }

 private:
  const Given& in;
  const Trees<D, T> search;
  const int64_t columns, k, room;  // asked for, and as many as there can be
  int64_t* to_id;
  T* to_distance;

  // The smallest subtree on the way to a box that is sure to hold k points, or the whole tree.
  Subtree seeds(Subtree tree, const Box<D>& box) const {
    Box<D> centre;
    for (int d = 0; d < D; ++d) centre.lo[d] = centre.hi[d] = 0.5 * box.lo[d] + 0.5 * box.hi[d];
    while (tree.leaves > 1) {
      const Subtree left = tree.left(), right = tree.right();
      const auto& boxes = search.points.boxes;
      const Subtree next =
          gap(boxes[right.node], centre) < gap(boxes[left.node], centre) ? right : left;
      if ((next.leaves - 1) * leaf_size < k) break;
      tree = next;
    }
    return tree;
  }

  void group(int64_t g, Gathered<D>& near) const {
    const Forest<D>&queries = search.queries(), &points = search.points;
    const Subtree& root = points.roots[queries.batch_of[g]];
    if (!root.leaves) return;
    const int64_t size = queries.size_of[g];
    const double* at = queries.leaf_at(g);
    const Box<D>& box = queries.leaf_boxes[g];
    const Subtree first = seeds(root, box);
    const int64_t seen = first.leaf + first.leaves;
    double* squares = thread_scratch<double>(leaf_size * 2 * room + 2 * k);
    int32_t* ids = reinterpret_cast<int32_t*>(squares + leaf_size * room);
    Nearest best[leaf_size];
    double limit = 0.0;
    for (int64_t i = 0; i < size; ++i) {
      best[i] = {squares + i * room, ids + i * room, 0, room,
                 std::numeric_limits<double>::infinity()};
      MESHSIM_DISPATCH(scan_leaves<D>(points.at.data, points.id.data, first.leaf, seen, at, i, k,
                                      best[i]));
      limit = std::max(limit, best[i].limit);
    }
    points.near(root, box, limit, first.leaf, seen, near.leaves);
    const bool shared = near.leaves.size() <= shared_leaves;  // `from` makes it longer
    Candidates some = near.from(points);
    for (int64_t i = 0; i < size; ++i) {
      if (!shared) {
        points.near(root, around<D>(at, i), best[i].limit, first.leaf, seen, near.leaves);
        some = near.from(points);
      }
      MESHSIM_DISPATCH(scan_nearest<D>(some, at, i, k, best[i]));
      write(best[i], queries.leaf_id(g)[i], squares + leaf_size * 2 * room);
    }
  }

  void write(const Nearest& best, int64_t query, double* squares) const {
    const int64_t n = std::min(best.count, k);
    int64_t* id = to_id + query * columns;
    T* distance = to_distance + query * columns;
    if (best.count <= 128) {
      MESHSIM_DISPATCH(order_few(best, k, squares, id));
    } else {
      std::vector<Pair> pairs = pairs_of(best);
      std::partial_sort(pairs.begin(), pairs.begin() + n, pairs.end());
      for (int64_t i = 0; i < n; ++i) squares[i] = pairs[i].first, id[i] = pairs[i].second;
    }
    for (int64_t i = 0; i < n; ++i) distance[i] = static_cast<T>(std::sqrt(squares[i]));
  }
};

std::tuple<Tensor, Tensor> knn(Tensor points, Tensor queries, int64_t k,
                               std::optional<Tensor> batch_points,
                               std::optional<Tensor> batch_queries) {
  const Given in(points, queries, batch_points, batch_queries);
  if (k < 0) bad_input("`k`: expected >= 0, got ", k);
  if (k >= int64_t(1) << 31) bad_input("`k`: expected fewer than 2^31, got ", k);
  return with_type(in, [&](auto t, auto dim) {
    return Knn<decltype(dim)::value, decltype(t)>(in, k)();
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) { m.impl("knn", TORCH_BOX(&knn)); }

}  // namespace meshsim
