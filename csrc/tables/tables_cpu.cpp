// Edges and faces of cells, each once, see meshsim/ops/tables.py.
//
// Both are found among those with the same lowest point, in ranges of points side by side.
#include "tables/faces.h"

#include <tuple>

namespace meshsim {
namespace {

template <class Work>
void each_edge(const Part& part, const Work& work) {
  for (int64_t c = 0; c < part.cells; ++c) {
    const int64_t* cell = part.nodes + c * part.width;
    for (int64_t j = 0; j < part.count; ++j) {
      const int64_t a = cell[part.local[2 * j]], b = cell[part.local[2 * j + 1]];
      if (a != b) work(std::min(a, b), std::max(a, b));
    }
  }
}

// The edges whose lower point lies in a range of points, in buckets by that point.
struct Edges {
  std::vector<int64_t> start;
  std::vector<int32_t> kept;  // of each bucket, rising at its front
  std::unique_ptr<Buffer<int32_t>> high;
  int64_t found = 0;

  Edges(const std::vector<Part>& parts, int64_t first, int64_t last, int64_t n_points)
      : start(last - first + 1, 0), kept(last - first) {
    const uint64_t points = last - first;
    int64_t* const begin = start.data();  // members would be read again after every store
    for (const Part& part : parts)
      each_edge(part, [=](int64_t a, int64_t) {
        if (uint64_t(a - first) < points) ++begin[a - first + 1];
      });
    for (uint64_t i = 0; i < points; ++i) begin[i + 1] += begin[i];
    const int64_t total = begin[points];
    high = std::make_unique<Buffer<int32_t>>(total);
    int32_t* const to = high->data;
    large_pages(to, total * sizeof(int32_t));
    for (const Part& part : parts)
      each_edge(part, [=](int64_t a, int64_t b) {
        if (uint64_t(a - first) < points) to[begin[a - first]++] = static_cast<int32_t>(b);
      });
    std::copy_backward(begin, begin + points, begin + points + 1);  // ends are the next ones' begins
    begin[0] = 0;
    keep(n_points);
  }

  // Sorts the buckets and drops what comes twice.
  void keep(int64_t n_points) {
    std::vector<int32_t> seen_(n_points, -1);
    int32_t* const seen = seen_.data();
    for (int32_t a = 0; a < static_cast<int32_t>(kept.size()); ++a) {
      int32_t *from = high->data + start[a], *to = from;
      const int32_t* const end = high->data + start[a + 1];
      for (const int32_t* i = from; i < end; ++i) {
        const int32_t b = *i;
        if (seen[b] == a) continue;
        seen[b] = a;
        *to++ = b;
      }
      std::sort(from, to);
      kept[a] = static_cast<int32_t>(to - from);
      found += kept[a];
    }
  }

  void write(int64_t first, int64_t* to) const {
    for (size_t a = 0; a < kept.size(); ++a)
      for (int32_t i = 0; i < kept[a]; ++i) {
        *to++ = first + static_cast<int64_t>(a);
        *to++ = high->data[start[a] + i];
      }
  }
};

Tensor cells_to_edges(std::vector<Tensor> nodes, std::vector<Tensor> local, int64_t n_points) {
  const std::vector<Part> parts = parts_of(nodes, local, n_points);
  for (const Part& part : parts)
    if (part.corners != 2) bad_input("`local`: expected shape (*, 2), got ", shape_of(part.local_));
  const std::vector<int64_t> cuts = cuts_of(parts, n_points);
  const int64_t ranges = cuts.size() - 1;
  std::vector<std::unique_ptr<Edges>> edges(ranges);
  each(ranges, [&](int64_t r) {
    edges[r] = std::make_unique<Edges>(parts, cuts[r], cuts[r + 1], n_points);
  });
  std::vector<int64_t> at(ranges + 1, 0);
  for (int64_t r = 0; r < ranges; ++r) at[r + 1] = at[r] + edges[r]->found;
  Tensor out = integers({at[ranges], 2});
  int64_t* to = out.mutable_data_ptr<int64_t>();
  each(ranges, [&](int64_t r) { edges[r]->write(cuts[r], to + 2 * at[r]); });
  return out;
}

// Writes the faces: internal ones by owner and neighbour, then the boundary by owner.
class Faces {
 public:
  Faces(const std::vector<Tensor>& nodes, const std::vector<Tensor>& local,
        const std::vector<Tensor>& cells, int64_t points, int64_t at_least)
      : listing(nodes, local, cells, points), second(listing.rows) {
    while ((int64_t(1) << bits) < points) ++bits;
    const std::vector<int64_t> cuts = cuts_of(listing.parts, points);
    std::vector<std::unique_ptr<Matcher>> matchers(cuts.size() - 1);
    each(matchers.size(), [&](int64_t r) {
      matchers[r] =
          std::make_unique<Matcher>(listing, cuts[r], cuts[r + 1], at_least, second.data);
    });
    for (const auto& matcher : matchers) {
      regular &= matcher->regular;
      more.insert(more.end(), matcher->more.begin(), matcher->more.end());
    }
    std::stable_sort(more.begin(), more.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> operator()() {
    const std::vector<int64_t> cuts = chunks();
    const int64_t n = cuts.size() - 1;
    std::vector<std::array<Tally, 2>> tallies(n);
    each(n, [&](int64_t i) { tallies[i] = count(cuts[i], cuts[i + 1]); });
    Tally all;
    for (int kind = 0; kind < 2; ++kind)
      for (auto& tally : tallies) {
        const Tally begin = all;
        all.add(tally[kind]);
        tally[kind] = begin;
      }
    std::array<Tensor, 6> out{integers({all.faces}),     integers({all.faces}),
                              integers({all.faces + 1}), integers({all.corners}),
                              integers({all.faces + 1}), integers({all.rows})};
    for (int i = 0; i < 6; ++i) to[i] = out[i].mutable_data_ptr<int64_t>();
    to[2][all.faces] = all.corners;
    to[4][all.faces] = all.rows;
    each(n, [&](int64_t i) { write(cuts[i], cuts[i + 1], tallies[i]); });
    return std::tuple_cat(out);
  }

 private:
  struct Tally {
    int64_t faces = 0, corners = 0, rows = 0;

    void add(const Tally& t) { faces += t.faces, corners += t.corners, rows += t.rows; }
  };
  struct Face {
    int32_t owner;
    uint32_t neighbour, row, other;  // all bits of `neighbour` are set where there is none
  };
  struct Corners {
    std::vector<int64_t> a, b;
  };
  using More = std::vector<std::pair<uint32_t, uint32_t>>;

  const Listing listing;
  const Zeroed<uint32_t> second;  // see `Matcher`
  More more;                      // by the owner's row
  bool regular = true;
  int64_t bits = 1;
  int64_t* to[6];

  // Cuts the visits where the number of the cell changes.
  std::vector<int64_t> chunks() const {
    constexpr int64_t step = 1 << 10;
    std::vector<int64_t> cuts{0};
    for (int64_t at = step; at < listing.visits; at += step) {
      while (at < listing.visits && listing.number_at(at) == listing.number_at(at - 1)) ++at;
      cuts.push_back(at);
    }
    if (cuts.back() < listing.visits) cuts.push_back(listing.visits);
    return cuts;
  }

  std::pair<More::const_iterator, More::const_iterator> further(uint32_t row) const {
    return std::equal_range(more.begin(), more.end(), std::pair<uint32_t, uint32_t>{row, 0},
                            [](const auto& a, const auto& b) { return a.first < b.first; });
  }

  // Internal faces and those of the boundary.
  std::array<Tally, 2> count(int64_t first, int64_t last) const {
    std::array<Tally, 2> out;
    std::vector<int64_t> corners(listing.widest);
    listing.each_run(first, last, [&](size_t p, int64_t c, int64_t end, int64_t row) {
      const Part& part = listing.parts[p];
      const uint32_t* const pairs = second.data + row;
      const int64_t rows = (end - c) * part.count;
      int64_t faces = 0, single = 0;
      for (int64_t i = 0; i < rows; ++i) {
        faces += pairs[i] != 0;
        single += pairs[i] == static_cast<uint32_t>(row + i + 1);
      }
      out[0].add({faces - single, regular ? (faces - single) * part.corners : 0,
                  2 * (faces - single)});
      out[1].add({single, regular ? single * part.corners : 0, single});
      for (int64_t i = 0; i < rows && !(regular && more.empty()); ++i) {
        if (!pairs[i]) continue;
        Tally& tally = out[pairs[i] == static_cast<uint32_t>(row + i + 1)];
        if (!regular)
          tally.corners += listing.spot(static_cast<uint32_t>(row + i)).read(corners.data());
        const auto [begin, stop] = further(static_cast<uint32_t>(row + i));
        tally.rows += stop - begin;
      }
    });
    return out;
  }

  // The number that `meshsim.ops.tables` sorts rows by that do not fit 63 bits.
  static int64_t hash(const std::vector<int64_t>& corners, int64_t n) {
    uint64_t key = corners[0];
    for (int64_t i = 1; i < n; ++i) {
      const uint64_t shifted = static_cast<uint64_t>(static_cast<int64_t>(key) >> 29);
      key = key * static_cast<uint64_t>(-7046029254386353131) ^ (corners[i] + shifted);
    }
    return static_cast<int64_t>(key);
  }

  int64_t read(const Face& face, std::vector<int64_t>& corners) const {
    const int64_t n = listing.spot(face.row).read(corners.data());
    sort_corners(corners.data(), n);
    return n;
  }

  // Of the same owner: by neighbour, number of corners, and the corners or a hash of them.
  bool before(const Face& a, const Face& b, Corners& corners) const {
    if (a.neighbour != b.neighbour) return a.neighbour < b.neighbour;
    const int64_t n = read(a, corners.a), m = read(b, corners.b);
    if (n != m) return n < m;
    if (n * bits > 63) {
      const int64_t of_a = hash(corners.a, n), of_b = hash(corners.b, n);
      if (of_a != of_b) return of_a < of_b;
    }
    return std::lexicographical_compare(corners.a.begin(), corners.a.begin() + n,
                                        corners.b.begin(), corners.b.begin() + n);
  }

  // The faces of the owners among some visits.
  void write(int64_t first, int64_t last, std::array<Tally, 2> at) const {
    int64_t rows = 0, n = 0;
    listing.each_run(first, last, [&](size_t p, int64_t c, int64_t end, int64_t) {
      rows += (end - c) * listing.parts[p].count;
    });
    const Buffer<Face> faces(rows + 1);
    Face* const found = faces.data;
    // no branch on who has a face first: a row that has not is written over
    listing.each_cell(first, last, [&](size_t p, int64_t c, int64_t row) {
      const int32_t number = listing.number(p, c);
      for (int64_t j = 0; j < listing.parts[p].count; ++j, ++row) {
        const uint32_t me = static_cast<uint32_t>(row), next = second.data[row];
        const uint32_t other = next ? next - 1 : me;
        const uint32_t neighbour = static_cast<uint32_t>(listing.number_of(other));
        found[n] = {number, other == me ? none : neighbour, me, other};
        n += next != 0;
      }
    });
    Corners corners{std::vector<int64_t>(listing.widest), std::vector<int64_t>(listing.widest)};
    for (Face *face = found, *const end = found + n; face < end;) {
      Face* next = face + 1;
      while (next < end && next->owner == face->owner) ++next;
      sort(face, next, corners);
      for (; face < next; ++face) write(*face, at[face->neighbour == none]);
    }
  }

  void sort(Face* first, Face* last, Corners& corners) const {
    const auto order = [&](const Face& a, const Face& b) { return before(a, b, corners); };
    if (last - first > 16) return std::sort(first, last, order);
    for (Face* i = first + 1; i < last; ++i) {
      if (!order(*i, i[-1])) continue;
      const Face face = *i;
      Face* j = i;
      do
        *j = j[-1];
      while (--j > first && order(face, j[-1]));
      *j = face;
    }
  }

  void write(const Face& face, Tally& at) const {
    const bool internal = face.neighbour != none;
    to[0][at.faces] = face.owner;
    to[1][at.faces] = internal ? int64_t(face.neighbour) : -1;
    to[2][at.faces] = at.corners;
    to[4][at.faces++] = at.rows;
    at.corners += listing.spot(face.row).read(to[3] + at.corners);
    to[5][at.rows++] = face.row;
    if (!internal) return;
    to[5][at.rows++] = face.other;
    if (more.empty()) return;
    const auto [begin, end] = further(face.row);
    for (auto i = begin; i != end; ++i) to[5][at.rows++] = i->second;
  }

  static constexpr uint32_t none = ~uint32_t(0);
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> cells_to_faces(
    std::vector<Tensor> nodes, std::vector<Tensor> local, std::vector<Tensor> cells,
    int64_t n_points, int64_t min_corners) {
  return Faces(nodes, local, cells, n_points, min_corners)();
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("cells_to_edges", TORCH_BOX(&cells_to_edges));
  m.impl("cells_to_faces", TORCH_BOX(&cells_to_faces));
}

}  // namespace meshsim
