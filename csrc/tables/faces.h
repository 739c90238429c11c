// Faces of cells, each once, see meshsim/ops/tables.py.
//
// Cells are gone through by rising number. The first that has a face owns it; the next finds it in
// a table that has room for each point's faces (those with that point as lowest corner) side by
// side: where the numbering of points keeps neighbours close, so does the table.
#pragma once

#include "tables/parts.h"

#include <cstdlib>
#include <memory>

namespace meshsim {

// A face as its owner sees it: its corners in rising order are `lowest`, the halves of `key` and
// `rest`, as far as it has so many; of five and more, `rest` stands for all beyond the third.
struct Face {
  uint64_t key;
  uint32_t rest;
  int32_t lowest, owner, neighbour;
  uint32_t row, other;  // of the owner and the neighbour, counted through all parts
};

constexpr uint32_t many_corners = uint32_t(1) << 31;  // set in `rest` of five and more

struct Tally {
  int64_t faces = 0, corners = 0, rows = 0;

  void add(int64_t f, int64_t c, int64_t r) { faces += f, corners += c, rows += r; }
};

// Memory that reads as zeros.
template <class T>
struct Zeroed {
  T* data;
  explicit Zeroed(int64_t n) : data(static_cast<T*>(std::calloc(std::max<int64_t>(n, 1), sizeof(T)))) {
    if (!data) throw std::bad_alloc();
    large_pages(data, n * sizeof(T));
  }
  ~Zeroed() { std::free(data); }
  Zeroed(const Zeroed&) = delete;
  Zeroed& operator=(const Zeroed&) = delete;
};

// Parts of cells with their numbers, and the order in which these rise.
class Listing {
 public:
  const std::vector<Part> parts;
  int64_t n_cells = 0, rows = 0, widest = 1;

  Listing(const std::vector<Tensor>& nodes, const std::vector<Tensor>& local,
          const std::vector<Tensor>& cells, int64_t points)
      : parts(parts_of(nodes, local, points)) {
    if (cells.size() != parts.size())
      bad_input("`cells`: expected ", parts.size(), " lists as for the nodes, got ", cells.size());
    int64_t last = 0, visits = 0;
    bool rising = true;
    for (size_t i = 0; i < parts.size(); ++i) {
      numbers_.push_back(dense(cells[i]));
      check_shape(numbers_[i], parts[i].cells, 0, "cells");
      check_index(numbers_[i], int64_t(1) << 31, "cells");
      numbers.push_back(numbers_[i].const_data_ptr<int64_t>());
      for (int64_t c = 0; c < parts[i].cells; ++c) {
        rising &= last <= numbers[i][c];
        last = numbers[i][c];
        n_cells = std::max(n_cells, last + 1);
      }
      first_row.push_back(rows);
      first_visit.push_back(visits);
      rows += parts[i].rows();
      visits += parts[i].cells;
      widest = std::max(widest, parts[i].corners);
    }
    if (rows >= int64_t(1) << 32)
      bad_input("`nodes`: expected fewer than 2^32 faces of cells, got ", rows);
    if (!rising) sort(visits);
  }

  // Calls work(part, cell, number, row of its first face) by rising number, then row.
  template <class Work>
  void each_cell(const Work& work) const {
    const auto visit = [&](size_t p, int64_t c) {
      work(parts[p], c, static_cast<int32_t>(numbers[p][c]), first_row[p] + c * parts[p].count);
    };
    if (order.empty())
      for (size_t p = 0; p < parts.size(); ++p)
        for (int64_t c = 0; c < parts[p].cells; ++c) visit(p, c);
    for (const Keyed& item : order) {
      const size_t p = holder(first_visit, item.id);
      visit(p, item.id - first_visit[p]);
    }
  }

  // Corners in the order of the cell, those that repeat the one before left out. Returns how many.
  static int64_t corners_of(const Part& part, int64_t c, int64_t j, int64_t* to) {
    const int64_t *cell = part.nodes + c * part.width, *local = part.local + j * part.corners;
    const int64_t k = part.corners;
    if (k == 1) {
      to[0] = cell[local[0]];
      return 1;
    }
    int64_t n = 0, before = k ? cell[local[k - 1]] : 0;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t node = cell[local[i]];
      if (node != before) to[n++] = node;
      before = node;
    }
    return n;
  }
  int64_t corners_of(uint32_t row, int64_t* to) const {
    const size_t p = holder(first_row, row);
    const uint32_t within = static_cast<uint32_t>(row - first_row[p]);
    const uint32_t count = static_cast<uint32_t>(parts[p].count);
    return corners_of(parts[p], within / count, within % count, to);
  }

 private:
  std::vector<Tensor> numbers_;
  std::vector<const int64_t*> numbers;
  std::vector<int64_t> first_row, first_visit;
  std::vector<Keyed> order;  // empty where the parts' own order is rising

  static size_t holder(const std::vector<int64_t>& first, int64_t i) {
    size_t p = first.size() - 1;
    while (first[p] > i) --p;
    return p;
  }

  void sort(int64_t visits) {
    order.reserve(visits);
    for (size_t p = 0; p < parts.size(); ++p)
      for (int64_t c = 0; c < parts[p].cells; ++c)
        order.push_back({static_cast<uint64_t>(numbers[p][c]), first_visit[p] + c});
    sort_by_key(order);
  }
};

inline void sort_corners(int64_t* x, int64_t n) {
  if (n > 16) return std::sort(x, x + n);
  for (int64_t i = 1; i < n; ++i)
    for (int64_t j = i; j > 0 && x[j - 1] > x[j]; --j) std::swap(x[j - 1], x[j]);
}

// The faces whose lowest corner lies in a range of points, by rising owner.
class FaceTable {
 public:
  std::unique_ptr<Buffer<Face>> faces;
  int64_t size = 0;
  std::vector<std::pair<uint32_t, uint32_t>> more;  // (face, row) of third and further cells
  std::vector<std::array<Tally, 2>> tallies;        // internal ones and boundary, by owner

  FaceTable(const Listing& listing_, int64_t first_, int64_t last_, int64_t at_least_, int shift_)
      : tallies((listing_.n_cells >> shift_) + 1), listing(listing_), first(first_),
        points(last_ - first_), at_least(std::max<int64_t>(at_least_, 1)), shift(shift_),
        mine(2 * listing.widest), other(2 * listing.widest), start(points + 1, 0) {
    count();
    fill();
    std::stable_sort(more.begin(), more.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
  }

 private:
  // Who is at a place of the table: a face's number plus one, and part of its hash.
  struct Slot {
    uint32_t tag, face;
  };
  struct Half {
    Face face;
    int64_t corners;
    int64_t begin, room, at;  // the point's part of the table, and where to look first
    uint32_t tag;
  };

  const Listing& listing;
  const int64_t first, points, at_least;
  const int shift;
  std::vector<int64_t> mine, other;
  std::vector<int64_t> start;  // of each point's part of the table
  std::unique_ptr<Zeroed<Slot>> slots_;
  Slot* slots = nullptr;

  bool holds(int64_t lowest) const { return uint64_t(lowest - first) < uint64_t(points); }

  void count() {
    int64_t* const counts = start.data() + 1;
    const int64_t from = first, n = points;
    listing.each_cell([=](const Part& part, int64_t c, int32_t, int64_t) {
      if (!part.corners) return;
      for (int64_t j = 0; j < part.count; ++j) {
        const int64_t lowest = part.lowest(c, j) - from;
        if (uint64_t(lowest) < uint64_t(n)) ++counts[lowest];
      }
    });
    int64_t total = 0;
    for (int64_t i = 1; i <= points; ++i) {
      total += start[i];
      start[i] += start[i - 1] + start[i] / 4;  // some room to spare
    }
    faces = std::make_unique<Buffer<Face>>(total);
    large_pages(faces->data, total * sizeof(Face));
    slots_ = std::make_unique<Zeroed<Slot>>(start[points]);
    slots = slots_->data;
  }

  // Goes through the halves in blocks: what they will need of the memory is fetched beforehand.
  void fill() {
    constexpr int64_t block = 128;
    std::vector<Half> halves(block + listing.widest);
    int64_t n = 0;
    const auto flush = [&] {
      for (int64_t i = 0; i < n; ++i) {
        const Slot& slot = slots[halves[i].begin + halves[i].at];
        if (slot.face && slot.tag == halves[i].tag) __builtin_prefetch(faces->data + slot.face - 1, 1);
      }
      for (int64_t i = 0; i < n; ++i) place(halves[i]);
      n = 0;
    };
    listing.each_cell([&](const Part& part, int64_t c, int32_t number, int64_t row) {
      for (int64_t j = 0; j < part.count; ++j, ++row) {
        if (!read(part, c, j, halves[n])) continue;
        halves[n].face.owner = number;
        halves[n].face.row = static_cast<uint32_t>(row);
        find(halves[n++]);
        if (n == block) flush();
      }
    });
    flush();
  }

  // The corners of a face of a cell; false if it is none or not of this range.
  bool read(const Part& part, int64_t c, int64_t j, Half& to) {
    const int64_t *cell = part.nodes + c * part.width, *local = part.local + j * part.corners;
    if (part.corners == 3) {
      const uint64_t x = cell[local[0]], y = cell[local[1]], z = cell[local[2]];
      const uint64_t low = std::min(x, y), high = std::max(x, y);
      const uint64_t lowest = std::min(low, z), third = std::max(high, z);
      if (!holds(lowest)) return false;
      if (x != y && y != z && x != z) {
        if (at_least > 3) return false;
        to.face.key = (x + y + z - lowest - third) << 32 | third;
        to.face.rest = 0;
        to.face.lowest = static_cast<int32_t>(lowest);
        to.corners = 3;
        return true;
      }
    }
    const int64_t n = Listing::corners_of(part, c, j, mine.data());
    if (n < at_least) return false;
    sort_corners(mine.data(), n);
    if (!holds(mine[0])) return false;
    to.face.key = uint64_t(n > 1 ? mine[1] : 0) << 32 | uint64_t(n > 2 ? mine[2] : 0);
    to.face.rest = n > 3 ? static_cast<uint32_t>(mine[3]) : 0;
    for (int64_t i = 4; i < n; ++i)
      to.face.rest = (to.face.rest * 0x9e3779b1u + static_cast<uint32_t>(mine[i])) | many_corners;
    to.face.lowest = static_cast<int32_t>(mine[0]);
    to.corners = n;
    return true;
  }

  void find(Half& half) const {
    const int64_t* const p = start.data() + (half.face.lowest - first);
    const uint64_t mixed = (half.face.key ^ (uint64_t(half.face.rest) << 17)) * 0x9e3779b97f4a7c15u;
    half.begin = p[0];
    half.room = p[1] - half.begin;
    half.at = static_cast<int64_t>((mixed >> 32) * uint64_t(half.room) >> 32);
    half.tag = static_cast<uint32_t>(mixed);
    __builtin_prefetch(slots + half.begin + half.at, 1);
  }

  bool same(const Face& a, const Face& b) {
    if (a.key != b.key || a.rest != b.rest) return false;
    if (!(a.rest & many_corners)) return true;
    const int64_t n = listing.corners_of(a.row, mine.data());
    if (n != listing.corners_of(b.row, other.data())) return false;
    sort_corners(mine.data(), n);
    sort_corners(other.data(), n);
    return std::equal(mine.begin(), mine.begin() + n, other.begin());
  }

  void place(const Half& half) {
    Slot* slot = slots + half.begin + half.at;
    Slot* const end = slots + half.begin + half.room;
    for (; slot->face; slot = slot + 1 == end ? slots + half.begin : slot + 1)
      if (slot->tag == half.tag && same(faces->data[slot->face - 1], half.face))
        return join(slot->face - 1, half);
    faces->data[size] = half.face;
    faces->data[size].neighbour = -1;
    *slot = {half.tag, static_cast<uint32_t>(++size)};
    tallies[half.face.owner >> shift][1].add(1, half.corners, 1);
  }

  void join(uint32_t number, const Half& half) {
    Face& face = faces->data[number];
    std::array<Tally, 2>& tally = tallies[face.owner >> shift];
    if (face.neighbour >= 0) {
      more.push_back({number, half.face.row});
      return tally[0].add(0, 0, 1);
    }
    face.neighbour = half.face.owner;
    face.other = half.face.row;
    tally[1].add(-1, -half.corners, -1);
    tally[0].add(1, half.corners, 2);
  }
};

}  // namespace meshsim
