// Edges and faces of cells, each once, see meshsim/ops/tables.py.
//
// Both are put into buckets by their lowest point; what is left to sort is a handful each.
#include "common.h"

#include <limits>

namespace meshsim {
namespace {

// Cells of one shape and those of their edges or faces that have the same number of corners.
struct Part {
  Tensor nodes_, local_;
  const int64_t *nodes, *local;
  int64_t cells, width, count, corners;  // nodes (cells, width), local (count, corners)

  Part(const Tensor& n, const Tensor& l, int64_t points) : nodes_(dense(n)), local_(dense(l)) {
    check_cpu(nodes_, "nodes");
    check_shape(nodes_, -1, -1, "nodes");
    cells = nodes_.size(0);
    width = nodes_.size(1);
    check_index(nodes_, points, "nodes");
    check_shape(local_, -1, -1, "local");
    check_index(local_, width, "local");
    count = local_.size(0);
    corners = local_.size(1);
    nodes = nodes_.const_data_ptr<int64_t>();
    local = local_.const_data_ptr<int64_t>();
  }
  int64_t rows() const { return cells * count; }
};

std::vector<Part> parts_of(const std::vector<Tensor>& nodes, const std::vector<Tensor>& local,
                           int64_t points) {
  if (nodes.size() != local.size())
    bad_input("`local`: expected ", nodes.size(), " tables as for the nodes, got ", local.size());
  if (points < 0 || points > int64_t(std::numeric_limits<int32_t>::max()))
    bad_input("`n_points`: expected 0..2^31 - 1, got ", points);
  std::vector<Part> parts;
  for (size_t i = 0; i < nodes.size(); ++i) parts.emplace_back(nodes[i], local[i], points);
  return parts;
}

Tensor integers(const std::vector<int64_t>& shape) {
  return torch::stable::empty(shape, ScalarType::Long);
}

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

Tensor cells_to_edges(std::vector<Tensor> nodes, std::vector<Tensor> local, int64_t n_points) {
  const std::vector<Part> parts = parts_of(nodes, local, n_points);
  for (const Part& part : parts)
    if (part.corners != 2) bad_input("`local`: expected shape (*, 2), got ", shape_of(part.local_));
  std::vector<int64_t> start(n_points + 1, 0);
  for (const Part& part : parts) each_edge(part, [&](int64_t a, int64_t) { ++start[a + 1]; });
  for (int64_t i = 0; i < n_points; ++i) start[i + 1] += start[i];
  Buffer<int32_t> high(start[n_points]);
  for (const Part& part : parts)
    each_edge(part, [&](int64_t a, int64_t b) { high.data[start[a]++] = static_cast<int32_t>(b); });
  // start[a] is now the end of bucket a.
  std::vector<int32_t> seen(n_points, -1), kept(n_points);
  int64_t found = 0, begin = 0;
  for (int64_t a = 0; a < n_points; ++a) {
    int32_t *first = high.data + begin, *last = first;
    for (int64_t i = begin; i < start[a]; ++i) {
      const int32_t b = high.data[i];
      if (seen[b] == a) continue;
      seen[b] = static_cast<int32_t>(a);
      *last++ = b;
    }
    std::sort(first, last);
    kept[a] = static_cast<int32_t>(last - first);
    found += kept[a];
    begin = start[a];
  }
  Tensor out = integers({found, 2});
  int64_t* to = out.mutable_data_ptr<int64_t>();
  begin = 0;
  for (int64_t a = 0; a < n_points; ++a) {
    for (int32_t i = 0; i < kept[a]; ++i) {
      *to++ = a;
      *to++ = high.data[begin + i];
    }
    begin = start[a];
  }
  return out;
}

// A face as a cell sees it. `key` holds its second and third lowest corner.
struct Half {
  uint64_t key;
  uint32_t row;  // counted through all parts
  int32_t cell;
};

struct Face {
  int32_t owner, neighbour;
  uint32_t first, count;  // of its halves
};

class Faces {
 public:
  Faces(const std::vector<Tensor>& nodes, const std::vector<Tensor>& local,
        const std::vector<Tensor>& cells, int64_t points_, int64_t at_least_)
      : parts(parts_of(nodes, local, points_)), points(points_), at_least(at_least_) {
    if (cells.size() != parts.size())
      bad_input("`cells`: expected ", parts.size(), " lists as for the nodes, got ", cells.size());
    int64_t rows = 0, widest = 1;
    for (size_t i = 0; i < parts.size(); ++i) {
      numbers_.push_back(dense(cells[i]));
      check_shape(numbers_[i], parts[i].cells, 0, "cells");
      check_index(numbers_[i], int64_t(1) << 31, "cells");
      numbers.push_back(numbers_[i].const_data_ptr<int64_t>());
      for (int64_t c = 0; c < parts[i].cells; ++c) {
        ordered &= c == 0 || numbers[i][c - 1] < numbers[i][c];
        n_cells = std::max(n_cells, numbers[i][c] + 1);
      }
      base.push_back(rows);
      rows += parts[i].rows();
      widest = std::max(widest, parts[i].corners);
    }
    ordered &= parts.size() == 1;
    if (rows >= int64_t(1) << 32 || n_cells >= int64_t(1) << 31)
      bad_input("`nodes`: expected fewer than 2^32 faces of cells, got ", rows);
    for (auto* room : {&mine, &left, &right}) room->resize(2 * widest);
    alike = !parts.empty() && widest <= 3;
    for (const Part& part : parts) alike &= part.corners == parts[0].corners;
    while ((int64_t(1) << bits) < points) ++bits;
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> operator()() {
    collect();
    join();
    arrange();
    return write();
  }

 private:
  const std::vector<Part> parts;
  std::vector<Tensor> numbers_;
  std::vector<const int64_t*> numbers;
  std::vector<int64_t> base;
  const int64_t points, at_least;
  int64_t n_cells = 0, bits = 1;
  bool ordered = true;  // rows rise with the numbers of cells
  bool alike = true;    // all faces have the same number of corners, three at most
  std::vector<int64_t> mine, left, right;  // corners, in the cell's order and rising
  std::vector<int64_t> bucket;
  std::optional<Buffer<Half>> halves_;
  std::optional<Buffer<Face>> faces_, placed_;
  Half* halves = nullptr;
  int64_t total = 0, n_faces = 0;

  const Part& part_of(uint32_t row, int64_t* within) const {
    size_t p = parts.size() - 1;
    while (base[p] > row) --p;
    *within = row - base[p];
    return parts[p];
  }

  // Corners in the order of the cell, those that repeat the one before left out. Returns how many.
  int64_t corners_of(const Part& part, int64_t c, int64_t j, int64_t* to) const {
    const int64_t *cell = part.nodes + c * part.width, *local = part.local + j * part.corners;
    const int64_t k = part.corners;
    if (k == 1) {
      to[0] = cell[local[0]];
      return 1;
    }
    int64_t n = 0, before = k ? cell[local[k - 1]] : 0;
    for (int64_t i = 0; i < k; ++i) {
      const int64_t node = cell[local[i]];
      to[n] = node;
      n += node != before;
      before = node;
    }
    return n;
  }
  int64_t corners_of(const Half& h, int64_t* to) const {
    int64_t within;
    const Part& part = part_of(h.row, &within);
    const uint32_t count = static_cast<uint32_t>(part.count), i = static_cast<uint32_t>(within);
    return corners_of(part, i / count, i % count, to);
  }

  static void sort_corners(int64_t* x, int64_t n) {
    if (n > 16) return std::sort(x, x + n);
    for (int64_t i = 1; i < n; ++i)
      for (int64_t j = i; j > 0 && x[j - 1] > x[j]; --j) std::swap(x[j - 1], x[j]);
  }

  // Calls work(cell, row, lowest corner, key) for all faces of cells.
  template <class Work>
  void each_half(const Work& work) {
    for (size_t p = 0; p < parts.size(); ++p) {
      const Part& part = parts[p];
      const bool three = part.corners == 3 && at_least <= 3;
      int64_t row = base[p];
      for (int64_t c = 0; c < part.cells; ++c) {
        const int32_t number = static_cast<int32_t>(numbers[p][c]);
        const int64_t* cell = part.nodes + c * part.width;
        for (int64_t j = 0; j < part.count; ++j, ++row) {
          const int64_t* local = part.local + j * part.corners;
          if (three) {
            const uint64_t x = cell[local[0]], y = cell[local[1]], z = cell[local[2]];
            const uint64_t low = std::min(x, y), high = std::max(x, y);
            if (x != y && y != z && x != z) {
              const uint64_t first = std::min(low, z), last = std::max(high, z);
              const uint64_t second = x + y + z - first - last;
              work(number, row, first, second << 32 | last);
              continue;
            }
          }
          const int64_t n = corners_of(part, c, j, mine.data());
          if (n != part.corners) alike = false;
          if (n < std::max<int64_t>(at_least, 1)) continue;
          sort_corners(mine.data(), n);
          const uint64_t second = n > 1 ? mine[1] : 0, third = n > 2 ? mine[2] : 0;
          work(number, row, mine[0], second << 32 | third);
        }
      }
    }
  }

  // All faces of cells, by their lowest corner.
  void collect() {
    bucket.assign(points + 1, 0);
    each_half([&](int32_t, int64_t, int64_t lowest, uint64_t) { ++bucket[lowest + 1]; });
    for (int64_t i = 0; i < points; ++i) bucket[i + 1] += bucket[i];
    total = bucket[points];
    halves_.emplace(total);
    halves = halves_->data;
    each_half([&](int32_t cell, int64_t row, int64_t lowest, uint64_t key) {
      halves[bucket[lowest]++] = {key, static_cast<uint32_t>(row), cell};
    });  // bucket[a] is now the end of bucket a
  }

  // < 0, 0, > 0 as the corners of a come before, equal or follow those of b, with equal keys.
  int compare_rest(const Half& a, const Half& b) {
    if (alike) return 0;
    const int64_t n = corners_of(a, left.data()), m = corners_of(b, right.data());
    if (n != m) return n < m ? -1 : 1;
    sort_corners(left.data(), n);
    sort_corners(right.data(), n);
    for (int64_t i = 3; i < n; ++i)
      if (left[i] != right[i]) return left[i] < right[i] ? -1 : 1;
    return 0;
  }

  bool before(const Half& a, const Half& b) {
    if (a.key != b.key) return a.key < b.key;
    if (const int order = compare_rest(a, b)) return order < 0;
    if (!ordered && a.cell != b.cell) return a.cell < b.cell;
    return a.row < b.row;
  }

  void sort_bucket(Half* first, Half* last) {
    const auto order = [this](const Half& a, const Half& b) { return before(a, b); };
    if (last - first > 48) return std::sort(first, last, order);
    for (Half* i = first + 1; i < last; ++i) {
      const Half h = *i;
      Half* j = i;
      for (; j > first && before(h, j[-1]); --j) *j = j[-1];
      *j = h;
    }
  }

  // Equal ones become one face.
  void join() {
    faces_.emplace(total);
    int64_t first = 0;
    for (int64_t a = 0; a < points; ++a) {
      const int64_t last = bucket[a];
      if (last > first) sort_bucket(halves + first, halves + last);
      for (int64_t i = first; i < last;) {
        int64_t end = i + 1;
        while (end < last && halves[end].key == halves[i].key &&
               compare_rest(halves[i], halves[end]) == 0)
          ++end;
        faces_->data[n_faces++] = {halves[i].cell, end - i > 1 ? halves[i + 1].cell : -1,
                                   static_cast<uint32_t>(i), static_cast<uint32_t>(end - i)};
        i = end;
      }
      first = last;
    }
  }

  // The number that `meshsim.ops.tables` sorts rows by that do not fit 63 bits; `left` has them.
  int64_t hash(int64_t n) {
    sort_corners(left.data(), n);
    uint64_t key = left[0];
    for (int64_t i = 1; i < n; ++i) {
      const uint64_t shifted = static_cast<uint64_t>(static_cast<int64_t>(key) >> 29);
      key = key * static_cast<uint64_t>(-7046029254386353131) ^ (left[i] + shifted);
    }
    return static_cast<int64_t>(key);
  }

  bool face_before(const Face& a, const Face& b) {
    if (a.neighbour != b.neighbour) return a.neighbour < b.neighbour;
    if (alike && 3 * bits <= 63) return a.first < b.first;
    const int64_t n = corners_of(halves[a.first], left.data());
    const int64_t of_a = hash(n), m = corners_of(halves[b.first], left.data());
    if (n != m) return n < m;
    if (n * bits <= 63) return a.first < b.first;
    const int64_t of_b = hash(m);
    return of_a != of_b ? of_a < of_b : a.first < b.first;
  }

  // Internal faces by owner and neighbour, then the boundary by owner.
  void arrange() {
    placed_.emplace(n_faces);
    Face *faces = faces_->data, *placed = placed_->data;
    std::vector<uint32_t> end(2 * n_cells + 1, 0);
    const auto rank = [&](const Face& f) {
      return f.neighbour < 0 ? n_cells + f.owner : f.owner;
    };
    for (int64_t f = 0; f < n_faces; ++f) ++end[rank(faces[f]) + 1];
    for (int64_t i = 0; i < 2 * n_cells; ++i) end[i + 1] += end[i];
    for (int64_t f = 0; f < n_faces; ++f) placed[end[rank(faces[f])]++] = faces[f];
    int64_t first = 0;
    for (int64_t i = 0; i < 2 * n_cells; first = end[i++])
      if (end[i] - first > 1)
        std::sort(placed + first, placed + end[i],
                  [this](const Face& a, const Face& b) { return face_before(a, b); });
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> write() {
    const Face* placed = placed_->data;
    int64_t n_corners = alike ? n_faces * parts[0].corners : 0;
    for (int64_t f = 0; f < n_faces && !alike; ++f)
      n_corners += corners_of(halves[placed[f].first], mine.data());
    Tensor out[] = {integers({n_faces}),   integers({n_faces}),     integers({n_faces + 1}),
                    integers({n_corners}), integers({n_faces + 1}), integers({total})};
    int64_t* to[6];
    for (int i = 0; i < 6; ++i) to[i] = out[i].mutable_data_ptr<int64_t>();
    int64_t corner = 0, row = 0;
    for (int64_t f = 0; f < n_faces; ++f) {
      const Face face = placed[f];
      to[0][f] = face.owner;
      to[1][f] = face.neighbour;
      to[2][f] = corner;
      to[4][f] = row;
      const int64_t n = corners_of(halves[face.first], mine.data());
      for (int64_t i = 0; i < n; ++i) to[3][corner++] = mine[i];
      for (uint32_t h = 0; h < face.count; ++h) to[5][row++] = halves[face.first + h].row;
    }
    to[2][n_faces] = corner;
    to[4][n_faces] = row;
    return {out[0], out[1], out[2], out[3], out[4], out[5]};
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
