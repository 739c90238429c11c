// Parts of cells with the cells' numbers, for faces, see meshsim/ops/tables.py.
#pragma once

#include "tables/parts.h"

namespace meshsim {

// A face as a cell has it.
struct Spot {
  const int64_t *cell, *local;
  int64_t corners;

  int64_t node(int64_t i) const { return cell[local[i]]; }

  // Corners in the order of the cell, those that repeat the one before left out. Returns how many.
  int64_t read(int64_t* to) const {
    if (corners == 1) {
      to[0] = node(0);
      return 1;
    }
    if (corners == 3) {
      const int64_t x = node(0), y = node(1), z = node(2);
      if (x != y && y != z && x != z) {
        to[0] = x, to[1] = y, to[2] = z;
        return 3;
      }
    }
    int64_t n = 0, before = corners ? node(corners - 1) : 0;
    for (int64_t i = 0; i < corners; ++i) {
      const int64_t now = node(i);
      if (now != before) to[n++] = now;
      before = now;
    }
    return n;
  }
};

inline void sort_corners(int64_t* x, int64_t n) {
  if (n > 16) return std::sort(x, x + n);
  for (int64_t i = 1; i < n; ++i)
    for (int64_t j = i; j > 0 && x[j - 1] > x[j]; --j) std::swap(x[j - 1], x[j]);
}

// Rows are the faces of cells, counted through all parts; visits are cells by rising number.
class Listing {
 public:
  const std::vector<Part> parts;
  int64_t rows = 0, visits = 0, widest = 1;

  Listing(const std::vector<Tensor>& nodes, const std::vector<Tensor>& local,
          const std::vector<Tensor>& cells, int64_t points)
      : parts(parts_of(nodes, local, points)) {
    if (cells.size() != parts.size())
      bad_input("`cells`: expected ", parts.size(), " lists as for the nodes, got ", cells.size());
    int64_t last = 0;
    bool rising = true;
    for (size_t i = 0; i < parts.size(); ++i) {
      numbers_.push_back(dense(cells[i]));
      check_shape(numbers_[i], parts[i].cells, 0, "cells");
      check_index(numbers_[i], int64_t(1) << 31, "cells");
      const int64_t* const numbers = numbers_[i].const_data_ptr<int64_t>();
      for (int64_t c = 0; c < parts[i].cells; ++c) {
        rising &= last <= numbers[c];
        last = numbers[c];
      }
      pieces.emplace_back(parts[i], numbers, rows);
      first_row.push_back(rows);
      first_visit.push_back(visits);
      rows += parts[i].rows();
      visits += parts[i].cells;
      widest = std::max(widest, parts[i].corners);
    }
    if (rows >= int64_t(1) << 32)
      bad_input("`nodes`: expected fewer than 2^32 faces of cells, got ", rows);
    if (!rising) sort();
  }

  // Calls work(part, cell, end of cells, row of the first's first face) for cells that lie side
  // by side, in the order of visits.
  template <class Work>
  void each_run(int64_t first, int64_t last, const Work& work) const {
    if (order.empty())
      for (size_t p = 0; p < parts.size(); ++p) {
        const int64_t from = std::max<int64_t>(first - first_visit[p], 0);
        const int64_t to = std::min(last - first_visit[p], parts[p].cells);
        if (from < to) work(p, from, to, first_row[p] + from * parts[p].count);
      }
    else
      for (int64_t v = first; v < last; ++v) {
        const auto [p, c] = visited(v);
        work(p, c, c + 1, first_row[p] + c * parts[p].count);
      }
  }

  // Calls work(part, cell, row of its first face).
  template <class Work>
  void each_cell(int64_t first, int64_t last, const Work& work) const {
    each_run(first, last, [&](size_t p, int64_t c, int64_t end, int64_t row) {
      for (; c < end; ++c, row += parts[p].count) work(p, c, row);
    });
  }

  int32_t number(size_t p, int64_t c) const { return static_cast<int32_t>(pieces[p].numbers[c]); }
  int32_t number_at(int64_t visit) const {
    const auto [p, c] = visited(visit);
    return number(p, c);
  }
  int32_t number_of(uint32_t row) const {
    const Piece& piece = holder(row);
    return static_cast<int32_t>(piece.numbers[piece.cell(row - piece.first_row)]);
  }
  Spot spot(uint32_t row) const {
    const Piece& piece = holder(row);
    const uint32_t within = row - piece.first_row, c = piece.cell(within);
    return {piece.nodes + c * piece.width,
            piece.local + (within - c * piece.count) * piece.corners, piece.corners};
  }

 private:
  // What is looked up for a row of a part, side by side.
  struct Piece {
    const int64_t *nodes, *local, *numbers;
    int64_t width, corners;
    uint64_t inverse;  // 2^64 / count, rounded up: a product takes a fraction of a division's time
    uint32_t count, first_row;

    Piece(const Part& part, const int64_t* numbers_, int64_t row)
        : nodes(part.nodes), local(part.local), numbers(numbers_), width(part.width),
          corners(part.corners), inverse(part.count > 1 ? ~uint64_t(0) / part.count + 1 : 0),
          count(static_cast<uint32_t>(part.count)), first_row(static_cast<uint32_t>(row)) {}

    uint32_t cell(uint32_t row) const {
      return inverse ? static_cast<uint32_t>(static_cast<unsigned __int128>(inverse) * row >> 64)
                     : row;
    }
  };

  std::vector<Tensor> numbers_;
  std::vector<Piece> pieces;
  std::vector<int64_t> first_row, first_visit;
  std::vector<Keyed> order;  // empty where the parts' own order is rising

  const Piece& holder(uint32_t row) const {
    const Piece* piece = &pieces.back();
    while (piece->first_row > row) --piece;
    return *piece;
  }

  std::pair<size_t, int64_t> visited(int64_t visit) const {
    const int64_t i = order.empty() ? visit : order[visit].id;
    size_t p = first_visit.size() - 1;
    while (first_visit[p] > i) --p;
    return {p, i - first_visit[p]};
  }

  void sort() {
    order.reserve(visits);
    for (size_t p = 0; p < parts.size(); ++p)
      for (int64_t c = 0; c < parts[p].cells; ++c)
        order.push_back({static_cast<uint64_t>(number(p, c)), first_visit[p] + c});
    sort_by_key(order);
  }
};

}  // namespace meshsim
