// Neighbours within a radius, see meshsim/ops/neighbors.py.
//
// Looked for by the cells of a grid as coarse as the radius, or, where such cells are too many to
// number, in a tree. Queries go by cell or by leaf, those of one together.
#include "neighbors/grid.h"
#include "neighbors/search.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace meshsim {

constexpr int64_t few = 1024;  // numbers that are put in order by counting

// Points near a cell, relative to its centre and in units of the radius: (D, stride) and numbers.
struct Close {
  float* at;
  int32_t* id;
  int64_t count, stride;
  bool rising;
};

// Who asks: queries (D, stride). `limit` is the square of the radius, `scale` one over it.
template <class T>
struct Asked {
  const T *points, *at, *centre;
  int64_t stride;
  T scale;
  double limit;
};

}  // namespace meshsim

#define MESHSIM_KERNELS "neighbors/radius_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

constexpr int64_t queries_a_chunk = groups_a_chunk * leaf_size;

// Whether to put `n` points near a cell in order once, not what each of its `m` queries finds.
template <int D>
bool rising_pays(int64_t n, int64_t m) {
  constexpr double share = D == 1 ? 1.5 : D == 2 ? 2.9 : 6.4;  // of cells looked at to a ball
  const double found = n / share, each_row = found * (found / 16 + 1) * 2.5;
  return n > 64 && n * std::log2(n) * 8.0 < m * each_row;
}

template <int D, class T>
class Radius {
 public:
  Radius(const Given& in_, double r, std::optional<int64_t> most_)
      : in(in_), points(in.points.const_data_ptr<T>()), queries(in.queries.const_data_ptr<T>()),
        limit(r * r), most(most_) {}

  // Looks by the cells of a grid.
  std::tuple<Tensor, Tensor> operator()(const Grid<D, T>& grid) {
    const ByCell<D, T>& by = grid.queries();
    return rows(by.id.data(), by.start.back(), [&](int64_t chunk, Row& row) {
      row.all.reserve(32 * queries_a_chunk);
      typename Grid<D, T>::Sweep sweep(grid);
      const int64_t end = std::min(by.start.back(), queries_a_chunk * (chunk + 1));
      int64_t i = queries_a_chunk * chunk;
      for (int64_t c = by.cell_with(i); i < end; ++c) {
        const int64_t last = std::min(end, by.start[c + 1]);
        Run runs[Grid<D, T>::runs];
        sweep.to(by.key[c], runs);
        cell(grid, runs, i, last - i, row);
        i = last;
      }
    });
  }

  // Looks by the leaves of trees.
  std::tuple<Tensor, Tensor> operator()(const Trees<D, T>& trees) {
    const Forest<D>& asking = trees.queries();
    return rows(asking.id.data, asking.leaves() * leaf_size, [&](int64_t chunk, Row& row) {
      Gathered<D> near;
      const int64_t end = std::min(asking.leaves(), groups_a_chunk * (chunk + 1));
      for (int64_t g = groups_a_chunk * chunk; g < end; ++g) group(trees, g, near, row);
    });
  }

 private:
  const Given& in;
  const T *points, *queries;
  const double limit;
  const std::optional<int64_t> most;

  // Neighbours found by a chunk, query after query, and how many each has.
  struct Row {
    std::vector<int32_t> all;
    int64_t* counts;
  };

  // Calls look(chunk, row) for chunks of the queries in some order; those numbered −1 are none.
  template <class Look>
  std::tuple<Tensor, Tensor> rows(const int32_t* order, int64_t size, const Look& look) {
    const int64_t chunks = (size + queries_a_chunk - 1) / queries_a_chunk;
    Tensor rowptr = torch::stable::full({in.m + 1}, 0.0, ScalarType::Long);
    int64_t* to = rowptr.template mutable_data_ptr<int64_t>();
    std::vector<Row> found(chunks, Row{{}, to + 1});
    each(chunks, [&](int64_t c) { look(c, found[c]); });
    for (int64_t i = 0; i < in.m; ++i) to[i + 1] += to[i];
    Tensor indices = integers({to[in.m]});
    int64_t* out = indices.template mutable_data_ptr<int64_t>();
    each(chunks, [&](int64_t c) {
      const int32_t* from = found[c].all.data();
      const int64_t end = std::min(size, queries_a_chunk * (c + 1));
      for (int64_t i = queries_a_chunk * c; i < end; ++i) {
        if (i + 16 < end) __builtin_prefetch(to + order[i + 16]);
        if (i + 8 < end && order[i + 8] >= 0) __builtin_prefetch(out + to[order[i + 8]], 1);
        if (order[i] < 0) continue;
        const int64_t first = to[order[i]], n = to[order[i] + 1] - first;
        for (int64_t j = 0; j < n; ++j) out[first + j] = from[j];
        from += n;
      }
      found[c].all = {};
    });
    return {rowptr, indices};
  }

  // Adds what some queries have found; the `most` nearest where that is asked for. Lists of few
  // are in order, others where they are `rising`.
  void add(Row& row, const int32_t* id, int64_t m, int32_t* list, const int64_t* sizes,
           bool rising) const {
    for (int64_t i = 0; i < m; list += sizes[i++]) {
      int64_t n = sizes[i];
      bool ordered = rising || n <= few;
      if (most && n > *most) {
        choose(list, n, id[i]);
        n = *most;
        ordered = false;
      }
      if (!ordered) std::sort(list, list + n);
      row.all.insert(row.all.end(), list, list + n);
      row.counts[id[i]] = n;
    }
  }

  // Puts the `most` nearest to the front.
  void choose(int32_t* list, int64_t n, int64_t query) const {
    std::vector<Pair> pairs(n);
    for (int64_t j = 0; j < n; ++j) pairs[j] = {square(list[j], query), list[j]};
    std::nth_element(pairs.begin(), pairs.begin() + *most, pairs.end());
    for (int64_t j = 0; j < *most; ++j) list[j] = pairs[j].second;
  }

  double square(int64_t point, int64_t query) const {
    double sum = 0.0;
    for (int d = 0; d < D; ++d) {
      const double side = double(points[point * D + d]) - double(queries[query * D + d]);
      sum += side * side;
    }
    return sum;
  }

  // Queries i..i + m - 1 of one cell, which all look at the same points.
  void cell(const Grid<D, T>& grid, const Run* runs, int64_t i, int64_t m, Row& row) const {
    int64_t count = 0;
    for (int r = 0; r < Grid<D, T>::runs; ++r) count += runs[r].last - runs[r].first;
    if (!count) return;
    const ByCell<D, T>&points_ = grid.points, &by = grid.queries();
    const int64_t stride = (count + 47) / 16 * 16;
    float* at = thread_scratch<float>((D + 1) * stride);
    Close near{at, reinterpret_cast<int32_t*>(at + D * stride), count, stride, false};
    T centre[D];
    for (int d = 0; d < D; ++d) centre[d] = by.at.data[d * by.stride + i];
    const T scale = static_cast<T>(grid.scale);
    MESHSIM_DISPATCH(gather_runs<D>(points_.at.data, points_.id.data(), points_.stride, runs,
                                    Grid<D, T>::runs, centre, scale, near));
    if (rising_pays<D>(count, m)) rise(near);
    const int64_t at_once = std::max<int64_t>(1, (1 << 16) / count);
    for (const int64_t end = i + m; i < end; i += at_once) {
      const int64_t some = std::min(at_once, end - i);
      int32_t* list = thread_scratch<int32_t, 1>((some + 1) * stride + 16);
      int64_t* sizes = thread_scratch<int64_t, 2>(some);
      const Asked<T> asked{points, by.at.data + i, centre, by.stride, scale, limit};
      MESHSIM_DISPATCH(scan_close<D>(near, asked, some, list, list + stride, sizes));
      add(row, by.id.data() + i, some, list + stride, sizes, near.rising);
    }
  }

  static void rise(Close& near) {
    const int64_t n = near.count;
    uint64_t* order = thread_scratch<uint64_t, 1>(n + n / 2 + 1);  // number, then place
    for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint64_t>(near.id[i]) << 32 | i;
    std::sort(order, order + n);
    float* x = reinterpret_cast<float*>(order + n);
    for (int d = 0; d < D; ++d) {
      float* at = near.at + d * near.stride;
      std::copy_n(at, n, x);
      for (int64_t i = 0; i < n; ++i) at[i] = x[order[i] & 0xffffffff];
    }
    for (int64_t i = 0; i < n; ++i) near.id[i] = static_cast<int32_t>(order[i] >> 32);
    near.rising = true;
  }

  void group(const Trees<D, T>& trees, int64_t g, Gathered<D>& near, Row& row) const {
    const Forest<D>& asking = trees.queries();
    const Subtree& root = trees.points.roots[asking.batch_of[g]];
    const int64_t size = asking.size_of[g];
    if (!root.leaves || gap(trees.points.boxes[root.node], asking.leaf_boxes[g]) > limit) return;
    trees.points.near(root, asking.leaf_boxes[g], limit, 0, 0, near.leaves);
    if (near.leaves.size() <= shared_leaves) return leaf(trees, g, 0, size, near, row);
    for (int64_t i = 0; i < size; ++i) {
      trees.points.near(root, around<D>(asking.leaf_at(g), i), limit, 0, 0, near.leaves);
      leaf(trees, g, i, i + 1, near, row);
    }
  }

  void leaf(const Trees<D, T>& trees, int64_t g, int64_t first, int64_t last, Gathered<D>& near,
            Row& row) const {
    const int32_t* id = trees.queries().leaf_id(g);
    const Candidates some = near.from(trees.points);
    int32_t* list =
        thread_scratch<int32_t>((last - first) * some.count * leaf_size + some.stride + 48);
    int32_t* found = list + some.stride + 16;
    int64_t sizes[leaf_size];
    MESHSIM_DISPATCH(scan_within<D>(some, trees.queries().leaf_at(g), first, last, limit, list,
                                    found, sizes));
    add(row, id + first, last - first, found, sizes + first, false);
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
    using T = decltype(t);
    constexpr int D = decltype(dim)::value;
    const T *x = in.points.const_data_ptr<T>(), *asking = in.queries.const_data_ptr<T>();
    Radius<D, T> search(in, r, max_neighbors);
    if (const auto shape = Shape<D>::of(x, in.n, in.of_points.size() - 1, r))
      return search(Grid<D, T>(*shape, x, in.of_points, asking, in.of_queries));
    return search(Trees<D, T>(in));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) { m.impl("radius", TORCH_BOX(&radius)); }

}  // namespace meshsim
