// Faces of cells, each once, on CUDA, see meshsim/ops/tables.py.
//
// Rows, that is faces as a cell sees them, are sorted by number of corners, corners and cell: equal
// ones are then side by side. The faces made of them are sorted by their cells.
#include "tables/corners.h"

namespace meshsim {
namespace {

// Rows with their corners rising, packed into words of `bits` bits a corner, the first highest.
struct Packed {
  uint64_t* words;  // (count, rows)
  int32_t *size, *cell;
  int64_t rows;
  int bits, each, count;  // of a corner, corners of a word, words

  __device__ uint64_t& word(int64_t row, int64_t corner) const {
    return words[corner / each * rows + row];
  }
  __device__ int shift(int64_t corner) const {
    return bits * (each - 1 - static_cast<int>(corner % each));
  }
  __device__ uint64_t corner(int64_t row, int64_t i) const {
    return word(row, i) >> shift(i) & ((uint64_t(1) << bits) - 1);
  }
  __device__ bool same(int64_t a, int64_t b) const {
    bool equal = size[a] == size[b];
    for (int w = 0; w < count; ++w) equal &= words[w * rows + a] == words[w * rows + b];
    return equal;
  }
};

// Whether a corner counts: not if it repeats the one before.
__device__ bool counts(const Part& part, int64_t c, int64_t face, int64_t i) {
  return part.corners == 1 ||
         part.node(c, face, i) != part.node(c, face, i ? i - 1 : part.corners - 1);
}

// Fills in the rows of a part; size 0 is none. `placed` will say which face a row is the first of.
__global__ void pack_rows(Part part, const int64_t* cells, int64_t base, int64_t least, Packed to,
                          int32_t* placed) {
  const int64_t i = thread_number(), row = base + i;
  if (i >= part.rows()) return;
  const int64_t c = i / part.count, face = i % part.count;
  for (int w = 0; w < to.count; ++w) to.words[w * to.rows + row] = 0;
  int32_t size = 0;
  bool real = uint64_t(cells[c]) <= uint64_t(INT32_MAX);
  for (int64_t a = 0; a < part.corners; ++a) {
    const int64_t node = part.node(c, face, a);
    real &= node >= 0;
    if (node < 0 || !counts(part, c, face, a)) continue;
    ++size;
    int64_t rank = 0;
    for (int64_t b = 0; b < part.corners; ++b) {
      const int64_t other = part.node(c, face, b);
      if (other < node || (other == node && b < a)) rank += counts(part, c, face, b);
    }
    to.word(row, rank) |= uint64_t(node) << to.shift(rank);
  }
  to.size[row] = real && size >= least ? size : 0;
  to.cell[row] = real ? static_cast<int32_t>(cells[c]) : 0;
  placed[row] = -1;
}

__global__ void count_up(int64_t n, int32_t* out) {
  const int64_t i = thread_number();
  if (i < n) out[i] = static_cast<int32_t>(i);
}

__global__ void fetch_cells(Packed rows, const int32_t* order, int64_t n, uint64_t* key) {
  const int64_t i = thread_number();
  if (i < n) key[i] = rows.cell[order[i]];
}

__global__ void fetch_words(Packed rows, int w, const int32_t* order, int64_t n, uint64_t* key) {
  const int64_t i = thread_number();
  if (i < n) key[i] = rows.words[w * rows.rows + order[i]];
}

// What is none comes last.
__global__ void fetch_sizes(Packed rows, int64_t widest, const int32_t* order, int64_t n,
                            uint64_t* key) {
  const int64_t i = thread_number();
  if (i >= n) return;
  const int32_t size = rows.size[order[i]];
  key[i] = size ? size : widest + 1;
}

// Two counts at once: new faces in the low half, rows that are real in the high one.
__global__ void mark_new(Packed rows, const int32_t* order, int64_t n, int64_t* mark) {
  const int64_t i = thread_number();
  if (i >= n) return;
  const bool real = rows.size[order[i]] > 0;
  mark[i] = int64_t(real) << 32 | (real && (i == 0 || !rows.same(order[i], order[i - 1])));
}

__device__ int64_t face_of(const int64_t* sums, int64_t i) { return (sums[i] & 0xffffffff) - 1; }

__global__ void find_starts(const int64_t* sums, int64_t real, int64_t faces, int32_t* start) {
  const int64_t i = thread_number();
  if (i == 0) start[faces] = static_cast<int32_t>(real);
  if (i < real && (i == 0 || face_of(sums, i) != face_of(sums, i - 1)))
    start[face_of(sums, i)] = static_cast<int32_t>(i);
}

struct Faces {
  Packed rows;
  const int32_t *order, *start;  // rows in order, where each face begins there

  __device__ int32_t count(int64_t f) const { return start[f + 1] - start[f]; }
  __device__ int64_t first(int64_t f) const { return order[start[f]]; }
  __device__ int64_t owner(int64_t f) const { return rows.cell[first(f)]; }
  __device__ int64_t neighbour(int64_t f) const {
    return count(f) > 1 ? rows.cell[order[start[f] + 1]] : -1;
  }
};

// The number that `meshsim.ops.tables` sorts faces by whose corners do not fit 63 bits.
__global__ void hash_faces(Faces faces, int64_t n, uint64_t* key) {
  const int64_t f = thread_number();
  if (f >= n) return;
  const int64_t row = faces.first(f);
  const int32_t size = faces.rows.size[row];
  uint64_t hash = faces.rows.corner(row, 0);
  for (int32_t i = 1; i < size; ++i) {
    const uint64_t shifted = static_cast<uint64_t>(static_cast<int64_t>(hash) >> 29);
    hash = hash * static_cast<uint64_t>(-7046029254386353131) ^
           (faces.rows.corner(row, i) + shifted);
  }
  // numbers with a sign, in order; those that fit are in order already
  key[f] = int64_t(size) * faces.rows.bits > 63 ? hash ^ uint64_t(1) << 63 : 0;
}

__global__ void face_sizes(Faces faces, const int32_t* order, int64_t n, uint64_t* key) {
  const int64_t i = thread_number();
  if (i < n) key[i] = faces.rows.size[faces.first(order[i])];
}

// Internal faces by owner and neighbour, then the boundary by owner.
__global__ void face_cells(Faces faces, const int32_t* order, int64_t n, uint64_t* key) {
  const int64_t i = thread_number();
  if (i >= n) return;
  const int64_t neighbour = faces.neighbour(order[i]);
  key[i] = uint64_t(neighbour < 0) << 63 | uint64_t(faces.owner(order[i])) << 32 |
           uint64_t(neighbour + 1);
}

// What is known of each face in its place; sizes go where they become offsets.
__global__ void write_faces(Faces faces, const int32_t* order, int64_t n, int64_t* owner,
                            int64_t* neighbour, int64_t* offsets, int64_t* row_offsets,
                            int32_t* place, int32_t* placed) {
  const int64_t i = thread_number();
  if (i == 0) offsets[0] = row_offsets[0] = 0;
  if (i >= n) return;
  const int64_t f = order[i];
  owner[i] = faces.owner(f);
  neighbour[i] = faces.neighbour(f);
  offsets[i + 1] = faces.rows.size[faces.first(f)];
  row_offsets[i + 1] = faces.count(f);
  place[f] = placed[faces.first(f)] = static_cast<int32_t>(i);
}

__global__ void write_rows(Faces faces, const int64_t* sums, int64_t real, const int32_t* place,
                           const int64_t* row_offsets, int64_t* out) {
  const int64_t i = thread_number();
  if (i >= real) return;
  const int64_t f = face_of(sums, i);
  out[row_offsets[place[f]] + i - faces.start[f]] = faces.order[i];
}

// The corners of those faces whose first row is in this part, as the cell lists them.
__global__ void write_corners(Part part, const int32_t* placed, const int64_t* offsets,
                              int64_t* out) {
  const int64_t i = thread_number();
  if (i >= part.rows() || placed[i] < 0) return;
  const int64_t c = i / part.count, face = i % part.count;
  int64_t to = offsets[placed[i]];
  for (int64_t a = 0; a < part.corners; ++a)
    if (counts(part, c, face, a)) out[to++] = part.node(c, face, a);
}

using Table = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Sorts an order further: key(order, n, to) launches what fetches the keys.
template <class Key>
void sort_by(Room<int32_t>& order, Room<uint64_t>& keys, int bits, const Key& key) {
  key(order.data, order.size, keys.data);
  sort_pairs(keys, order, bits);
}

Room<int32_t> counted(const Tensor& like, int64_t n) {
  Room<int32_t> out(like, n);
  launch(like, count_up, blocks_of(n, 256), 256, 0, n, out.data);
  return out;
}

Room<int32_t> sorted_rows(const Tensor& like, const Packed& rows, int64_t widest) {
  const int64_t n = rows.rows;
  const unsigned blocks = blocks_of(n, 256);
  Room<int32_t> order = counted(like, n);
  Room<uint64_t> keys(like, n);
  sort_by(order, keys, 31, [&](const int32_t* by, int64_t, uint64_t* to) {
    launch(like, fetch_cells, blocks, 256, 0, rows, by, n, to);
  });
  for (int w = rows.count; w-- > 0;)
    sort_by(order, keys, rows.bits * rows.each, [&](const int32_t* by, int64_t, uint64_t* to) {
      launch(like, fetch_words, blocks, 256, 0, rows, w, by, n, to);
    });
  sort_by(order, keys, bits_of(widest + 2), [&](const int32_t* by, int64_t, uint64_t* to) {
    launch(like, fetch_sizes, blocks, 256, 0, rows, widest, by, n, to);
  });
  return order;
}

// Faces by their cells, those of the same cells by number of corners, then by corners or a hash.
Room<int32_t> sorted_faces(const Tensor& like, const Faces& faces, int64_t n, int64_t widest) {
  const unsigned blocks = blocks_of(n, 256);
  Room<int32_t> order = counted(like, n);
  Room<uint64_t> keys(like, n);
  if (widest * faces.rows.bits > 63) {
    sort_by(order, keys, 64, [&](const int32_t*, int64_t, uint64_t* to) {
      launch(like, hash_faces, blocks, 256, 0, faces, n, to);
    });
    sort_by(order, keys, bits_of(widest + 1), [&](const int32_t* by, int64_t, uint64_t* to) {
      launch(like, face_sizes, blocks, 256, 0, faces, by, n, to);
    });
  }
  sort_by(order, keys, 64, [&](const int32_t* by, int64_t, uint64_t* to) {
    launch(like, face_cells, blocks, 256, 0, faces, by, n, to);
  });
  return order;
}

std::vector<Tensor> checked(const std::vector<Tensor>& cells, const Parts& parts) {
  if (cells.size() != parts.all.size())
    bad_input("`cells`: expected ", parts.all.size(), " lists as for the nodes, got ",
              cells.size());
  std::vector<Tensor> out;
  for (size_t p = 0; p < cells.size(); ++p) {
    out.push_back(dense(cells[p]));
    check_shape(out[p], parts.all[p].cells, 0, "cells");
    check_index(out[p], int64_t(1) << 31, "cells");
  }
  return out;
}

Table write(const Tensor& like, const Parts& parts, const Faces& faces, const int64_t* sums,
            int64_t n, int64_t real, int32_t* placed) {
  const Room<int32_t> order = sorted_faces(like, faces, n, parts.widest);
  const Room<int32_t> place(like, n);
  const Tensor owner = integers(like, {n}), neighbour = integers(like, {n});
  const Tensor offsets = integers(like, {n + 1}), row_offsets = integers(like, {n + 1});
  launch(like, write_faces, std::max(blocks_of(n, 256), 1u), 256, 0, faces, order.data, n,
         numbers(owner), numbers(neighbour), numbers(offsets), numbers(row_offsets), place.data,
         placed);
  sum_up(like, numbers(offsets), n + 1);
  sum_up(like, numbers(row_offsets), n + 1);
  const Tensor rows = integers(like, {real});
  launch(like, write_rows, blocks_of(real, 256), 256, 0, faces, sums, real, place.data,
         numbers(row_offsets), numbers(rows));
  const Tensor corners = integers(like, {read_back(like, numbers(offsets) + n, 1)[0]});
  for (size_t p = 0; p < parts.all.size(); ++p)
    launch(like, write_corners, blocks_of(parts.all[p].rows(), 256), 256, 0, parts.all[p],
           placed + parts.base[p], numbers(offsets), numbers(corners));
  return {owner, neighbour, offsets, corners, row_offsets, rows};
}

Table cells_to_faces(std::vector<Tensor> nodes, std::vector<Tensor> local,
                     std::vector<Tensor> cells_, int64_t n_points, int64_t min_corners) {
  const Parts parts(nodes, local, n_points);
  const std::vector<Tensor> cells = checked(cells_, parts);
  const auto none = [](int64_t n) { return torch::stable::full({n}, 0.0, ScalarType::Long); };
  if (parts.all.empty()) return {none(0), none(0), none(1), none(0), none(1), none(0)};
  const Tensor& like = parts.nodes[0];
  const int64_t n = parts.rows, widest = parts.widest, bits = bits_of(n_points);
  const int64_t words = (widest - 1) / (62 / bits) + 1, each = (widest - 1) / words + 1;
  const Room<uint64_t> packed(like, words * n);
  const Room<int32_t> size(like, n), cell(like, n), placed(like, n);
  const Packed rows{packed.data,           size.data,              cell.data, n,
                    static_cast<int>(bits), static_cast<int>(each), static_cast<int>(words)};
  for (size_t p = 0; p < parts.all.size(); ++p)
    launch(like, pack_rows, blocks_of(parts.all[p].rows(), 128), 128, 0, parts.all[p],
           static_cast<const int64_t*>(cells[p].const_data_ptr()), parts.base[p],
           std::max<int64_t>(min_corners, 1), rows, placed.data);
  const Room<int32_t> order = sorted_rows(like, rows, widest);
  const Room<int64_t> sums(like, n);
  launch(like, mark_new, blocks_of(n, 256), 256, 0, rows, order.data, n, sums.data);
  sum_up(like, sums.data, n);
  const int64_t last = n ? read_back(like, sums.data + n - 1, 1)[0] : 0;
  const int64_t faces = last & 0xffffffff, real = last >> 32;
  const Room<int32_t> start(like, faces + 1);
  launch(like, find_starts, std::max(blocks_of(real, 256), 1u), 256, 0, sums.data, real, faces,
         start.data);
  return write(like, parts, {rows, order.data, start.data}, sums.data, faces, real, placed.data);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("cells_to_faces", TORCH_BOX(&cells_to_faces));
}

}  // namespace meshsim
