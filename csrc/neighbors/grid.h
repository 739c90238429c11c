// Points by the cells of a regular grid, for searches within a radius: cells are no smaller than
// it, so that all neighbours lie in the cell of a query or beside it.
//
// Cells are sorted by their numbers and empty ones take no room, so that grading costs nothing.
// Points of one cell are often neighbours: what is looked at in vain stays in proportion to what
// is found, wherever the points crowd.
#pragma once

#include "geometry.h"

namespace meshsim {

struct Run {
  int64_t first, last;  // places of points, cell by cell
};

// How cells are numbered: along x, then y, then z, then by batch, an empty one at either end.
template <int D>
struct Shape {
  double lo[D], inverse, scale;  // 1 / side of a cell, 1 / radius
  int64_t cells[D], outside;     // how many along each axis and in all

  // None where cells as small as the radius are too many, or squares might vanish or overflow.
  template <class T>
  static std::optional<Shape> of(const T* x, int64_t n, int64_t batches, double r) {
    constexpr double most = sizeof(T) == 4 ? 1e30 : 1e140;
    if (n == 0 || !(r > 1.0 / most && r < most)) return {};
    Shape out;
    out.scale = 1.0 / r;
    out.inverse = 1.0 / (r * (1.0 + 1e-6));  // what rounds to just within r is not two cells away
    T low[D], high[D];
    for (int d = 0; d < D; ++d) low[d] = high[d] = x[d];
    for (int64_t i = 0; i < n; ++i)
      for (int d = 0; d < D; ++d) {
        low[d] = std::min(low[d], x[i * D + d]);
        high[d] = std::max(high[d], x[i * D + d]);
      }
    out.outside = batches;
    for (int d = 0; d < D; ++d) {
      out.lo[d] = low[d];
      const double sides = (double(high[d]) - double(low[d])) * out.inverse;
      if (!(sides < 1 << 20)) return {};
      out.cells[d] = static_cast<int64_t>(sides) + 3;
      if (__builtin_mul_overflow(out.outside, out.cells[d], &out.outside)) return {};
    }
    return out;
  }

  // The number of a point's cell; `outside` for queries too far from all points.
  template <class T>
  int64_t cell_of(const T* x, int64_t batch) const {
    int64_t key = batch;
    for (int d = D - 1; d >= 0; --d) {
      const double along = (x[d] - lo[d]) * inverse + 1.0;
      if (!(along >= 0.0 && along < static_cast<double>(cells[d]))) return outside;
      key = key * cells[d] + static_cast<int64_t>(along);
    }
    return key;
  }
};

// Items (points or queries) by cell, rising within one.
template <int D, class T>
struct ByCell {
  std::vector<int64_t> key, start;  // of cells; `start` has one more, `key` four that end it
  std::vector<int32_t> id;          // of items; 16 more may be read
  Buffer<T> at;                     // (D, stride) their coordinates
  const int64_t stride;

  // Batch b has the items offsets[b]..offsets[b + 1] of `x` (n, D).
  ByCell(const Shape<D>& shape, const T* x, const std::vector<int64_t>& offsets)
      : id(offsets.back() + 16), at(D * (offsets.back() + 16)), stride(offsets.back() + 16) {
    const int64_t n = offsets.back(), pieces = pieces_of(n);
    std::vector<Keyed> items(n);
    each(pieces, [&](int64_t p) {
      const int64_t from = n * p / pieces, to = n * (p + 1) / pieces;
      int64_t batch = std::upper_bound(offsets.begin(), offsets.end(), from) - offsets.begin() - 1;
      for (int64_t i = from; i < to; ++i) {
        while (i >= offsets[batch + 1]) ++batch;
        items[i] = {static_cast<uint64_t>(shape.cell_of(x + i * D, batch)), i};
      }
    });
    sort_by_key(items);
    each(pieces, [&](int64_t p) {
      for (int64_t i = n * p / pieces; i < n * (p + 1) / pieces; ++i) {
        id[i] = static_cast<int32_t>(items[i].id);
        for (int d = 0; d < D; ++d) at.data[d * stride + i] = x[items[i].id * D + d];
      }
    });
    for (int d = 0; d < D; ++d) std::fill_n(at.data + d * stride + n, 16, T(0));
    int64_t last = -1, i = 0;
    for (; i < n; ++i) {
      const int64_t mine = static_cast<int64_t>(items[i].key);
      if (mine == shape.outside) break;
      if (mine == last) continue;
      key.push_back(mine);
      start.push_back(i);
      last = mine;
    }
    start.push_back(i);
    key.insert(key.end(), 4, std::numeric_limits<int64_t>::max());
  }
  int64_t cells() const { return static_cast<int64_t>(start.size()) - 1; }
  int64_t cell_with(int64_t item) const {
    return std::upper_bound(start.begin(), start.end(), item) - start.begin() - 1;
  }
};

template <int D, class T>
class Grid : public Shape<D> {
 public:
  static constexpr int runs = D == 1 ? 1 : D == 2 ? 3 : 9;  // three cells in a line each

  ByCell<D, T> points;
  std::optional<ByCell<D, T>> others;

  Grid(const Shape<D>& shape, const T* x, const std::vector<int64_t>& of_points, const T* asking,
       const std::vector<int64_t>& of_queries)
      : Shape<D>(shape), points(shape, x, of_points) {
    if (x != asking || of_points != of_queries) others.emplace(shape, asking, of_queries);
  }
  const ByCell<D, T>& queries() const { return others ? *others : points; }

  // Goes through cells of queries in rising order, those of points beside them along with it.
  class Sweep {
   public:
    explicit Sweep(const Grid& grid_) : grid(grid_) {
      for (int i = 0; i < runs; ++i) {
        const int64_t y = D == 3 ? i % 3 - 1 : i - 1, z = i / 3 - 1;
        shift[i] = D == 1 ? 0 : (D == 3 ? z * grid.cells[D > 1] + y : y) * grid.cells[0];
      }
    }

    // The runs with points beside a cell; returns how many. No branches where the next cell is
    // near: where the rows of cells beside it have points is what no processor can guess.
    int to(int64_t key, Run* out) {
      const int64_t *keys = grid.points.key.data(), *start = grid.points.start.data();
      int some = 0;
      for (int i = 0; i < runs; ++i) {
        const int64_t low = key + shift[i] - 1, high = low + 2;
        int64_t first = place[i];
        const int64_t* next = keys + first;
        first += (next[0] < low) + (next[1] < low) + (next[2] < low) + (next[3] < low);
        if (keys[first] < low)
          first = std::lower_bound(keys + first, keys + grid.points.cells(), low) - keys;
        next = keys + first;
        const int64_t last = first + (next[0] <= high) + (next[1] <= high) + (next[2] <= high);
        out[some] = {start[first], start[last]};
        some += first < last;
        place[i] = first;
      }
      return some;
    }

   private:
    const Grid& grid;
    int64_t shift[runs], place[runs] = {};
  };
};

}  // namespace meshsim
