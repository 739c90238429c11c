// Neighbours within a radius and the k nearest, see meshsim/ops/neighbors.py.
//
// Queries go in groups of up to a leaf's points, so that the tree is walked once a group.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "neighbors/tree.h"

#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace meshsim {

// Leaves that some queries must look into; boxes as rows lo₀, hi₀, lo₁, … of length stride.
struct Candidates {
  const double* at;
  const int32_t *id, *leaves;
  const double* boxes;
  int64_t count, stride;
};

// The best so far of one query, in no order: all that lie within √limit, at least k once k came.
struct Nearest {
  double* square;
  int32_t* id;
  int64_t count, room;
  double limit;
};

namespace {

using Pair = std::pair<double, int32_t>;

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

#define MESHSIM_KERNELS "neighbors/neighbors_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

constexpr int64_t groups_a_chunk = 32;
constexpr size_t shared_leaves = 256;  // a group that needs more looks query by query

std::vector<int64_t> offsets_of(const std::optional<Tensor>& batch, int64_t n, const char* name) {
  if (!batch) return {0, n};
  const Tensor rowptr = dense(*batch);
  check_rowptr(rowptr, n, name);
  const int64_t* p = rowptr.const_data_ptr<int64_t>();
  return {p, p + rowptr.size(0)};
}

template <class T>
void check_finite(const T* x, int64_t n, int64_t width, const char* name) {
  T sum = 0;  // 0 · x is no number but for finite x
  for (int64_t i = 0; i < n * width; ++i) sum += T(0) * x[i];
  if (sum == T(0)) return;
  for (int64_t i = 0; i < n * width; ++i)
    if (!std::isfinite(x[i]))
      bad_input("`", name, "`: expected finite coordinates, got ", x[i], " at row ", i / width);
}

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
    same = points.const_data_ptr() == queries.const_data_ptr() && of_points == of_queries;
  }
};

// Calls make(T(), D) with the type and the dimension.
template <class Make>
auto with_type(const Given& in, const Make& make) {
  const auto with_dim = [&](auto t) {
    if (in.dim == 1) return make(t, std::integral_constant<int, 1>());
    if (in.dim == 2) return make(t, std::integral_constant<int, 2>());
    return make(t, std::integral_constant<int, 3>());
  };
  return in.points.scalar_type() == ScalarType::Float ? with_dim(float()) : with_dim(double());
}

template <int D, class T>
struct Search {
  Forest<D> points;
  std::optional<Forest<D>> others;

  explicit Search(const Given& in)
      : points((check_finite(in.points.const_data_ptr<T>(), in.n, D, "points"),
                in.points.const_data_ptr<T>()),
               in.of_points) {
    if (in.same) return;
    const T* queries = in.queries.const_data_ptr<T>();
    check_finite(queries, in.m, D, "queries");
    others.emplace(queries, in.of_queries);
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

// Neighbours found by a chunk of groups: rows in the order of the groups' queries.
struct Found {
  std::vector<int32_t> all;
};

// The `most` nearest of a row, in rising order of number.
template <int D>
int64_t nearest_of(int32_t* row, int64_t n, int64_t most, const Box<D>& query, const auto* points) {
  std::vector<Pair> pairs(n);
  for (int64_t j = 0; j < n; ++j) {
    Box<D> point;
    for (int d = 0; d < D; ++d) point.lo[d] = point.hi[d] = points[row[j] * int64_t(D) + d];
    pairs[j] = {gap(point, query), row[j]};
  }
  std::nth_element(pairs.begin(), pairs.begin() + most, pairs.end());
  for (int64_t j = 0; j < most; ++j) row[j] = pairs[j].second;
  return most;
}

template <int D, class T>
class Radius {
 public:
  Radius(const Given& in_, double r, std::optional<int64_t> most_)
      : in(in_), search(in), limit(r * r), most(most_), found(chunks()) {}

  std::tuple<Tensor, Tensor> operator()() {
    Tensor rowptr = torch::stable::full({in.m + 1}, 0.0, ScalarType::Long);
    int64_t* to = rowptr.template mutable_data_ptr<int64_t>();
    each(chunks(), [&](int64_t c) { scan(c, to + 1); });
    for (int64_t i = 0; i < in.m; ++i) to[i + 1] += to[i];
    Tensor indices = torch::stable::new_empty(rowptr, {to[in.m]});
    int64_t* out = indices.template mutable_data_ptr<int64_t>();
    each(chunks(), [&](int64_t c) { copy(c, to, out); });
    return {rowptr, indices};
  }

 private:
  const Given& in;
  const Search<D, T> search;
  const double limit;
  const std::optional<int64_t> most;
  std::vector<Found> found;

  int64_t chunks() const {
    return (search.queries().leaves() + groups_a_chunk - 1) / groups_a_chunk;
  }

  template <class Work>
  void groups(int64_t chunk, const Work& work) const {
    const int64_t end = std::min(search.queries().leaves(), groups_a_chunk * (chunk + 1));
    for (int64_t g = groups_a_chunk * chunk; g < end; ++g) work(g);
  }

  void scan(int64_t chunk, int64_t* counts) {
    Gathered<D> near;
    std::vector<int32_t>& all = found[chunk].all;
    const Forest<D>& queries = search.queries();
    groups(chunk, [&](int64_t g) {
      const Subtree& root = search.points.roots[queries.batch_of[g]];
      const int64_t size = queries.size_of[g];
      if (!root.leaves || gap(search.points.boxes[root.node], queries.leaf_boxes[g]) > limit) return;
      search.points.near(root, queries.leaf_boxes[g], limit, 0, 0, near.leaves);
      if (near.leaves.size() <= shared_leaves) return rows(g, 0, size, near, counts, all);
      for (int64_t i = 0; i < size; ++i) {
        search.points.near(root, around<D>(queries.leaf_at(g), i), limit, 0, 0, near.leaves);
        rows(g, i, i + 1, near, counts, all);
      }
    });
  }

  void rows(int64_t g, int64_t first, int64_t last, Gathered<D>& near, int64_t* counts,
            std::vector<int32_t>& all) {
    const double* at = search.queries().leaf_at(g);
    const int32_t* id = search.queries().leaf_id(g);
    const Candidates some = near.from(search.points);
    int32_t* list =
        thread_scratch<int32_t>((last - first) * some.count * leaf_size + some.stride + 48);
    int32_t* row = list + some.stride + 16;
    int64_t sizes[leaf_size];
    MESHSIM_DISPATCH(scan_within<D>(some, at, first, last, limit, list, row, sizes));
    for (int64_t i = first; i < last; ++i) {
      const int64_t n = sizes[i];
      const bool many = most && n > *most;
      const int64_t kept = many ? nearest_of<D>(row, n, *most, around<D>(at, i),
                                                in.points.const_data_ptr<T>())
                                : n;
      if (many || n > 64) std::sort(row, row + kept);
      all.insert(all.end(), row, row + kept);
      counts[id[i]] = kept;
      row += n;
    }
  }

  void copy(int64_t chunk, const int64_t* rowptr, int64_t* out) {
    const int32_t* from = found[chunk].all.data();
    groups(chunk, [&](int64_t g) {
      const int32_t* id = search.queries().leaf_id(g);
      for (int64_t i = 0; i < search.queries().size_of[g]; ++i) {
        const int64_t first = rowptr[id[i]], n = rowptr[id[i] + 1] - first;
        for (int64_t j = 0; j < n; ++j) out[first + j] = from[j];
        from += n;
      }
    });
    found[chunk] = {};
  }
};

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
  const Search<D, T> search;
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

std::tuple<Tensor, Tensor> radius(Tensor points, Tensor queries, double r,
                                  std::optional<Tensor> batch_points,
                                  std::optional<Tensor> batch_queries,
                                  std::optional<int64_t> max_neighbors) {
  const Given in(points, queries, batch_points, batch_queries);
  if (!(r >= 0)) bad_input("`r`: expected a number >= 0, got ", r);
  if (max_neighbors && *max_neighbors < 0)
    bad_input("`max_neighbors`: expected >= 0, got ", *max_neighbors);
  return with_type(in, [&](auto t, auto dim) {
    return Radius<decltype(dim)::value, decltype(t)>(in, r, max_neighbors)();
  });
}

std::tuple<Tensor, Tensor> knn(Tensor points, Tensor queries, int64_t k,
                               std::optional<Tensor> batch_points,
                               std::optional<Tensor> batch_queries) {
  const Given in(points, queries, batch_points, batch_queries);
  if (k < 0) bad_input("`k`: expected >= 0, got ", k);
  if (k > int64_t(1) << 31) bad_input("`k`: expected fewer than 2^31, got ", k);
  return with_type(in, [&](auto t, auto dim) {
    return Knn<decltype(dim)::value, decltype(t)>(in, k)();
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("radius", TORCH_BOX(&radius));
  m.impl("knn", TORCH_BOX(&knn));
}

}  // namespace meshsim
