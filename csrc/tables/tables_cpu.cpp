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

// Puts the faces of all ranges together: internal ones by owner and neighbour, then the boundary.
class Faces {
 public:
  Faces(const std::vector<Tensor>& nodes, const std::vector<Tensor>& local,
        const std::vector<Tensor>& cells, int64_t points, int64_t at_least)
      : listing(nodes, local, cells, points) {
    while ((int64_t(1) << bits) < points) ++bits;
    while (listing.n_cells >> shift > 1 << 10) ++shift;
    const std::vector<int64_t> cuts = cuts_of(listing.parts, points);
    tables.resize(cuts.size() - 1);
    each(tables.size(), [&](int64_t r) {
      tables[r] =
          std::make_unique<FaceTable>(listing, cuts[r], cuts[r + 1], at_least, shift);
    });
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> operator()() {
    const int64_t chunks = (listing.n_cells >> shift) + 1;
    std::vector<std::array<Tally, 2>> begin(chunks);
    Tally all;
    for (int kind = 0; kind < 2; ++kind)
      for (int64_t c = 0; c < chunks; ++c) {
        begin[c][kind] = all;
        for (const auto& table : tables) {
          const Tally& t = table->tallies[c][kind];
          all.add(t.faces, t.corners, t.rows);
        }
      }
    std::array<Tensor, 6> out{integers({all.faces}),       integers({all.faces}),
                              integers({all.faces + 1}),   integers({all.corners}),
                              integers({all.faces + 1}),   integers({all.rows})};
    for (int i = 0; i < 6; ++i) to[i] = out[i].mutable_data_ptr<int64_t>();
    to[2][all.faces] = all.corners;
    to[4][all.faces] = all.rows;
    each(chunks, [&](int64_t c) { write(c, begin[c]); });
    return std::tuple_cat(out);
  }

 private:
  // A face and the rows of its third and further cells.
  struct Placed {
    const Face* face;
    const std::pair<uint32_t, uint32_t>*more, *end;
  };
  struct Corners {
    std::vector<int64_t> a, b;
  };

  const Listing listing;
  std::vector<std::unique_ptr<FaceTable>> tables;
  int64_t bits = 1;
  int shift = 10;
  int64_t* to[6];

  static int64_t corners_in(const Face& face, int64_t many) {
    if (face.rest) return face.rest & many_corners ? many : 4;
    return face.key == 0 ? 1 : face.key & 0xffffffff ? 3 : 2;
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
    const int64_t n = listing.corners_of(face.row, corners.data());
    sort_corners(corners.data(), n);
    return n;
  }

  // Of the same owner: by neighbour, number of corners, and the corners or a hash of them.
  bool before(const Face& a, const Face& b, Corners& corners) const {
    if (a.neighbour != b.neighbour) return a.neighbour < b.neighbour;
    const int64_t short_a = corners_in(a, 5), short_b = corners_in(b, 5);
    if (short_a < 5 && short_b < 5) {
      if (short_a != short_b) return short_a < short_b;
      if (short_a * bits <= 63)
        return std::tie(a.lowest, a.key, a.rest) < std::tie(b.lowest, b.key, b.rest);
    }
    const int64_t n = read(a, corners.a), m = read(b, corners.b);
    if (n != m) return n < m;
    if (n * bits > 63) {
      const int64_t of_a = hash(corners.a, n), of_b = hash(corners.b, n);
      if (of_a != of_b) return of_a < of_b;
    }
    return std::lexicographical_compare(corners.a.begin(), corners.a.begin() + n,
                                        corners.b.begin(), corners.b.begin() + n);
  }

  Placed placed(const FaceTable& table, const Face* face) const {
    if (table.more.empty()) return {face, nullptr, nullptr};
    const uint32_t number = static_cast<uint32_t>(face - table.faces->data);
    const auto [first, last] = std::equal_range(
        table.more.begin(), table.more.end(), std::pair<uint32_t, uint32_t>{number, 0},
        [](const auto& a, const auto& b) { return a.first < b.first; });
    return {face, &*table.more.begin() + (first - table.more.begin()),
            &*table.more.begin() + (last - table.more.begin())};
  }

  // The faces of the owners of a chunk.
  void write(int64_t chunk, std::array<Tally, 2> at) {
    std::vector<std::pair<const Face*, const Face*>> next;
    for (const auto& table : tables) {
      const Face *first = table->faces->data, *last = first + table->size;
      const auto bound = [&](int64_t owner) {
        return std::lower_bound(first, last, owner,
                                [](const Face& f, int64_t o) { return f.owner < o; });
      };
      next.push_back({bound(chunk << shift), bound((chunk + 1) << shift)});
    }
    Corners corners{std::vector<int64_t>(2 * listing.widest),
                    std::vector<int64_t>(2 * listing.widest)};
    std::vector<Placed> mine;
    while (true) {
      int64_t owner = std::numeric_limits<int64_t>::max();
      for (const auto& [face, end] : next)
        if (face != end) owner = std::min<int64_t>(owner, face->owner);
      if (owner == std::numeric_limits<int64_t>::max()) return;
      mine.clear();
      for (size_t r = 0; r < next.size(); ++r)
        for (auto& [face, end] = next[r]; face != end && face->owner == owner; ++face)
          mine.push_back(placed(*tables[r], face));
      sort(mine, corners);
      for (const Placed& face : mine) write(face, at[face.face->neighbour < 0]);
    }
  }

  void sort(std::vector<Placed>& faces, Corners& corners) const {
    const auto order = [&](const Placed& a, const Placed& b) {
      return before(*a.face, *b.face, corners);
    };
    if (faces.size() > 16) return std::sort(faces.begin(), faces.end(), order);
    for (size_t i = 1; i < faces.size(); ++i) {
      const Placed face = faces[i];
      size_t j = i;
      for (; j > 0 && order(face, faces[j - 1]); --j) faces[j] = faces[j - 1];
      faces[j] = face;
    }
  }

  void write(const Placed& face, Tally& at) {
    const Face& f = *face.face;
    to[0][at.faces] = f.owner;
    to[1][at.faces] = f.neighbour;
    to[2][at.faces] = at.corners;
    to[4][at.faces++] = at.rows;
    at.corners += listing.corners_of(f.row, to[3] + at.corners);
    to[5][at.rows++] = f.row;
    if (f.neighbour >= 0) to[5][at.rows++] = f.other;
    for (auto more = face.more; more != face.end; ++more) to[5][at.rows++] = more->second;
  }
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
