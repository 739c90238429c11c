// Neighbours within a radius, see meshsim/ops/neighbors.py.
//
// Looked for by the cells of a grid as coarse as the radius, or, where such cells are too many to
// number, in a tree. Queries go by cell or by leaf, those of one together.
#include "neighbors/grid.h"
#include "neighbors/search.h"

#include <memory>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace meshsim {

constexpr int64_t few = 256;  // numbers that are put in order by counting those before each

constexpr int64_t at_once = 16;  // points of a run: its end is looked for after so many

// The neighbours of a query, rising.
struct Found {
  const int32_t* at;
  int64_t count;
};

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

// Numbers one after another; what follows them may be read.
struct List {
  std::unique_ptr<int32_t[]> data;
  int64_t size = 0, capacity = 0;

  int32_t* end() { return data.get() + size; }

  // Where to write `n` more, and some beyond them.
  int32_t* room(int64_t n) {
    constexpr int64_t beyond = 32;
    if (size + n + beyond > capacity) {
      capacity = std::max(32 * queries_a_chunk, 2 * size + n + beyond);
      auto larger = std::make_unique_for_overwrite<int32_t[]>(capacity);
      std::copy_n(data.get(), size, larger.get());
      data = std::move(larger);
    }
    return end();
  }
};

// Puts things in order by their numbers, eight bits at a time: where there are many, comparing them
// costs more.
template <class Item, class Number>
void sort_many(Item* items, Item* spare, int64_t n, const Number& number) {
  uint32_t differ = 0;
  for (int64_t i = 1; i < n; ++i) differ |= number(items[i]) ^ number(items[0]);
  Item *from = items, *to = spare;
  for (int shift = 0; shift < 32; shift += 8) {
    if (!(differ >> shift & 255)) continue;
    int64_t place[256] = {}, sum = 0;
    for (int64_t i = 0; i < n; ++i) ++place[number(from[i]) >> shift & 255];
    for (int64_t& count : place) sum += std::exchange(count, sum);
    for (int64_t i = 0; i < n; ++i) to[place[number(from[i]) >> shift & 255]++] = from[i];
    std::swap(from, to);
  }
  if (from != items) std::copy_n(from, n, items);
}

void sort_row(int32_t* row, int64_t n) {
  const auto number = [](int32_t id) { return static_cast<uint32_t>(id); };
  if (n <= few) return std::sort(row, row + n);
  sort_many(row, thread_scratch<int32_t, 2>(n), n, number);
}

// Whether to put `n` points near a cell in order once, not what each of its `m` queries finds.
template <int D>
bool rising_pays(int64_t n, int64_t m) {
  constexpr double share = D == 1 ? 1.5 : D == 2 ? 2.9 : 6.4;  // of cells looked at to a ball
  const double found = n / share, each_row = found * std::min(found / 12 + 3, 24.0);
  return n > 64 && n * 20.0 + 1500.0 < m * each_row;
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
      typename Grid<D, T>::Sweep sweep(grid);
      const int64_t end = std::min(by.start.back(), queries_a_chunk * (chunk + 1));
      int64_t i = queries_a_chunk * chunk;
      for (int64_t c = by.cell_with(i); i < end; ++c) {
        const int64_t last = std::min(end, by.start[c + 1]);
        Run runs[Grid<D, T>::runs];
        const int some = sweep.to(by.key[c], runs);
        cell(grid, runs, some, i, last - i, row, row.counts + i - queries_a_chunk * chunk);
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
      for (int64_t g = groups_a_chunk * chunk; g < end; ++g)
        group(trees, g, near, row, row.counts + (g - groups_a_chunk * chunk) * leaf_size);
    });
  }

 private:
  const Given& in;
  const T *points, *queries;
  const double limit;
  const std::optional<int64_t> most;

  // Neighbours found by a chunk, query after query, and how many each has.
  struct Row {
    List& list;
    int64_t counts[queries_a_chunk] = {};
  };

  // Calls look(chunk, row) for chunks of the queries in some order; those numbered −1 are none.
  template <class Look>
  std::tuple<Tensor, Tensor> rows(const int32_t* order, int64_t size, const Look& look) {
    const int64_t chunks = (size + queries_a_chunk - 1) / queries_a_chunk;
    std::vector<List> lists(chunks);
    std::vector<Found> found(in.m);
    each(chunks, [&](int64_t c) {
      Row row{lists[c]};
      look(c, row);
      const int32_t* at = row.list.data.get();
      const int64_t first = queries_a_chunk * c, n = std::min(size - first, queries_a_chunk);
      for (int64_t i = 0; i < n; at += row.counts[i++]) {
        if (i + 8 < n) __builtin_prefetch(&found[std::max(order[first + i + 8], 0)], 1);
        if (order[first + i] >= 0) found[order[first + i]] = {at, row.counts[i]};
      }
    });
    Tensor rowptr = integers({in.m + 1});
    int64_t* to = rowptr.template mutable_data_ptr<int64_t>();
    to[0] = 0;
    for (int64_t i = 0; i < in.m; ++i) to[i + 1] = to[i] + found[i].count;
    Tensor indices = integers({to[in.m]});
    int64_t* out = indices.template mutable_data_ptr<int64_t>();
    const int64_t pieces = (in.m + queries_a_chunk - 1) / queries_a_chunk;
    each(pieces, [&](int64_t p) {
      const int64_t first = queries_a_chunk * p, last = std::min(in.m, first + queries_a_chunk);
      MESHSIM_DISPATCH(widen_rows(found.data(), to, first, last, out));
    });
    return {rowptr, indices};
  }

  // Adds what some queries have found, put where the list ends to save a copy; the `most` nearest where
  // that is asked for. Lists of few are in order, others where they are `rising`.
  void add(Row& row, const int32_t* id, int64_t m, int64_t* sizes, bool rising) const {
    int32_t *from = row.list.end(), *to = from;
    for (int64_t i = 0; i < m; ++i) {
      int64_t n = sizes[i];
      int32_t* list = from;
      from += n;
      bool ordered = rising || n <= few;
      if (most && n > *most) {
        choose(list, n, id[i]);
        n = sizes[i] = *most;
        ordered = false;
      }
      if (!ordered) sort_row(list, n);
      if (to != list) std::copy_n(list, n, to);
      to += n;
    }
    row.list.size = to - row.list.data.get();
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
  void cell(const Grid<D, T>& grid, const Run* runs, int n_runs, int64_t i, int64_t m, Row& row,
            int64_t* sizes) const {
    int64_t count = 0;
    for (int r = 0; r < n_runs; ++r) count += runs[r].last - runs[r].first;
    if (!count) return;
    const ByCell<D, T>&points_ = grid.points, &by = grid.queries();
    const int64_t stride = (count + 47) / 16 * 16;
    float* at = thread_scratch<float>((D + 1) * stride);
    Close near{at, reinterpret_cast<int32_t*>(at + D * stride), count, stride, false};
    T centre[D];
    for (int d = 0; d < D; ++d) centre[d] = by.at.data[d * by.stride + i];
    const T scale = static_cast<T>(grid.scale);
    MESHSIM_DISPATCH(gather_runs<D>(points_.at.data, points_.id.data(), points_.stride, runs,
                                    n_runs, centre, scale, near));
    if (rising_pays<D>(count, m)) rise(near);
    int32_t* room = thread_scratch<int32_t, 1>(stride);
    const int64_t queries_at_once = std::max<int64_t>(1, (1 << 16) / count);
    for (const int64_t end = i + m; i < end; i += queries_at_once, sizes += queries_at_once) {
      const int64_t some = std::min(queries_at_once, end - i);
      int32_t* list = row.list.room(some * count);
      const Asked<T> asked{points, by.at.data + i, centre, by.stride, scale, limit};
      MESHSIM_DISPATCH(scan_close<D>(near, asked, some, room, list, sizes));
      add(row, by.id.data() + i, some, sizes, near.rising);
    }
  }

  static void rise(Close& near) {
    const int64_t n = near.count;
    uint64_t* order = thread_scratch<uint64_t, 1>(2 * n);  // number, then place
    for (int64_t i = 0; i < n; ++i) order[i] = static_cast<uint64_t>(near.id[i]) << 32 | i;
    sort_many(order, order + n, n, [](uint64_t x) { return static_cast<uint32_t>(x >> 32); });
    float* x = reinterpret_cast<float*>(order + n);
    for (int d = 0; d < D; ++d) {
      float* at = near.at + d * near.stride;
      std::copy_n(at, n, x);
      for (int64_t i = 0; i < n; ++i) at[i] = x[order[i] & 0xffffffff];
    }
    for (int64_t i = 0; i < n; ++i) near.id[i] = static_cast<int32_t>(order[i] >> 32);
    near.rising = true;
  }

  void group(const Trees<D, T>& trees, int64_t g, Gathered<D>& near, Row& row,
             int64_t* sizes) const {
    const Forest<D>& asking = trees.queries();
    const Subtree& root = trees.points.roots[asking.batch_of[g]];
    const int64_t size = asking.size_of[g];
    if (!root.leaves || gap(trees.points.boxes[root.node], asking.leaf_boxes[g]) > limit) return;
    trees.points.near(root, asking.leaf_boxes[g], limit, 0, 0, near.leaves);
    if (near.leaves.size() <= shared_leaves) return leaf(trees, g, 0, size, near, row, sizes);
    for (int64_t i = 0; i < size; ++i) {
      trees.points.near(root, around<D>(asking.leaf_at(g), i), limit, 0, 0, near.leaves);
      leaf(trees, g, i, i + 1, near, row, sizes);
    }
  }

  void leaf(const Trees<D, T>& trees, int64_t g, int64_t first, int64_t last, Gathered<D>& near,
            Row& row, int64_t* sizes) const {
    const int32_t* id = trees.queries().leaf_id(g);
    const Candidates some = near.from(trees.points);
    int32_t* leaves = thread_scratch<int32_t>(some.stride + 16);
    int32_t* list = row.list.room((last - first) * some.count * leaf_size);
    MESHSIM_DISPATCH(scan_within<D>(some, trees.queries().leaf_at(g), first, last, limit, leaves,
                                    list, sizes));
    add(row, id + first, last - first, sizes + first, false);
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
