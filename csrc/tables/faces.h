// Which rows are one face, see meshsim/ops/tables.py.
//
// Rows are laid down by their lowest corner, in the order of visits: a point's are then side by
// side, few enough that the nearest cache holds them and a table of who is who. Only their numbers
// are laid down: memory takes the time, and the cells can be read again.
#pragma once

#include "tables/listing.h"

#include <cstdlib>
#include <memory>

namespace meshsim {

// Memory that reads as zeros.
template <class T>
struct Zeroed {
  T* data;
  explicit Zeroed(int64_t n)
      : data(static_cast<T*>(std::calloc(std::max<int64_t>(n, 1), sizeof(T)))) {
    if (!data) throw std::bad_alloc();
    large_pages(data, n * sizeof(T));
  }
  ~Zeroed() { std::free(data); }
  Zeroed(const Zeroed&) = delete;
  Zeroed& operator=(const Zeroed&) = delete;
};

// Fills in `second` for those rows whose lowest corner lies in a range of points.
class Matcher {
 public:
  std::vector<std::pair<uint32_t, uint32_t>> more;  // (row of the owner, of a third or further)
  bool regular = true;                              // no face has lost a corner

  // second[row] is for the first row of a face one more than its second row or, where there is
  // none, than itself; and stays 0 for all others.
  Matcher(const Listing& listing_, int64_t first_, int64_t last, int64_t at_least_,
          uint32_t* second_)
      : listing(listing_), first(first_), points(last - first_),
        at_least(std::max<int64_t>(at_least_, 1)), second(second_), mine(listing.widest),
        other(listing.widest), end(points + 1, 0) {
    fill();
    for (int64_t i = 0; i < points; ++i) match(found->data + end[i], end[i + 1] - end[i]);
  }

 private:
  // Corners in rising order are the lowest, the halves of `key` and `rest`, as far as there are so
  // many; of five and more, `rest` stands for all beyond the third.
  struct Seen {
    uint64_t key;
    uint32_t rest, times;  // how often so far; 1 from the start for what is no face
  };
  static constexpr uint32_t many_corners = uint32_t(1) << 31;  // set in `rest` of five and more
  static constexpr int64_t ahead = 32;

  const Listing& listing;
  const int64_t first, points, at_least;
  uint32_t* const second;
  std::vector<int64_t> mine, other;
  std::vector<uint32_t> end;  // of the rows of the point before
  std::unique_ptr<Buffer<uint32_t>> found;
  std::vector<uint32_t> seats_;
  std::vector<Seen> seen_;

  // Calls work(point, row) for the rows of this range.
  template <class Work>
  void each_row(const Work& work) const {
    const int64_t from = first, n = points;
    listing.each_run(0, listing.visits, [&](size_t p, int64_t c, int64_t last, int64_t row) {
      const Part& part = listing.parts[p];
      if (!part.corners) return;
      for (; c < last; ++c)
        for (int64_t j = 0; j < part.count; ++j, ++row) {
          const int64_t lowest = part.lowest(c, j) - from;
          if (uint64_t(lowest) < uint64_t(n)) work(lowest, row);
        }
    });
  }

  void fill() {
    uint32_t* const place = end.data() + 1;
    each_row([=](int64_t point, int64_t) { ++place[point]; });
    uint32_t total = 0;
    for (int64_t i = 1; i <= points; ++i) total += std::exchange(end[i], total);
    found = std::make_unique<Buffer<uint32_t>>(total + ahead);
    uint32_t* const to = found->data;
    large_pages(to, total * sizeof(uint32_t));
    std::fill_n(to + total, ahead, 0);
    each_row([=](int64_t point, int64_t row) { to[place[point]++] = static_cast<uint32_t>(row); });
  }

  Seen read(const Spot& spot) {
    if (spot.corners == 3) {
      const uint64_t x = spot.node(0), y = spot.node(1), z = spot.node(2);
      const uint64_t low = std::min(x, y), high = std::max(x, y);
      const uint64_t lowest = std::min(low, z), third = std::max(high, z);
      if (x != y && y != z && x != z)
        return {(x + y + z - lowest - third) << 32 | third, 0, at_least > 3};
    }
    return read_any(spot);
  }

  Seen read_any(const Spot& spot) {
    const int64_t n = spot.read(mine.data());
    regular &= n == spot.corners;
    if (n < at_least) return {0, 0, 1};
    sort_corners(mine.data(), n);
    uint32_t rest = n > 3 ? static_cast<uint32_t>(mine[3]) : 0;
    for (int64_t i = 4; i < n; ++i)
      rest = (rest * 0x9e3779b1u + static_cast<uint32_t>(mine[i])) | many_corners;
    return {uint64_t(n > 1 ? mine[1] : 0) << 32 | uint64_t(n > 2 ? mine[2] : 0), rest, 0};
  }

  bool same_corners(uint32_t a, uint32_t b) {
    const int64_t n = listing.spot(a).read(mine.data());
    if (n != listing.spot(b).read(other.data())) return false;
    sort_corners(mine.data(), n);
    sort_corners(other.data(), n);
    return std::equal(mine.begin(), mine.begin() + n, other.begin());
  }

  // Rows of the same lowest corner. Whether a row is the first of its face no processor foresees:
  // a free seat is taken to hold the row itself, so that there is no branch on it. Seats are many:
  // a collision is the branch that is left.
  void match(const uint32_t* rows, int64_t n) {
    int bits = 6;
    while (int64_t(1) << bits < 4 * n) ++bits;
    if (seats_.size() < size_t(1) << bits) seats_.resize(size_t(1) << bits);
    if (seen_.size() < size_t(n)) seen_.resize(n);
    uint32_t* const seats = seats_.data();
    Seen* const seen = seen_.data();
    for (int64_t i = 0; i < n; ++i) {
      __builtin_prefetch(second + rows[i + ahead], 1);
      __builtin_prefetch(listing.spot(rows[i + ahead]).cell);
      seen[i] = read(listing.spot(rows[i]));
    }
    std::fill_n(seats, int64_t(1) << bits, 0);
    const uint64_t last = (uint64_t(1) << bits) - 1;
    for (int64_t i = 0; i < n; ++i) {
      const Seen me = seen[i];
      if (me.times) continue;
      uint64_t seat = (me.key ^ uint64_t(me.rest) << 17) * 0x9e3779b97f4a7c15u >> (64 - bits);
      uint32_t who;
      while (true) {
        who = seats[seat] ? seats[seat] - 1 : static_cast<uint32_t>(i);
        if (seen[who].key == me.key && seen[who].rest == me.rest &&
            (!(me.rest & many_corners) || who == i || same_corners(rows[who], rows[i])))
          break;
        seat = (seat + 1) & last;
      }
      seats[seat] = who + 1;
      if (++seen[who].times > 2)
        more.push_back({rows[who], rows[i]});
      else
        second[rows[who]] = rows[i] + 1;
    }
  }
};

}  // namespace meshsim
