// Gradients of weights and biases on tensor cores: Σ over rows of gᵀ a, and of g.
#pragma once

#include "device/plain.h"
#include "device/tensor.h"

namespace meshsim {
namespace {

constexpr int outer_rows = 32;  // at a time

// Several products of one kind in one launch: of g and a (rows, width), where their results are
// in a part's sums; bias −1: not wanted.
template <class S>
struct Outer {
  int count;
  const S *g[8], *a[8];
  int64_t weight[8], bias[8];
};

// Four columns of some rows of a chunk, on their way from memory into shared memory.
template <int T, class S>
struct Strip {
  static constexpr int threads = T / 4, step = 256 / threads, rows = outer_rows / step;
  float at[rows][4];

  __device__ void load(const S* x, int64_t first, int64_t last, int column, int width) {
    const int j = column + 4 * (threadIdx.x % threads);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int64_t r = first + threadIdx.x / threads + step * i;
      at[i][0] = at[i][1] = at[i][2] = at[i][3] = 0.f;
      if (r < last && j < width) load4(x + r * width + j, at[i]);
    }
  }
  template <int parts>
  __device__ void store(uint16_t* tile) const {
    const int j = 4 * (threadIdx.x % threads);
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      const int r = threadIdx.x / threads + step * i;
      uint16_t out[4][parts];
#pragma unroll
      for (int c = 0; c < 4; ++c) split(at[i][c], out[c]);
#pragma unroll
      for (int p = 0; p < parts; ++p) {
        uint2 two;
        two.x = out[0][p] | uint32_t(out[1][p]) << 16;
        two.y = out[2][p] | uint32_t(out[3][p]) << 16;
        *reinterpret_cast<uint2*>(tile + (p * outer_rows + r) * (T + 8) + j) = two;
      }
    }
  }
};

// Part blockIdx.x of the products blockIdx.z, tile blockIdx.y of T × T: 4 × 2 warps.
template <int T, int parts, class S>
__global__ void __launch_bounds__(256, parts == 1 ? 2 : 1)
    add_outer(Outer<S> jobs, int64_t rows, int width, bool add, float* sums, int64_t stride) {
  constexpr int row_size = T + 8, plane = outer_rows * row_size;
  constexpr int M = T / 64, N = T / 32;  // tiles of 16 × 16 that make a warp's T / 4 × T / 2
  SHARED_ROOM(room);
  uint16_t *tile_g = reinterpret_cast<uint16_t*>(room), *tile_a = tile_g + parts * plane;
  const int tiles = (width + T - 1) / T, n0 = blockIdx.y / tiles * T, k0 = blockIdx.y % tiles * T;
  const int job = blockIdx.z, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t size = (rows + gridDim.x - 1) / gridDim.x, first = blockIdx.x * size;
  const int64_t last = min(rows, first + size);
  const int warp_n = warp % 4 * (T / 4), warp_k = warp / 4 * (T / 2);
  // see load_matrices: of g the first two matrices lie side by side, of a one below the other
  const int at_g = (8 * (lane / 16) + lane % 8) * row_size + warp_n + 8 * (lane / 8 % 2);
  const int at_a = (8 * (lane / 8 % 2) + lane % 8) * row_size + warp_k + 8 * (lane / 16);
  float sum[M][N][2][4] = {}, column[4] = {};
  Strip<T, S> g, a;
  g.load(jobs.g[job], first, last, n0, width);
  a.load(jobs.a[job], first, last, k0, width);
  for (int64_t r = first; r < last; r += outer_rows) {
    g.template store<parts>(tile_g);
    a.template store<parts>(tile_a);
#pragma unroll
    for (int i = 0; i < Strip<T, S>::rows; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) column[c] += g.at[i][c];
    __syncthreads();
    g.load(jobs.g[job], r + outer_rows, last, n0, width);
    a.load(jobs.a[job], r + outer_rows, last, k0, width);
#pragma unroll
    for (int k = 0; k < outer_rows; k += 16) {
      uint32_t left[M][parts][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int p = 0; p < parts; ++p)
          load_matrices<true>(left[m][p], tile_g + p * plane + at_g + k * row_size + 16 * m);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        uint32_t right[parts][4];
#pragma unroll
        for (int p = 0; p < parts; ++p)
          load_matrices<true>(right[p], tile_a + p * plane + at_a + k * row_size + 16 * n);
#pragma unroll
        for (int m = 0; m < M; ++m) add_product<parts>(left[m], right, sum[m][n]);
      }
    }
    __syncthreads();
  }
  float* out = sums + blockIdx.x * stride;
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N; ++n)
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = n0 + warp_n + 16 * m + lane / 4 + 8 * (i % 4 / 2);
        const int at = k0 + warp_k + 16 * n + 8 * (i / 4) + 2 * (lane % 4) + i % 2;
        if (row >= width || at >= width) continue;
        float& to = out[jobs.weight[job] + int64_t(row) * width + at];
        to = (add ? to : 0.f) + sum[m][n][i / 4][i % 4];
      }
  if (k0 || jobs.bias[job] < 0) return;
  // columns of g: the threads' sums, in their order
  float* columns = reinterpret_cast<float*>(room);
  constexpr int threads = Strip<T, S>::threads;
  store4(columns + 4 * threadIdx.x, column);
  __syncthreads();
  if (threadIdx.x >= T || n0 + threadIdx.x >= width) return;
  float all = 0.f;
  for (int i = 0; i < 256 / threads; ++i) all += columns[i * T + threadIdx.x];
  float& to = out[jobs.bias[job] + n0 + threadIdx.x];
  to = (add ? to : 0.f) + all;
}

template <int parts, class S>
void add_outers(const Outer<S>& jobs, int64_t rows, int width, bool add, Parts<float>& to) {
  if (jobs.count == 0) return;
  const int T = width <= 64 ? 64 : 128, tiles = (width + T - 1) / T;
  const dim3 grid(static_cast<unsigned>(to.parts), tiles * tiles, jobs.count);
  const size_t shared = 2 * parts * outer_rows * (T + 8) * 2;
  if (T == 64)
    launch(to.like, add_outer<64, parts, S>, grid, 256, shared, jobs, rows, width, add, to.at(0),
           to.size);
  else
    launch(to.like, add_outer<128, parts, S>, grid, 256, shared, jobs, rows, width, add, to.at(0),
           to.size);
}

}  // namespace
}  // namespace meshsim
