// Rows of numbers in lists on the device, read and written in packs of 16 bytes where that comes
// out even: what reductions of rows share beside lists.h.
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "segment/lists.h"
#include "segment/segment.h"

namespace meshsim {

template <int bytes>
struct Word;
template <>
struct Word<1> { typedef uint8_t type; };
template <>
struct Word<2> { typedef uint16_t type; };
template <>
struct Word<4> { typedef uint32_t type; };
template <>
struct Word<8> { typedef uint64_t type; };
template <>
struct Word<16> { typedef uint4 type; };

template <class S, int V>
struct Pack {
  S at[V];
};

// `p` is aligned to the whole pack.
template <int V, class S>
__device__ inline Pack<S, V> get(const S* p) {
  const auto raw = *reinterpret_cast<const typename Word<V * sizeof(S)>::type*>(p);
  Pack<S, V> out;
  memcpy(&out, &raw, sizeof(out));
  return out;
}

template <int V, class S>
__device__ inline void put(S* p, const Pack<S, V>& x) {
  typename Word<V * sizeof(S)>::type raw;
  memcpy(&raw, &x, sizeof(raw));
  *reinterpret_cast<decltype(raw)*>(p) = raw;
}

__device__ inline float exp_of(float x) { return expf(x); }
__device__ inline double exp_of(double x) { return exp(x); }
__device__ inline float log_of(float x) { return logf(x); }
__device__ inline double log_of(double x) { return log(x); }

// exp(x − top) of an x not above it, where both may be infinite.
template <class A>
__device__ inline A share_of(A x, A top) {
  return x == -A(INFINITY) ? A(0) : x == top ? A(1) : exp_of(x - top);
}

// Where a thread works: `rows` and `lists` say where its columns begin in the arrays of either.
struct Columns {
  int64_t rows, lists;
  bool inside;
};

// Arrays (batch, rows, width) and (batch, lists, width), and which row an entry of a list is:
// itself, the one in `pick`, which may not be there, or the one in `order`.
struct Layout {
  int64_t rows, lists, width;
  int tiles;  // of columns
  const int64_t* pick;
  const int32_t* order;

  template <int V>
  __device__ Columns columns(int64_t list, int tile, int lane, int lanes) const {
    int64_t batch = 0;
    if (tile >= tiles) {
      batch = tile / tiles;
      tile -= static_cast<int>(batch) * tiles;
    }
    const int64_t column = (int64_t(tile) * lanes + lane) * V;
    return {batch * rows * width + column, (batch * lists + list) * width + column, column < width};
  }
  __device__ int64_t row(int64_t k) const { return order ? order[k] : pick ? pick[k] : k; }
  __device__ bool has(int64_t row) const { return uint64_t(row) < uint64_t(rows); }
};

// Takes entries k, k + step, … before end, `several` at a time so that their loads overlap:
// op.item(at) loads one, `at` counted from the start of the array, op.missing() is that of a row
// that is not there, op.batch(state, where, items, at, k, step, left) has them, the first `left`;
// the others are the last one again, so that no load waits for a branch.
template <class Op, class State>
__device__ inline void take_rows(const Op& op, State& state, const typename Op::Where& where,
                                 int64_t k, int64_t end, int step) {
  constexpr int several = Op::several;
  const bool listed = op.in.pick || op.in.order;
  const int64_t stride = step * op.in.width, column = static_cast<const Columns&>(where).rows;
  int64_t here = column + k * op.in.width;
#pragma unroll 1
  for (int left = count_of(k, end, step); left > 0; left -= several) {
    typename Op::Item items[several];
    int64_t at[several], entry = k;
    if (listed) {
#pragma unroll
      for (int u = 0; u < several; ++u) {
        at[u] = op.in.row(entry);
        advance(entry, u + 1 < left ? step : 0);
      }
#pragma unroll
      for (int u = 0; u < several; ++u) {
        const bool there = op.in.has(at[u]);
        at[u] = column + at[u] * op.in.width;
        items[u] = there ? op.item(at[u]) : op.missing();
      }
    } else {
#pragma unroll
      for (int u = 0; u < several; ++u) {
        at[u] = here;
        items[u] = op.item(here);
        advance(here, u + 1 < left ? stride : 0);
      }
    }
    op.batch(state, where, items, at, k, step, left);
    k += several * step;
  }
}

// How the columns of rows are cut: into packs of V numbers, and those into tiles of `lanes`.
inline Jobs jobs_for(int64_t packs) {
  int lanes = 1;
  while (lanes < packs && lanes < 32) lanes *= 2;
  const auto work = [&](int64_t n) { return (packs + n - 1) / n * n; };
  for (int fewer : {16, 8})  // fewer threads without a column
    if (lanes > fewer && work(fewer) < work(lanes)) lanes = fewer;
  return {static_cast<int>((packs + lanes - 1) / lanes), lanes};
}

// Contiguous, and on a boundary for packs: the order of sums must not depend on where memory lies.
inline Tensor packed(const Tensor& x) {
  const Tensor out = dense(x);
  return reinterpret_cast<uintptr_t>(out.const_data_ptr()) % 16 ? torch::stable::clone(out) : out;
}

// Calls work(pack) with pack::value the numbers in a pack: 16 bytes, or one.
template <class S, class Work>
void with_pack(int64_t width, const Work& work) {
  constexpr int most = 16 / sizeof(S);
  if (width % most == 0) work(std::integral_constant<int, most>{});
  else work(std::integral_constant<int, 1>{});
}

// What a reduction is given: (batch, rows, width) numbers and their lists.
struct RowLists {
  Block block;
  int64_t lists, entries;
  const int64_t* ptr;
  const int64_t* pick = nullptr;
  const int32_t* order = nullptr;
};

// Of the rows in `order` those that no list holds, because their index is wrong, become NaN, or 0
// for integers: else what is returned would be whatever lay in that memory.
template <class S>
__global__ void fill_left_out(Layout in, Lists by, int64_t batch, S value, S* out) {
  const int64_t first = by.ptr[by.count], each = batch * in.width;
  const int64_t total = (by.entries - first) * each;
  for (int64_t i = thread_number(); i < total; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t b = i % each / in.width, column = i % in.width;
    out[(b * in.rows + in.row(first + i / each)) * in.width + column] = value;
  }
}

template <class S>
void mark_left_out(const Tensor& like, const RowLists& of, const Layout& in, S* out) {
  S value;
  std::memset(&value, is_float(of.block.dtype) ? 0xff : 0, sizeof(S));  // all bits set are NaN
  const unsigned blocks = std::min(blocks_of(of.entries, 256), 4 * processors(like));
  launch(like, fill_left_out<S>, blocks, 256, 0, in, Lists{of.ptr, of.lists, of.entries},
         of.block.batch, value, out);
}

// Runs op, which is given the layout and lanes for packs of V.
template <int V, class Op>
void over_rows(const Tensor& like, const RowLists& of, Op op) {
  if (of.block.batch == 0 || of.block.width == 0) return;
  Jobs jobs = jobs_for((of.block.width + V - 1) / V);
  op.in = {of.block.rows, of.lists, of.block.width, jobs.tiles, of.pick, of.order};
  op.lanes = jobs.lanes;
  jobs.tiles *= static_cast<int>(of.block.batch);
  over_lists(like, op, {of.ptr, of.lists, of.entries}, jobs);
  if constexpr (Op::applies)
    if (of.order) mark_left_out(like, of, op.in, op.out);
}

// What segment.h declares for the CPU, for arrays on the device of `like`.
void fold(const Tensor& like, const RowLists& of, Fold how, const void* from, void* out);
void extreme(const Tensor& like, const RowLists& of, bool least, const void* from, void* out,
             int64_t* arg);
void softmax(const Tensor& like, const RowLists& of, const void* from, void* out);
void softmax_backward(const Tensor& like, const RowLists& of, const void* grad, const void* y,
                      void* out);
void logsumexp(const Tensor& like, const RowLists& of, const void* from, void* out);
void logsumexp_backward(const Tensor& like, const RowLists& of, const void* grad,
                        const void* from, const void* y, void* out);
void spread(const Tensor& like, const RowLists& of, bool mean, const void* from, void* out);
// out (B, E, K): the row of each list at arg, 0 elsewhere.
void place(const Tensor& like, const RowLists& of, const void* from, const int64_t* arg, void* out);

}  // namespace meshsim
