// The stages of an MLP on rows in device memory, a kernel each: any width, float32 and float64,
// products by multiply-adds. What the tensor cores do not serve runs on these: float64, and widths
// beyond `widest` (device/tensor.h). Rows are `h` numbers wide and lie one after the other.
#pragma once

#include "device/device.h"

namespace meshsim {

// How many rows a call takes at a time, so that what lies between two kernels stays small, and
// in how many parts their sums are made: both fixed by the shape, never by the device.
inline int64_t chunk_rows(int64_t h) {
  return max(int64_t(1024), (int64_t(1) << 25) / h / 16 * 16);
}
inline int64_t parts_of(int64_t rows) {
  return max(int64_t(1), min(int64_t(128), (rows + 511) / 512));
}

namespace {

constexpr int side = 64, deep = 16;  // of the tiles of a product

// A tile of a product: `a` and `b` hold `deep` terms of 64 rows and of 64 columns.
template <class T>
struct Tile {
  T a[deep][side + 4], b[deep][side + 4];
};

template <class T>
__device__ inline void add_products(const Tile<T>& tile, T (&sum)[4][4]) {
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
#pragma unroll
  for (int d = 0; d < deep; ++d)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][j] += tile.a[d][4 * ty + i] * tile.b[d][4 * tx + j];
}

// c (rows, h) = [c +] a · wᵀ, or a · w if `turned`, + bias.
template <class T, class S, bool turned>
__global__ void __launch_bounds__(256)
    multiply_rows(const S* a, const T* w, const T* bias, int64_t rows, int h, bool add, T* c) {
  __shared__ Tile<T> tile;
  const int64_t row = int64_t(blockIdx.x) * side;
  const int column = blockIdx.y * side, tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  T sum[4][4] = {};
  for (int k = 0; k < h; k += deep) {
    for (int i = threadIdx.x; i < side * deep; i += 256) {
      const int r = i / deep, d = i % deep;
      tile.a[d][r] = row + r < rows ? T(a[(row + r) * h + k + d]) : T(0);
      const int n = turned ? i % side : r, e = turned ? i / side : d;
      const int64_t at = turned ? int64_t(k + e) * h + column + n : int64_t(column + n) * h + k + e;
      tile.b[e][n] = column + n < h ? w[at] : T(0);
    }
    __syncthreads();
    add_products(tile, sum);
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int64_t r = row + 4 * ty + i;
      const int n = column + 4 * tx + j;
      if (r >= rows || n >= h) continue;
      T& to = c[r * h + n];
      to = (add ? to : T(0)) + (sum[i][j] + (bias ? bias[n] : T(0)));
    }
}

// w (h, h) of part blockIdx.x = [w +] Σ g[r]ᵀ a[r] over its rows; parts lie `stride` apart.
template <class T, class S>
__global__ void __launch_bounds__(256)
    multiply_outer(const T* g, const S* a, int64_t rows, int h, bool add, T* w, int64_t stride) {
  __shared__ Tile<T> tile;
  const int64_t size = (rows + gridDim.x - 1) / gridDim.x, first = blockIdx.x * size;
  const int64_t last = min(rows, first + size);
  const int n0 = blockIdx.y * side, k0 = blockIdx.z * side;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  T sum[4][4] = {};
  for (int64_t r = first; r < last; r += deep) {
    for (int i = threadIdx.x; i < side * deep; i += 256) {
      const int d = i / side, j = i % side;
      const bool there = r + d < last;
      tile.a[d][j] = there && n0 + j < h ? g[(r + d) * h + n0 + j] : T(0);
      tile.b[d][j] = there && k0 + j < h ? T(a[(r + d) * h + k0 + j]) : T(0);
    }
    __syncthreads();
    add_products(tile, sum);
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j) {
      const int n = n0 + 4 * ty + i, k = k0 + 4 * tx + j;
      if (n >= h || k >= h) continue;
      T& to = w[blockIdx.x * stride + int64_t(n) * h + k];
      to = (add ? to : T(0)) + sum[i][j];
    }
}

// sum (h,) of part blockIdx.x = [sum +] the rows of `x`, in their order.
template <class T>
__global__ void sum_parts(const T* x, int64_t rows, int h, bool add, T* sum, int64_t stride) {
  const int64_t size = (rows + gridDim.x - 1) / gridDim.x, first = blockIdx.x * size;
  const int64_t last = min(rows, first + size);
  for (int j = threadIdx.x; j < h; j += blockDim.x) {
    T& to = sum[blockIdx.x * stride + j];
    T column = 0;
    for (int64_t r = first; r < last; ++r) column += x[r * h + j];
    to = (add ? to : T(0)) + column;
  }
}

// out = the parts' numbers from..from + n − 1, one part after the other.
template <class T>
__global__ void add_parts(const T* partial, int64_t parts, int64_t stride, int64_t from, int64_t n,
                          T* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  T sum = 0;
  for (int64_t p = 0; p < parts; ++p) sum += partial[p * stride + from + i];
  out[i] = sum;
}

template <class T>
__device__ inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-(x < T(-80) ? T(-80) : x)));  // beyond, x · sigmoid(x) is 0
}

// after = activation(z), and z becomes activation'(z) if `keep`.
template <class T>
__global__ void activate(T* z, int64_t n, bool silu, bool keep, T* after) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const T x = z[i], s = silu ? sigmoid(x) : x <= T(0) ? T(0) : T(1);
  const T y = silu ? x * s : x < T(0) ? T(0) : x;
  after[i] = y;
  if (keep) z[i] = silu ? s + y * (T(1) - s) : s;
}

template <class T>
__global__ void multiply_numbers(T* x, const T* y, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) x[i] = y[i] == T(0) ? T(0) : x[i] * y[i];  // a closed ReLU lets no NaN through
}

template <class T, class S>
__global__ void store_numbers(const T* x, int64_t n, S* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = S(x[i]);
}

template <class T>
__device__ inline T total(T x) {  // over a warp, the same in every lane
  for (int by = 16; by; by /= 2) x += __shfl_xor_sync(0xffffffffu, x, by);
  return x;
}

// Mean and 1 / standard deviation of a row, by a warp.
template <class T>
__device__ inline void moments(const T* row, int h, T eps, T& mean, T& scale) {
  T sum = 0, square = 0;
  for (int j = threadIdx.x; j < h; j += 32) sum += row[j];
  mean = total(sum) / T(h);
  for (int j = threadIdx.x; j < h; j += 32) square += (row[j] - mean) * (row[j] - mean);
  scale = T(1) / sqrt(total(square) / T(h) + eps);
}

// out = residual + LayerNorm(z), a warp a row; `wide` gets it before it is rounded, if not null.
template <class T, class S>
__global__ void normalise(const T* z, const S* residual, const T* norm, T eps, int64_t rows, int h,
                          S* out, T* wide) {
  const int64_t r = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  T mean, scale;
  moments(z + r * h, h, eps, mean, scale);
  for (int j = threadIdx.x; j < h; j += 32) {
    const T y = (z[r * h + j] - mean) * scale * norm[j] + norm[h + j] + T(residual[r * h + j]);
    out[r * h + j] = S(y);
    if (wide) wide[r * h + j] = y;
  }
}

// From the gradient of LayerNorm's result to that of its argument z, which takes z's place; and
// `hats`, whose sum over rows is the gradient of the norm's weight.
template <class T>
__global__ void normalise_backward(T* z, const T* grad, const T* norm, T eps, int64_t rows, int h,
                                   T* hats) {
  const int64_t r = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  T mean, scale, sum = 0, dot = 0;
  moments(z + r * h, h, eps, mean, scale);
  for (int j = threadIdx.x; j < h; j += 32) {
    const T hat = (z[r * h + j] - mean) * scale, g = grad[r * h + j];
    hats[r * h + j] = g * hat;
    sum += g * norm[j];
    dot += g * norm[j] * hat;
  }
  sum = total(sum) / T(h);
  dot = total(dot) / T(h);
  for (int j = threadIdx.x; j < h; j += 32) {
    const T hat = (z[r * h + j] - mean) * scale;
    z[r * h + j] = scale * (grad[r * h + j] * norm[j] - sum - hat * dot);
  }
}

// out[i] = Σ x[pick[k]] over rowptr[i] ≤ k < rowptr[i + 1], in order; `pick` null: x[k].
// One warp a row of the result, its lanes over the columns.
template <class T, class S>
__global__ void sum_lists(const S* x, const int64_t* pick, const int64_t* rowptr, int64_t n,
                          int64_t rows, int h, T* out) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= n) return;
  const int64_t first = max(rowptr[i], int64_t(0)), last = min(rowptr[i + 1], rows);
  for (int c = 4 * threadIdx.x; c < h; c += 128) {
    T sum[4] = {};
    for (int64_t k = first; k < last; ++k) {
      const int64_t row = pick ? pick[k] : k;
      const bool there = uint64_t(row) < uint64_t(rows);
      for (int j = 0; j < 4; ++j) sum[j] += there ? T(x[row * h + c + j]) : T(NAN);
    }
    for (int j = 0; j < 4; ++j) out[i * h + c + j] = sum[j];
  }
}

inline dim3 warps() { return dim3(32, 4); }  // four rows a block, a warp each

template <class T, class S>
void sum_by_node(const Tensor& x, const int64_t* pick, const Tensor& rowptr, Tensor& out) {
  launch(x, sum_lists<T, S>, blocks_of(out.size(0), 4), warps(), 0,
         static_cast<const S*>(x.const_data_ptr()), pick, rowptr.const_data_ptr<int64_t>(),
         out.size(0), x.size(0), static_cast<int>(x.size(1)), out.mutable_data_ptr<T>());
}

// Sums of parts of one kind, and what adds to them.
template <class T>
struct Parts {
  const Tensor& like;
  int64_t parts, size;
  Tensor partial;
  int h;

  Parts(const Tensor& like_, int64_t rows, int64_t size_, int h_)
      : like(like_), parts(parts_of(rows)), size(size_),
        partial(torch::stable::new_empty(like_, {parts, size_})), h(h_) {}
  T* at(int64_t from) { return partial.mutable_data_ptr<T>() + from; }

  template <class S>
  void outer(const T* g, const S* a, int64_t rows, bool add, int64_t from) {
    const unsigned tiles = blocks_of(h, side);
    launch(like, multiply_outer<T, S>, dim3(static_cast<unsigned>(parts), tiles, tiles), 256, 0, g,
           a, rows, h, add, at(from), size);
  }
  void rows(const T* x, int64_t rows, bool add, int64_t from) {
    launch(like, sum_parts<T>, static_cast<unsigned>(parts), 128, 0, x, rows, h, add, at(from),
           size);
  }
  void total(int64_t from, Tensor& out) {
    launch(like, add_parts<T>, blocks_of(out.numel(), 128), 128, 0, at(0), parts, size, from,
           out.numel(), out.mutable_data_ptr<T>());
  }
};

// An MLP on up to `chunk` rows at a time. Layer l has weight l + shift.
template <class T>
struct PlainMlp {
  const Tensor& like;
  int h, layers, shift;
  bool silu;
  T eps;
  const T *weight, *bias, *norm;
  int64_t chunk;
  Tensor room;  // z and after of every layer if gradients are wanted, else of one

  PlainMlp(const Tensor& weight_, const Tensor& bias_, const Tensor& norm_, int shift_, bool silu_,
           double eps_, int64_t rows, bool keep)
      : like(weight_), h(static_cast<int>(weight_.size(1))),
        layers(static_cast<int>(bias_.size(0))), shift(shift_), silu(silu_), eps(T(eps_)),
        weight(weight_.const_data_ptr<T>()), bias(bias_.const_data_ptr<T>()),
        norm(norm_.const_data_ptr<T>()), chunk(min(chunk_rows(h), max(rows, int64_t(1)))),
        room(torch::stable::new_empty(weight_, {keep ? 2 * layers + 1 : 2, chunk, h})) {}

  T* tile(int64_t i) { return room.mutable_data_ptr<T>() + i * chunk * h; }
  int64_t numbers(int64_t rows) const { return rows * h; }

  template <bool turned, class S>
  void multiply(const S* a, int which, const T* row, int64_t rows, bool add, T* c) {
    launch(like, multiply_rows<T, S, turned>, dim3(blocks_of(rows, side), blocks_of(h, side)), 256,
           0, a, weight + int64_t(which) * h * h, row, rows, h, add, c);
  }

  // From the first layer's result in tile(0) to the last layer's, which it returns.
  T* forward(int64_t rows, bool keep) {
    T* z = tile(0);
    for (int l = 1; l < layers; ++l) {
      T* after = keep ? tile(2 * l - 1) : tile(1);
      launch(like, activate<T>, blocks_of(numbers(rows), 128), 128, 0, z, numbers(rows), silu, keep,
             after);
      if (keep) z = tile(2 * l);
      multiply<false>(after, l + shift, bias + l * h, rows, false, z);
    }
    return z;
  }

  template <class S>
  void finish(const T* z, const S* residual, int64_t rows, S* out, T* wide) {
    launch(like, normalise<T, S>, blocks_of(rows, 4), warps(), 0, z, residual, norm, eps, rows, h,
           out, wide);
  }

  // From `grad` of LayerNorm's result to that of the first layer's, which it returns. Sums in
  // `parts`: weights from 0, then biases from `extra`, then the norm's.
  T* backward(T* z, const T* grad, int64_t rows, Parts<T>& parts, int64_t extra, bool add) {
    T* spare = tile(2 * layers - 1);
    launch(like, normalise_backward<T>, blocks_of(rows, 4), warps(), 0, z, grad, norm, eps, rows, h,
           spare);
    parts.rows(spare, rows, add, extra + layers * h);
    parts.rows(grad, rows, add, extra + (layers + 1) * h);
    T* g = z;
    for (int l = layers - 1; l > 0; --l) {
      parts.rows(g, rows, add, extra + l * h);
      parts.outer(g, tile(2 * l - 1), rows, add, int64_t(l + shift) * h * h);
      multiply<true>(g, l + shift, nullptr, rows, false, spare);
      launch(like, multiply_numbers<T>, blocks_of(numbers(rows), 128), 128, 0, spare,
             tile(2 * l - 2), numbers(rows));
      std::swap(g, spare);
    }
    parts.rows(g, rows, add, extra);
    return g;
  }
};

}  // namespace
}  // namespace meshsim
