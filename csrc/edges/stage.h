// What a warp needs of its next tile comes into shared memory while it computes one: in registers
// there is no room for rows on their way, and a tile waited for each of them in turn.
#pragma once

#include "edges/rows.h"

namespace meshsim {
namespace {

// Sender and receiver of the edge in row lane % 16 of a tile; beyond the last edge those of it.
struct Ends {
  int64_t src, dst;
};
template <class S>
__device__ inline Ends ends_of(const EdgeRows<S>& in, int64_t k, int64_t last) {
  const int64_t mine = min(k + threadIdx.x % 16, last - 1);
  return {in.src[mine], in.dst[mine]};
}

// A warp's room: 16 rows as edges are stored and 16 of `ps`. Rows begin in different banks.
template <int G, class S>
struct Stage {
  static constexpr int e_row = 16 * G + 8 * int(sizeof(S)), ps_row = 16 * G + 16;
  static constexpr int64_t bytes = 16 * (e_row * int64_t(sizeof(S)) + ps_row * 4);
  S* e;
  float* ps;

  __device__ explicit Stage(unsigned char* room) {
    room += turn_bytes + threadIdx.x / 32 * bytes;
    e = reinterpret_cast<S*>(room);
    ps = reinterpret_cast<float*>(room + 16 * e_row * sizeof(S));
  }
  // Sends rows k … k + 15 of `from`, those beyond the last being that again.
  __device__ void send_rows(const S* from, int64_t k, int64_t last, int width) const {
    constexpr int pack = 16 / sizeof(S);
    const int lane = threadIdx.x % 32, own = pack * (lane % 8);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int row = 4 * q + lane / 8;
      const S* begin = from + min(k + row, last - 1) * width;
#pragma unroll
      for (int c = 0; c < 16 * G; c += 8 * pack)
        if (c + own < width) copy_async(e + row * e_row + c + own, begin + c + own);
    }
    commit_copies();
  }
  // Sends what the tile's senders give; what does not exist is not read.
  __device__ void send_senders(const EdgeRows<S>& in, const Ends& ends) const {
    const int lane = threadIdx.x % 32, own = 4 * (lane % 8);
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int row = 4 * q + lane / 8;
      const int64_t from = __shfl_sync(everyone, ends.src, row);
      const bool there = uint64_t(from) < uint64_t(in.nodes);
      const float* begin = in.ps + from * in.ps_stride;
#pragma unroll
      for (int c = 0; c < 16 * G; c += 32)
        if (there && c + own < in.width)
          copy_async(ps + row * ps_row + c + own, begin + c + own);
    }
    commit_copies();
  }
  __device__ void edges(const Place& at, const S* (&rows)[2]) const {
    rows[0] = e + at.row * e_row, rows[1] = rows[0] + 8 * e_row;
  }
  __device__ void senders(const Place& at, const float* (&rows)[2]) const {
    rows[0] = ps + at.row * ps_row, rows[1] = rows[0] + 8 * ps_row;
  }
};

// Has the rows of the tile's receivers come as far as the last cache.
template <int G>
__device__ inline void fetch_receivers(const float* rows, int64_t stride, int width, int64_t nodes,
                                       const Ends& ends) {
  const int lane = threadIdx.x % 32, own = 32 * (lane % 2);
  const int64_t to = __shfl_sync(everyone, ends.dst, lane / 2);
  const bool there = uint64_t(to) < uint64_t(nodes);
#pragma unroll
  for (int c = 0; c < 16 * G; c += 64)
    if (there && c + own < width) fetch(rows + to * stride + c + own);
}

// x = the rows of the tile's receivers; zeros where a node does not exist, which `missing` tells.
template <int G>
__device__ inline void receivers(const Place& at, const float* rows, int64_t stride, int64_t nodes,
                                 const Ends& ends, bool (&missing)[2], Rows<G>& x) {
  const float* to[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t d = __shfl_sync(everyone, ends.dst, at.row + 8 * h);
    missing[h] = uint64_t(d) >= uint64_t(nodes);
    to[h] = missing[h] ? nullptr : rows + d * stride;
  }
  set_rows(at, to, x);
}

// `first_values` out of what has been sent.
template <int G, class S>
__device__ inline void sent_values(const Place& at, const EdgeRows<S>& in, const Stage<G, S>& stage,
                                   const Ends& ends, Rows<G>& x) {
  bool missing[2];
  const float* from[2];
  receivers(at, in.pd, in.pd_stride, in.nodes, ends, missing, x);
  add_row(at, in.bias, x);
  stage.senders(at, from);
  add_rows(at, from, x);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t s = __shfl_sync(everyone, ends.src, at.row + 8 * h);
    if (missing[h] || uint64_t(s) >= uint64_t(in.nodes)) add_number(NAN, h, x);
  }
}

template <int G, class S>
constexpr int64_t staged_bytes(int64_t count) {
  return shared_bytes<G, 1>(count, true) + block_warps * Stage<G, S>::bytes;
}
template <int G, class S>
bool fits_staged(const Tensor& like, int64_t count) {
  return staged_bytes<G, S>(count) + 1024 <= most_shared(like);
}

}  // namespace
}  // namespace meshsim
