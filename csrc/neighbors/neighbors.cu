// Neighbours within a radius and the k nearest on CUDA, see meshsim/ops/neighbors.py.
//
// One thread a query, queries in the order of Morton's curve: those of a warp take the same way
// through the tree. All that is compared is in float64, every step rounded.
#include "neighbors/cloud.h"

namespace meshsim {
namespace {

constexpr int searching = 64;    // threads of a block
constexpr int most_shared = 64;  // nearest that a thread keeps in shared memory
constexpr double nowhere = INFINITY;

template <int D, class T>
struct Queries {
  const T* at;
  const int32_t* order;
  int64_t m;
  Batches mine, points;

  // The row of query i in order, where it is, and what it may see.
  __device__ int64_t row(int64_t i, double (&x)[D]) const {
    const int64_t row = order[i];
    for (int d = 0; d < D; ++d) x[d] = at[row * D + d];
    return row;
  }
  __device__ Range range(int64_t row, int leaves) const {
    const int64_t b = mine.of(row);
    return b < 0 ? Range(0, 0, leaves) : Range(points.begin(b), points.end(b), leaves);
  }
};

// The nearest of one query: a heap, the farthest at the top, of equally far ones the last.
struct Nearest {
  double* square;
  int32_t* id;
  int64_t stride, room;
  double limit;              // what is farther is left out
  int32_t last = INT32_MAX;  // of what is just as far, what comes later
  int64_t count = 0;

  __device__ double& far(int64_t i) const { return square[i * stride]; }
  __device__ int32_t& row(int64_t i) const { return id[i * stride]; }
  __device__ static bool before(double a, int32_t i, double b, int32_t j) {
    return a < b || (a == b && i < j);
  }

  __device__ void offer(double s, int32_t i) {
    if (!before(s, i, limit, last)) return;
    if (count < room) {
      rise(count++, s, i);
    } else {
      sink(count, s, i);
    }
    if (count == room) limit = far(0), last = row(0);
  }
  // Puts (s, i) on the way from place `at` to the top.
  __device__ void rise(int64_t at, double s, int32_t i) const {
    for (; at > 0; at = (at - 1) / 2) {
      const int64_t up = (at - 1) / 2;
      if (!before(far(up), row(up), s, i)) break;
      far(at) = far(up);
      row(at) = row(up);
    }
    far(at) = s;
    row(at) = i;
  }
  // Puts (s, i) in place of the top, among n.
  __device__ void sink(int64_t n, double s, int32_t i) const {
    int64_t at = 0;
    for (int64_t down = 1; down < n; down = 2 * at + 1) {
      if (down + 1 < n && before(far(down), row(down), far(down + 1), row(down + 1))) ++down;
      if (!before(s, i, far(down), row(down))) break;
      far(at) = far(down);
      row(at) = row(down);
      at = down;
    }
    far(at) = s;
    row(at) = i;
  }
  // Takes the top out.
  __device__ void drop() {
    --count;
    if (count > 0) sink(count, far(count), row(count));
  }
};

// A subtree near x that has about k points: what is there sets a limit for the rest.
template <int D, class T>
__device__ int start(const Cloud<D, T>& cloud, const Range& in, const double (&x)[D], int64_t k) {
  int node = in.root;
  for (;;) {
    const int64_t below = int64_t(1) << (__clz(node) - __clz(cloud.leaves)) >> 1;  // leaves
    if (below == 0 || (below - 1) * in_leaf < k) return node;
    node *= 2;
    const bool left = in.meets(node, cloud.leaves), right = in.meets(node + 1, cloud.leaves);
    node += !left || (right && cloud.boxes[node + 1].gap(x) < cloud.boxes[node].gap(x));
  }
}

template <int D, class T>
__device__ void find_nearest(const Cloud<D, T>& cloud, const Range& in, const double (&x)[D],
                             Nearest& best) {
  if (in.empty() || best.room == 0) return;
  const auto offer = [&](double square, int32_t id) { best.offer(square, id); };
  const int first = start(cloud, in, x, best.room);
  const int down = __clz(first) - __clz(cloud.leaves);
  const int64_t leaf = (int64_t(first) << down) - cloud.leaves;
  const int64_t end = min(leaf + (int64_t(1) << down), (in.last + in_leaf - 1) / in_leaf);
  for (int64_t l = max(leaf, in.first / in_leaf); l < end; ++l) look(cloud, in, l, x, offer);
  look_around(cloud, in, first, x, [&] { return best.limit; }, offer);
}

template <int D, class T>
__global__ void knn_rows(Cloud<D, T> cloud, Queries<D, T> queries, int64_t k, double* squares,
                         int32_t* ids, int64_t stride, int64_t columns, int64_t* to_id,
                         T* to_distance) {
  SHARED_ROOM(room);
  const int64_t i = thread_number();
  if (i >= queries.m) return;
  Nearest best{squares + i, ids + i, stride, k, nowhere};
  if (!squares) {
    best.square = reinterpret_cast<double*>(room) + threadIdx.x;
    best.id = reinterpret_cast<int32_t*>(room + k * blockDim.x * sizeof(double)) + threadIdx.x;
    best.stride = blockDim.x;
  }
  double x[D];
  const int64_t row = queries.row(i, x);
  find_nearest(cloud, queries.range(row, cloud.leaves), x, best);
  to_id += row * columns;
  to_distance += row * columns;
  for (int64_t j = columns; j-- > best.count;) to_id[j] = -1, to_distance[j] = T(INFINITY);
  while (best.count > 0) {
    to_id[best.count - 1] = best.row(0);
    to_distance[best.count - 1] = static_cast<T>(sqrt(best.far(0)));
    best.drop();
  }
}

// How many points each query has within √limit, `most` at most, in the place after its row.
template <int D, class T>
__global__ void count_rows(Cloud<D, T> cloud, Queries<D, T> queries, double limit, int64_t most,
                           int64_t* rowptr) {
  const int64_t i = thread_number();
  if (i == 0) rowptr[0] = 0;
  if (i >= queries.m) return;
  double x[D];
  int64_t count = 0;
  const int64_t row = queries.row(i, x);
  const Range in = queries.range(row, cloud.leaves);
  if (!in.empty())
    look_around(cloud, in, 0, x, [&] { return limit; },
                [&](double square, int32_t) { count += square <= limit; });
  rowptr[row + 1] = min(count, most);
}

// Their keys (query, point), in no order.
template <int D, class T>
__global__ void fill_rows(Cloud<D, T> cloud, Queries<D, T> queries, double limit, int bits,
                          const int64_t* rowptr, uint64_t* key) {
  const int64_t i = thread_number();
  if (i >= queries.m) return;
  double x[D];
  const int64_t row = queries.row(i, x);
  const Range in = queries.range(row, cloud.leaves);
  if (in.empty()) return;
  uint64_t* to = key + rowptr[row];
  look_around(cloud, in, 0, x, [&] { return limit; }, [&](double square, int32_t id) {
    if (square <= limit) *to++ = uint64_t(row) << bits | uint64_t(id);
  });
}

// The same of the nearest only, as many as there is room for.
template <int D, class T>
__global__ void fill_nearest(Cloud<D, T> cloud, Queries<D, T> queries, double limit, int bits,
                             const int64_t* rowptr, double* squares, int32_t* ids, uint64_t* key) {
  const int64_t i = thread_number();
  if (i >= queries.m) return;
  double x[D];
  const int64_t row = queries.row(i, x), first = rowptr[row];
  Nearest best{squares + first, ids + first, 1, rowptr[row + 1] - first, limit};
  find_nearest(cloud, queries.range(row, cloud.leaves), x, best);
  for (int64_t j = 0; j < best.count; ++j)
    key[first + j] = uint64_t(row) << bits | uint64_t(best.row(j));
}

__global__ void low_bits(const uint64_t* key, int64_t n, int bits, int64_t* out) {
  const int64_t i = thread_number();
  if (i < n) out[i] = key[i] & ((uint64_t(1) << bits) - 1);
}

std::optional<Tensor> checked(const std::optional<Tensor>& batch, int64_t n, const char* name) {
  if (!batch) return {};
  const Tensor out = dense(*batch);
  check_rowptr(out, n, name);
  return out;
}

struct Given {
  Tensor points, queries;
  std::optional<Tensor> of_points, of_queries;
  int64_t n, m;

  Given(const Tensor& points_, const Tensor& queries_, const std::optional<Tensor>& batch_points,
        const std::optional<Tensor>& batch_queries)
      : points(dense(points_)), queries(dense(queries_)), n(0), m(0) {
    check_points(points, "points");
    check_device(queries, "queries");
    check_shape(queries, -1, points.size(1), "queries");
    check_dtype(queries, points.scalar_type(), "queries");
    check_points(queries, "queries");
    n = points.size(0);
    m = queries.size(0);
    if (batch_points.has_value() != batch_queries.has_value())
      bad_input("`batch_queries`: expected both batches or none");
    of_points = checked(batch_points, n, "batch_points");
    of_queries = checked(batch_queries, m, "batch_queries");
    if (of_points && of_points->size(0) != of_queries->size(0))
      bad_input("`batch_queries`: expected ", of_points->size(0),
                " offsets as for the points, got ", of_queries->size(0));
  }
};

template <int D, class T>
struct Search {
  const Given& in;
  const Frame frame;
  const CloudRoom<D, T> cloud;
  const Room<int32_t> order;

  explicit Search(const Given& in_)
      : in(in_),
        frame(frame_of<D, T>(in.points, "points")),
        cloud(in.points, frame, Batches(in.of_points, in.n)),
        order(order_of_queries()) {}

  Queries<D, T> queries() const {
    return {static_cast<const T*>(in.queries.const_data_ptr()), order.data, in.m,
            Batches(in.of_queries, in.m), Batches(in.of_points, in.n)};
  }

 private:
  Room<int32_t> order_of_queries() const {
    if (in.points.const_data_ptr() == in.queries.const_data_ptr() && in.n == in.m) return cloud.id;
    frame_of<D, T>(in.queries, "queries");  // are they finite?
    return order_of<D, T>(in.queries, frame, Batches(in.of_queries, in.m));
  }
};

template <int D, class T>
std::tuple<Tensor, Tensor> radius_of(const Given& in, double limit, std::optional<int64_t> most) {
  const Search<D, T> search(in);
  const Tensor rowptr = integers(in.points, {in.m + 1});
  int64_t* rows = numbers(rowptr);
  const auto cloud = search.cloud.view();
  const auto queries = search.queries();
  const unsigned blocks = blocks_of(in.m, searching);
  launch(in.points, count_rows<D, T>, std::max(blocks, 1u), searching, 0, cloud, queries, limit,
         most.value_or(INT64_MAX), rows);
  sum_up(in.points, rows, in.m + 1);
  const int64_t total = read_back(in.points, rows + in.m, 1)[0];
  Room<uint64_t> keys(in.points, total);
  const int bits = bits_of(in.n);
  if (most) {
    const Room<double> squares(in.points, total);
    const Room<int32_t> ids(in.points, total);
    launch(in.points, fill_nearest<D, T>, blocks, searching, 0, cloud, queries, limit, bits, rows,
           squares.data, ids.data, keys.data);
  } else {
    launch(in.points, fill_rows<D, T>, blocks, searching, 0, cloud, queries, limit, bits, rows,
           keys.data);
  }
  sort_keys(keys, bits + bits_of(in.m));
  const Tensor indices = integers(in.points, {total});
  launch(in.points, low_bits, blocks_of(total, 256), 256, 0, keys.data, total, bits,
         numbers(indices));
  return {rowptr, indices};
}

template <int D, class T>
std::tuple<Tensor, Tensor> knn_of(const Given& in, int64_t columns) {
  const Search<D, T> search(in);
  const Tensor indices = integers(in.points, {in.m, columns});
  const Tensor distances = torch::stable::new_empty(in.points, {in.m, columns});
  const int64_t k = std::min(columns, in.n);
  const bool shared = k <= most_shared;
  const Room<double> squares(in.points, shared ? 0 : in.m * k);
  const Room<int32_t> ids(in.points, shared ? 0 : in.m * k);
  launch(in.points, knn_rows<D, T>, blocks_of(in.m, searching), searching,
         shared ? k * searching * (sizeof(double) + sizeof(int32_t)) : 0, search.cloud.view(),
         search.queries(), k, shared ? nullptr : squares.data, ids.data, in.m, columns,
         numbers(indices), static_cast<T*>(distances.mutable_data_ptr()));
  return {indices, distances};
}

std::tuple<Tensor, Tensor> radius(Tensor points, Tensor queries, double r,
                                  std::optional<Tensor> batch_points,
                                  std::optional<Tensor> batch_queries,
                                  std::optional<int64_t> max_neighbors) {
  const Given in(points, queries, batch_points, batch_queries);
  if (!(r >= 0)) bad_input("`r`: expected a number >= 0, got ", r);
  if (max_neighbors && *max_neighbors < 0)
    bad_input("`max_neighbors`: expected >= 0, got ", *max_neighbors);
  return with_points(in.points, [&](auto t, auto dim) {
    return radius_of<decltype(dim)::value, decltype(t)>(in, r * r, max_neighbors);
  });
}

std::tuple<Tensor, Tensor> knn(Tensor points, Tensor queries, int64_t k,
                               std::optional<Tensor> batch_points,
                               std::optional<Tensor> batch_queries) {
  const Given in(points, queries, batch_points, batch_queries);
  if (k < 0) bad_input("`k`: expected >= 0, got ", k);
  if (k >= int64_t(1) << 31) bad_input("`k`: expected fewer than 2^31, got ", k);
  return with_points(in.points, [&](auto t, auto dim) {
    return knn_of<decltype(dim)::value, decltype(t)>(in, k);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("radius", TORCH_BOX(&radius));
  m.impl("knn", TORCH_BOX(&knn));
}

}  // namespace meshsim
