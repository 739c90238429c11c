// The way back through an MLP on tensor cores. A tile's hidden layers are computed anew; what the
// weights' gradients need of them is kept for a chunk of rows and multiplied by outer.h.
#pragma once

#include <type_traits>

#include "device/outer.h"
#include "device/tensor.h"

namespace meshsim {

// What is kept of a chunk's hidden layers 1, 2, 3: results of the activation before them, its
// derivatives (SiLU alone), gradients of their own results. K: bfloat16, or float32 if products
// are as good as that.
template <class K>
struct Kept {
  K* room;
  int64_t each;  // numbers of one of them
  int kinds;
  __host__ __device__ K* after(int l) const { return room + (kinds * l) * each; }
  __host__ __device__ K* grad(int l) const { return room + (kinds * l + 1) * each; }
  __host__ __device__ K* slope(int l) const { return room + (kinds * l + 2) * each; }
};

// How many tasks make the gradients of the norm: fixed by the rows, a multiple of a block's warps.
inline int64_t tasks_of(int64_t rows) {
  return min(int64_t(2048), (rows + 127) / 128 * int64_t(block_warps));
}

namespace {

// The tiles of task i: all tasks take their tiles' rows in `steps` steps.
struct Task {
  int64_t first, last;  // rows
};
__device__ inline Task task_of(int64_t i, int64_t tasks, int64_t steps, int64_t rows) {
  const int64_t first = min(16 * steps * i, rows);
  return {first, i < tasks ? min(first + 16 * steps, rows) : first};
}

// From the first layer's result to the last layer's.
template <int G, int parts, bool resident, class K>
__device__ inline void keep_layers(const Place& at, Weights<G, parts, resident>& weights,
                                   int layers, bool silu, const float* bias, const Kept<K>& kept,
                                   int64_t k, int64_t last, Left<G, parts>& a, Rows<G>& x) {
  for (int l = 1; l < layers; ++l) {
    K *slopes[2], *after[2];
    two_rows(at, kept.slope(l - 1), k, last, slopes);
    two_rows(at, kept.after(l - 1), k, last, after);
    activate_rows<parts != 1>(at, silu, x, slopes, true);
    store_rows(at, x, after);
    to_left(x, a);
    fill_rows(at, bias + l * at.width, x);
    multiply<false>(weights, a, x);
  }
}

// x, the argument of LayerNorm, becomes its gradient; `grad` is that of the result. Adds what the
// tile's first `rows` rows give for the norm's weight and bias, lane l having columns 32c + l.
template <int G>
__device__ inline void normalise_back(const Place& at, const float* norm, float eps,
                                      const Rows<G>& grad, int rows, float* tile,
                                      float (&gamma_sum)[G / 2], float (&beta_sum)[G / 2],
                                      Rows<G>& x) {
  float mean[2], scale[2], sum[2] = {}, dot[2] = {};
  moments_of(at, x, eps, mean, scale);
#pragma unroll
  for (int j = 0; j < G; ++j) {
    float gamma[4];
    load_group(at, norm, j, gamma);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x(j, h, i) = (x(j, h, i) - mean[h]) * scale[h];
        sum[h] += grad(j, h, i) * gamma[i];
        dot[h] += grad(j, h, i) * gamma[i] * x(j, h, i);
      }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] = row_sum(sum[h]) * at.share;
    dot[h] = row_sum(dot[h]) * at.share;
#pragma unroll
    for (int c = 0; c < G / 2; ++c) {
      by_column([&](int j, int i) { return grad(j, h, i); }, tile, c,
                [&](int r, float y) { beta_sum[c] += 8 * h + r < rows ? y : 0.f; });
      by_column([&](int j, int i) { return grad(j, h, i) * x(j, h, i); }, tile, c,
                [&](int r, float y) { gamma_sum[c] += 8 * h + r < rows ? y : 0.f; });
    }
  }
#pragma unroll
  for (int j = 0; j < G; ++j) {
    float gamma[4];
    load_group(at, norm, j, gamma);
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x(j, h, i) = scale[h] * (grad(j, h, i) * gamma[i] - sum[h] - x(j, h, i) * dot[h]);
  }
}

// grad = grad · activation', from what is kept.
template <int G, class K>
__device__ inline void activate_back(const Place& at, bool silu, const Kept<K>& kept, int l,
                                     int64_t k, int64_t last, Rows<G>& grad) {
  K* rows[2];
  two_rows(at, silu ? kept.slope(l) : kept.after(l), k, last, rows);
#pragma unroll
  for (int part = 0; part < 2; ++part) {  // of the groups: as many on their way as there is room
    constexpr int half = G / 2;
    float y[half][2][4];
#pragma unroll
    for (int j = 0; j < half; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) load_group(at, rows[h], half * part + j, y[j][h]);
#pragma unroll
    for (int j = 0; j < half; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float& g = grad(half * part + j, h, i);
          const float slope = y[j][h][i];
          g = silu ? g * slope : slope <= 0.f ? 0.f : g;
        }
  }
}

// From the gradient of the last layer's result in x to that of the first layer's.
template <int G, int parts, bool resident, class K>
__device__ inline void back_through_layers(const Place& at, Weights<G, parts, resident>& weights,
                                           int layers, bool silu, const Kept<K>& kept, int64_t k,
                                           int64_t last, Left<G, parts>& a, Rows<G>& x) {
  for (int l = layers - 1; l > 0; --l) {
    K* grad[2];
    two_rows(at, kept.grad(l - 1), k, last, grad);
    store_rows(at, x, grad);
    to_left(x, a);
    fill_rows(at, static_cast<const float*>(nullptr), x);
    multiply<true>(weights, a, x);
    activate_back(at, silu, kept, l - 1, k, last, x);
  }
}

// A task's sums for the norm, to or onto its place in (tasks, 2, width).
template <int G>
__device__ inline void store_norm_sums(const float (&gamma_sum)[G / 2],
                                       const float (&beta_sum)[G / 2], int width, bool add,
                                       float* to) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int c = 0; c < G / 2; ++c) {
    const int j = 32 * c + lane;
    if (j >= width) continue;
    to[j] = (add ? to[j] : 0.f) + gamma_sum[c];
    to[width + j] = (add ? to[width + j] : 0.f) + beta_sum[c];
  }
}

// Memory for what is kept of `rows` rows.
template <class K>
struct KeptRoom {
  Tensor room;
  Kept<K> kept;

  KeptRoom(const Tensor& like, int64_t layers, bool silu, int64_t rows, int64_t width) {
    const int64_t each = rows * width, hidden = layers - 1, kinds = silu ? 3 : 2;
    const int64_t numbers = (hidden * kinds * each * static_cast<int64_t>(sizeof(K)) + 3) / 4;
    room = torch::stable::new_empty(like, {numbers});
    kept = {reinterpret_cast<K*>(room.mutable_data_ptr<float>()), each, static_cast<int>(kinds)};
  }
};

}  // namespace
}  // namespace meshsim
