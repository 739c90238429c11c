// Work on lists of entries on the device, for reductions of rows and for attention: list i is
// entries ptr[i] … ptr[i + 1] − 1.
//
// A list is `tiles` jobs (tiles of columns, heads) of `lanes` threads of one warp. A short list is
// done by its job alone, a longer one by all jobs of the warp, a very long one in chunks: one
// launch reduces the chunks, a second joins them in order, a third goes over them with the result.
// Which entry meets which depends on lengths alone, so results have the same bits on every run.
//
// What is done is an Op, given to kernels by value:
//   resident              how many blocks a multiprocessor is to hold
//   Where                 what a thread keeps of its list and columns
//   State                 what entries are reduced to (if `reduces`); plain data
//   where(list, tile, lane) → Where
//   none() → State
//   reduce(state, where, k, end, step): entries k, k + step, … before end. All threads of a warp
//     come here together, each with its own entries or none.
//   joined(a, b) → State
//   store(state, where, rows): the result of a list of that many entries, or, if `applies`,
//   apply(state, where, k, end, step): goes over the entries once more, state now the whole list's
#pragma once

#include "device/device.h"

namespace meshsim {

struct Lists {
  const int64_t* ptr;
  int64_t count, entries;
  __device__ int64_t begin(int64_t i) const { return max(ptr[i], int64_t(0)); }
  __device__ int64_t end(int64_t i) const { return min(ptr[i + 1], entries); }
};

struct Jobs {
  int tiles, lanes;  // a power of two of lanes, at most 32
};

// Lists longer than `size` are done in chunks of entries size · c …: owner (count, 2) has the list
// that goes on in chunk c, and the one that begins in it, or −1.
struct Chunks {
  int64_t* owner;
  int64_t count, size;
};

struct Nothing {};  // the State of what does not reduce

constexpr int list_threads = 256;
constexpr int alone = 32;  // entries at most that a job does alone
constexpr unsigned all_lanes = 0xffffffffu;

// at += by, in a step of its own: else compilers find all places of an unrolled loop beforehand,
// for which there are no registers.
__device__ inline void advance(int64_t& at, int64_t by) {
  at += by;
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(at));
#endif
}

// How many of k, k + step, … are before end: of one job there are no more than of a chunk.
__device__ inline int count_of(int64_t k, int64_t end, int step) {
  return k < end ? (static_cast<int>(end - k) + step - 1) / step : 0;
}

template <class T>
__device__ inline T exchanged(const T& mine, int by) {
  static_assert(sizeof(T) % 4 == 0);
  uint32_t words[sizeof(T) / 4];
  memcpy(words, &mine, sizeof(T));
#pragma unroll
  for (int i = 0; i < int(sizeof(T) / 4); ++i) words[i] = __shfl_xor_sync(all_lanes, words[i], by);
  T other;
  memcpy(&other, words, sizeof(T));
  return other;
}

// The states of the warp's jobs together, the same bits in each of them.
template <class Op>
__device__ inline void join_in_warp(const Op& op, int lanes, typename Op::State& state) {
  for (int by = lanes; by < 32; by *= 2) {
    const typename Op::State other = exchanged(state, by);
    state = threadIdx.x & by ? op.joined(other, state) : op.joined(state, other);
  }
}

// Those of the block's jobs, in the first `lanes` threads.
template <class Op>
__device__ inline void join_in_block(const Op& op, int lanes, typename Op::State* room,
                                     typename Op::State& state) {
  join_in_warp(op, lanes, state);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane < lanes) room[warp * lanes + lane] = state;
  __syncthreads();
  if (warp == 0 && lane < lanes)
    for (int w = 1; w < list_threads / 32; ++w) state = op.joined(state, room[w * lanes + lane]);
  __syncthreads();
}

template <class Op>
__global__ void __launch_bounds__(list_threads, Op::resident)
    whole_lists(const Op op, Lists by, Jobs jobs, Chunks chunks) {
  const int lane = threadIdx.x & (jobs.lanes - 1), place = threadIdx.x % 32;
  int64_t list = int64_t(blockIdx.x) * (list_threads / jobs.lanes) + threadIdx.x / jobs.lanes;
  int tile = 0;
  if (jobs.tiles > 1) {
    const int64_t job = list;
    list = job >> 32 ? job / jobs.tiles : int64_t(uint32_t(job) / uint32_t(jobs.tiles));
    tile = static_cast<int>(job - list * jobs.tiles);
  }
  bool mine = list < by.count;
  if (!mine) list = by.count - 1, tile = 0;
  const int64_t begin = by.begin(list);
  int64_t end = by.end(list);
  if (mine && end - begin > chunks.size) {
    const int64_t first = begin / chunks.size, last = (end - 1) / chunks.size;
    for (int64_t c = first + lane; tile == 0 && c <= last; c += jobs.lanes)
      chunks.owner[2 * c + (c == first)] = list;
    mine = false;
  }
  if (!mine) end = begin;
  const bool together = jobs.lanes < 32 && end - begin > alone;
  unsigned left = __ballot_sync(all_lanes, together && lane == 0);
  for (bool own = true; own || left; own = false) {
    int64_t at = list, from = begin, to = together ? begin : end, rows = end - begin;
    int part = tile, step = 1;
    bool writes = mine && !together;
    if (!own) {  // the next list that the whole warp does
      const int source = __ffs(left) - 1;
      left &= left - 1;
      at = __shfl_sync(all_lanes, list, source);
      part = __shfl_sync(all_lanes, tile, source);
      from = __shfl_sync(all_lanes, begin, source);
      to = __shfl_sync(all_lanes, end, source);
      rows = to - from;
      from += place / jobs.lanes;
      step = 32 / jobs.lanes;
      writes = place < jobs.lanes;
    }
    const typename Op::Where where = op.where(at, part, lane);
    typename Op::State state = op.none();
    if constexpr (Op::reduces) {
      op.reduce(state, where, from, to, step);
      if (!own) join_in_warp(op, jobs.lanes, state);
    }
    if constexpr (Op::applies) op.apply(state, where, from, to, step);
    else if (writes) op.store(state, where, rows);
  }
}

// Calls work(list, id, first, last) for this block's pieces of long lists: entries from first, before last.
template <class Work>
__device__ inline void each_piece(Lists by, Jobs jobs, Chunks chunks, const Work& work) {
  const int64_t group = blockIdx.x / jobs.tiles, groups = gridDim.x / jobs.tiles;
  const int64_t mine = group + threadIdx.x % 32 * groups;
  const bool any = mine < chunks.count &&
                   (chunks.owner[2 * mine] >= 0 || chunks.owner[2 * mine + 1] >= 0);
  for (unsigned left = __ballot_sync(all_lanes, any); left; left &= left - 1) {
    const int64_t c = group + (__ffs(left) - 1) * groups;
    for (int64_t id = 2 * c; id < 2 * c + 2; ++id) {
      const int64_t list = chunks.owner[id];
      if (list >= 0)
        work(list, id, max(by.begin(list), c * chunks.size),
             min(by.end(list), (c + 1) * chunks.size));
    }
  }
}

template <class Op>
__global__ void __launch_bounds__(list_threads, Op::resident)
    reduce_pieces(const Op op, Lists by, Jobs jobs, Chunks chunks, typename Op::State* parts) {
  __shared__ typename Op::State room[list_threads];
  const int lane = threadIdx.x & (jobs.lanes - 1), tile = blockIdx.x % jobs.tiles;
  each_piece(by, jobs, chunks, [&](int64_t list, int64_t id, int64_t first, int64_t last) {
    typename Op::State state = op.none();
    op.reduce(state, op.where(list, tile, lane), first + threadIdx.x / jobs.lanes, last,
              list_threads / jobs.lanes);
    join_in_block(op, jobs.lanes, room, state);
    if (threadIdx.x < jobs.lanes) parts[(id * jobs.tiles + tile) * jobs.lanes + lane] = state;
  });
}

// The result of every long list, stored or, for those to go over once more, kept in `totals` at the
// chunk where the list begins.
template <class Op>
__global__ void __launch_bounds__(list_threads)
    join_pieces(const Op op, Lists by, Jobs jobs, Chunks chunks, const typename Op::State* parts,
                typename Op::State* totals) {
  __shared__ typename Op::State room[list_threads];
  const int lane = threadIdx.x & (jobs.lanes - 1), tile = blockIdx.x % jobs.tiles;
  const int64_t first = int64_t(blockIdx.x / jobs.tiles) * 32, mine = first + threadIdx.x % 32;
  const bool begins = mine < chunks.count && chunks.owner[2 * mine + 1] >= 0;
  for (unsigned left = __ballot_sync(all_lanes, begins); left; left &= left - 1) {
    const int64_t c = first + __ffs(left) - 1, list = chunks.owner[2 * c + 1];
    const int64_t pieces = (by.end(list) - 1) / chunks.size - c + 1;
    typename Op::State state = op.none();
#pragma unroll 4
    for (int64_t p = threadIdx.x / jobs.lanes; p < pieces; p += list_threads / jobs.lanes) {
      const int64_t id = p ? 2 * (c + p) : 2 * c + 1;
      state = op.joined(state, parts[(id * jobs.tiles + tile) * jobs.lanes + lane]);
    }
    join_in_block(op, jobs.lanes, room, state);
    if (threadIdx.x >= jobs.lanes) continue;
    if constexpr (Op::applies) totals[(c * jobs.tiles + tile) * jobs.lanes + lane] = state;
    else op.store(state, op.where(list, tile, lane), by.end(list) - by.begin(list));
  }
}

template <class Op>
__global__ void __launch_bounds__(list_threads, Op::resident)
    apply_pieces(const Op op, Lists by, Jobs jobs, Chunks chunks,
                 const typename Op::State* totals) {
  const int lane = threadIdx.x & (jobs.lanes - 1), tile = blockIdx.x % jobs.tiles;
  each_piece(by, jobs, chunks, [&](int64_t list, int64_t, int64_t first, int64_t last) {
    typename Op::State state = op.none();
    if constexpr (Op::reduces)
      state = totals[(by.begin(list) / chunks.size * jobs.tiles + tile) * jobs.lanes + lane];
    op.apply(state, op.where(list, tile, lane), first + threadIdx.x / jobs.lanes, last,
             list_threads / jobs.lanes);
  });
}

template <class Op>
void over_lists(const Tensor& like, const Op& op, Lists by, Jobs jobs) {
  typedef typename Op::State State;
  if (by.count == 0 || jobs.tiles == 0) return;
  const int64_t slices = list_threads / jobs.lanes, size = alone * slices;
  const int64_t count = by.entries > size ? (by.entries + size - 1) / size : 0;
  const Room<int64_t> owner(like, 2 * count);
  set_bits(owner);
  const Chunks chunks{owner.data, count, size};
  launch(like, whole_lists<Op>, blocks_of(by.count * jobs.tiles, slices), dim3(list_threads), 0, op,
         by, jobs, chunks);
  if (count == 0) return;
  // enough blocks to fill the device, none with more chunks than a warp has threads
  const int64_t blocks = std::max((count + 31) / 32, std::min<int64_t>(count, 1024));
  const dim3 grid(static_cast<unsigned>(blocks * jobs.tiles));
  const int64_t states = Op::reduces ? count * jobs.tiles * jobs.lanes : 0;
  const Room<State> parts(like, 2 * states), totals(like, Op::applies ? states : 0);
  if constexpr (Op::reduces) {
    launch(like, reduce_pieces<Op>, grid, dim3(list_threads), 0, op, by, jobs, chunks, parts.data);
    launch(like, join_pieces<Op>, dim3(blocks_of(count, 32) * jobs.tiles), dim3(list_threads), 0,
           op, by, jobs, chunks, parts.data, totals.data);
  }
  if constexpr (Op::applies)
    launch(like, apply_pieces<Op>, grid, dim3(list_threads), 0, op, by, jobs, chunks, totals.data);
}

}  // namespace meshsim
