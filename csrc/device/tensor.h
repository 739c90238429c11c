// An MLP's products on tensor cores: one warp takes 16 rows through all layers in registers.
//
// Products are of bfloat16 with sums in float32. Where they must be as good as float32, every
// number is split into three of bfloat16 (8 bits each) and six of the nine products are summed:
// what is left out is below 2⁻²⁴ of the result. `G` is how many groups of 16 columns there is room
// for; columns beyond `width` are zero.
//
// Who holds what. Thread 4g + t of a warp has columns 16j + 4t … + 3 of rows g and g + 8, for every
// group j: 16 bytes in a row of float32. The result of a product is then in place to be the left
// operand of the next, and rows are read and written without shared memory. For that the weights'
// rows and columns are stored in another order within each 16: see `held`.
#pragma once

#include "device/device.h"

namespace meshsim {

constexpr int widest = 256;  // of rows that the tensor cores take
constexpr int block_warps = 8;
constexpr int64_t turn_bytes = block_warps * 1024;  // of shared memory, see `by_column`

// Which weights a tile is multiplied by, one after the other: up to 16 of up to 16.
struct Plan {
  int count = 0;
  uint64_t list = 0;  // four bits each: numbers, so that no thread needs memory for it
  void add(int64_t which) { list |= static_cast<uint64_t>(which) << 4 * count++; }
  __device__ int operator[](int i) const { return static_cast<int>(list >> 4 * i & 15); }
};

namespace {

constexpr unsigned everyone = 0xffffffffu;

// The row or column of a weight that is stored at position p.
__device__ inline int held(int p) {
  const int q = p % 16;
  return p - q + 4 * (q % 8 / 2) + 2 * (q / 8) + q % 2;
}

// Numbers of 16 bits in a row of a stored weight, and in a slice: 32 rows, all parts of them.
template <int G>
constexpr int stored_row = 16 * G + 8;  // rows begin in different banks
template <int G, int parts>
constexpr int slice_size = parts * 32 * stored_row<G>;

template <int parts>
__device__ inline void split(float x, uint16_t (&out)[parts]) {
#pragma unroll
  for (int i = 0; i < parts; ++i) {
    const BFloat16 part(x);
    out[i] = part.x;
    x -= static_cast<float>(part);
  }
}

// Stores weights (count, width, width), slice by slice.
template <int G, int parts>
__global__ void store_weights(const float* weight, int count, int width, uint16_t* out) {
  constexpr int row_size = stored_row<G>;
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= int64_t(count) * 16 * G * row_size) return;
  const int64_t line = i / row_size;
  const int column = static_cast<int>(i % row_size), row = static_cast<int>(line % (16 * G));
  const int n = held(row), k = held(column);
  const int64_t which = line / (16 * G);
  const bool there = n < width && column < 16 * G && k < width;
  uint16_t part[parts];
  split(there ? weight[(which * width + n) * width + k] : 0.f, part);
  uint16_t* slice = out + (which * (G / 2) + row / 32) * slice_size<G, parts>;
  for (int p = 0; p < parts; ++p) slice[(p * 32 + row % 32) * row_size + column] = part[p];
}

// 16 rows: [j][i / 2][2 h + i % 2] is column 16j + 4t + i of row g + 8h.
template <int G>
struct Rows {
  float at[G][2][4];
  __device__ float& operator()(int j, int h, int i) { return at[j][i / 2][2 * h + i % 2]; }
  __device__ float operator()(int j, int h, int i) const { return at[j][i / 2][2 * h + i % 2]; }
};

// Rows as the left side of a product: rounded, or as they are and split when they are used.
template <int G, int parts>
struct Left {
  Rows<G> rows;
  __device__ void set(int j, const float (&x)[2][4]) {
#pragma unroll
    for (int i = 0; i < 8; ++i) rows.at[j][i / 4][i % 4] = x[i / 4][i % 4];
  }
  __device__ void get(int j, uint32_t (&out)[parts][4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint16_t low[parts], high[parts];
      split(rows.at[j][i / 2][2 * (i % 2)], low);
      split(rows.at[j][i / 2][2 * (i % 2) + 1], high);
#pragma unroll
      for (int p = 0; p < parts; ++p) out[p][i] = low[p] | uint32_t(high[p]) << 16;
    }
  }
};
template <int G>
struct Left<G, 1> {
  uint32_t pairs[G][4];
  __device__ void set(int j, const float (&x)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs[j][i] = pack_pair(x[i / 2][2 * (i % 2)], x[i / 2][2 * (i % 2) + 1]);
  }
  __device__ void get(int j, uint32_t (&out)[1][4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[0][i] = pairs[j][i];
  }
};

// d (16 × 16) += a · b, given as two halves of 8 columns. The tensor cores cut sums off instead of
// rounding them: with parts, they sum small ones first, and rounded sums are made outside.
template <int parts>
__device__ inline void add_product(const uint32_t (&a)[parts][4], const uint32_t (&b)[parts][4],
                                   float (&d)[2][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if constexpr (parts == 1) {
      const uint32_t right[2] = {b[0][2 * half], b[0][2 * half + 1]};
      mma(d[half], a[0], right);
    } else {
      float sum[4] = {};
#pragma unroll
      for (int order = 2; order >= 0; --order)
#pragma unroll
        for (int i = order; i >= 0; --i) {
          const uint32_t right[2] = {b[order - i][2 * half], b[order - i][2 * half + 1]};
          mma(sum, a[i], right);
        }
#pragma unroll
      for (int i = 0; i < 4; ++i) d[half][i] += sum[i];
    }
  }
}

// Weights in shared memory: all of them if they are `resident`, else slices in the order of the
// plan, two of them on their way while one is used. Then all threads of the block must take every
// slice.
template <int G, int parts, bool resident>
struct Weights {
  static constexpr int size = slice_size<G, parts>, stages = 3, slices = G / 2;
  const uint16_t* from;
  uint16_t* room;
  Plan plan;
  int product;                               // taken next
  int stage;                                 // where its next slice is
  int next_product, next_slice, next_stage;  // copied next

  __device__ void copy(const uint16_t* source, uint16_t* to, int n) {
    for (int i = 8 * threadIdx.x; i < n; i += 8 * blockDim.x) copy_async(to + i, source + i);
    commit_copies();
  }
  __device__ void copy_next() {
    copy(from + (plan[next_product] * slices + next_slice) * size, room + next_stage * size, size);
    if (++next_slice == slices) {
      next_slice = 0;
      if (++next_product == plan.count) next_product = 0;
    }
    if (++next_stage == stages) next_stage = 0;
  }
  __device__ void begin(int count) {
    product = stage = next_product = next_slice = next_stage = 0;
    if constexpr (resident) {
      copy(from, room, count * slices * size);
      wait_copies<0>();
      __syncthreads();
    } else {
      for (int i = 1; i < stages; ++i) copy_next();
    }
  }
  // Slice s of the plan's next weight.
  __device__ const uint16_t* take(int s) {
    if constexpr (resident) return room + (plan[product] * slices + s) * size;
    wait_copies<stages - 2>();
    __syncthreads();  // all see this slice, and are done with the one before
    copy_next();
    const uint16_t* out = room + stage * size;
    if (++stage == stages) stage = 0;
    return out;
  }
  __device__ void taken() {
    if (++product == plan.count) product = 0;
  }
  __device__ void end() {
    if constexpr (!resident) wait_copies<0>();
  }
};

// Shared memory of a block: each warp's to turn rows, then the weights'. Whether weights are
// resident changes no result.
template <int G, int parts>
constexpr int64_t weight_bytes = G / 2 * slice_size<G, parts> * 2;
template <int G, int parts>
constexpr int64_t shared_bytes(int64_t count, bool resident) {
  return turn_bytes + (resident ? count * weight_bytes<G, parts>
                                : 3 * slice_size<G, parts> * int64_t(2));
}
template <int G, int parts>
bool fits(const Tensor& like, int64_t count) {
  return shared_bytes<G, parts>(count, true) + 1024 <= most_shared(like);
}
template <int G, int parts, bool resident>
__device__ inline float* open_shared(unsigned char* room, const Plan& plan, const uint16_t* stored,
                                     int count, Weights<G, parts, resident>& weights,
                                     int64_t between = 0) {
  weights.from = stored;
  weights.room = reinterpret_cast<uint16_t*>(room + turn_bytes + between);
  weights.plan = plan;
  weights.begin(count);
  return reinterpret_cast<float*>(room) + threadIdx.x / 32 * 256;
}

// c += a · wᵀ, or a · w if `turned`, w the plan's next weight.
template <bool turned, int G, int parts, bool resident>
__device__ inline void multiply(Weights<G, parts, resident>& weights, const Left<G, parts>& a,
                                Rows<G>& c) {
  constexpr int row_size = stored_row<G>;
  const int lane = threadIdx.x % 32, matrix = lane / 8, r = lane % 8;
  const int down = turned ? matrix % 2 : matrix / 2, across = turned ? matrix / 2 : matrix % 2;
  const int lane_at = (8 * down + r) * row_size + 8 * across;
#pragma unroll
  for (int s = 0; s < G / 2; ++s) {
    const uint16_t* slice = weights.take(s) + lane_at;
#pragma unroll
    for (int inner = 0; inner < 2 * G; ++inner) {
      // by column group of the slice first, so that a part of `a` is split once for two uses
      const int own = inner % 2, other = inner / 2;
      const int j = turned ? other : 2 * s + own, k = turned ? 2 * s + own : other;
      uint32_t left[parts][4], right[parts][4];
      a.get(k, left);
#pragma unroll
      for (int p = 0; p < parts; ++p)
        load_matrices<turned>(right[p], slice + (p * 32 + 16 * own) * row_size + 16 * other);
      add_product<parts>(left, right, c.at[j]);
    }
  }
  weights.taken();
}

// Where a thread's numbers are.
struct Place {
  int row, column, width;  // g, 4t
  float share;             // 1 / width
  __device__ explicit Place(int width_)
      : row(threadIdx.x % 32 / 4), column(4 * (threadIdx.x % 4)), width(width_),
        share(1.f / width_) {}
  __device__ bool holds(int j) const { return 16 * j + column < width; }
};

__device__ inline void load4(const float* from, float (&x)[4]) {
  const float4 y = *reinterpret_cast<const float4*>(from);
  x[0] = y.x, x[1] = y.y, x[2] = y.z, x[3] = y.w;
}
__device__ inline void load4(const BFloat16* from, float (&x)[4]) {
  const uint2 y = *reinterpret_cast<const uint2*>(from);
  x[0] = low_of(y.x), x[1] = high_of(y.x), x[2] = low_of(y.y), x[3] = high_of(y.y);
}
__device__ inline void store4(float* to, const float (&x)[4]) {
  float4 y;
  y.x = x[0], y.y = x[1], y.z = x[2], y.w = x[3];
  *reinterpret_cast<float4*>(to) = y;
}
__device__ inline void store4(BFloat16* to, const float (&x)[4]) {
  uint2 y;
  y.x = pack_pair(x[0], x[1]), y.y = pack_pair(x[2], x[3]);
  *reinterpret_cast<uint2*>(to) = y;
}

// The thread's numbers of group j out of `row`, zeros if it is null.
template <class S>
__device__ inline void load_group(const Place& at, const S* row, int j, float (&x)[4]) {
  x[0] = x[1] = x[2] = x[3] = 0.f;
  if (row && at.holds(j)) load4(row + 16 * j + at.column, x);
}

// The left side of a product out of memory, `rows` being the thread's two.
template <int G, int parts, class S>
__device__ inline void load_left(const Place& at, const S* const (&rows)[2], Left<G, parts>& a) {
#pragma unroll
  for (int j = 0; j < G; ++j) {
    float x[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float y[4];
      load_group(at, rows[h], j, y);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[i / 2][2 * h + i % 2] = y[i];
    }
    a.set(j, x);
  }
}

template <int G, int parts>
__device__ inline void to_left(const Rows<G>& x, Left<G, parts>& a) {
#pragma unroll
  for (int j = 0; j < G; ++j) a.set(j, x.at[j]);
}

// Sets both rows to one row, such as a bias; or to rows of their own, zeros if null; or adds.
template <int G>
__device__ inline void fill_rows(const Place& at, const float* row, Rows<G>& x) {
#pragma unroll
  for (int j = 0; j < G; ++j) {
    float y[4];
    load_group(at, row, j, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) x(j, 0, i) = x(j, 1, i) = y[i];
  }
}
// All of them on their way at once: nothing is done with a number before all are asked for.
template <int G, class S>
__device__ inline void set_rows(const Place& at, const S* const (&rows)[2], Rows<G>& x) {
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float y[4];
      load_group(at, rows[h], j, y);
#pragma unroll
      for (int i = 0; i < 4; ++i) x(j, h, i) = y[i];
    }
}
template <int G>
__device__ inline void add_row(const Place& at, const float* row, Rows<G>& x) {
#pragma unroll
  for (int j = 0; j < G; ++j) {
    float y[4];
    load_group(at, row, j, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) x(j, 0, i) += y[i], x(j, 1, i) += y[i];
  }
}
template <int G, class S>
__device__ inline void add_rows(const Place& at, const S* const (&rows)[2], Rows<G>& x) {
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float y[4];
      load_group(at, rows[h], j, y);
#pragma unroll
      for (int i = 0; i < 4; ++i) x(j, h, i) += y[i];
    }
}
template <int G>
__device__ inline void add_number(float y, int h, Rows<G>& x) {
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) x(j, h, i) += y;
}

template <int G, class S>
__device__ inline void store_rows(const Place& at, const Rows<G>& x, S* const (&rows)[2]) {
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float y[4] = {x(j, h, 0), x(j, h, 1), x(j, h, 2), x(j, h, 3)};
      if (rows[h] && at.holds(j)) store4(rows[h] + 16 * j + at.column, y);
    }
}

// The thread's two of 16 rows from `first` on, null where they are not below `last`.
template <class S>
__device__ inline void two_rows(const Place& at, S* x, int64_t first, int64_t last,
                                S* (&rows)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t r = first + at.row + 8 * h;
    rows[h] = r < last ? x + r * at.width : nullptr;
  }
}

// Sum over the four threads that share a row.
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(everyone, x, 1);
  return x + __shfl_xor_sync(everyone, x, 2);
}

template <bool exact>
__device__ inline float sigmoid_of(float x) {
  x = x < -80.f ? -80.f : x;  // beyond, x · sigmoid(x) is 0
  if constexpr (exact) return 1.f / (1.f + expf(-x));
  return __fdividef(1.f, 1.f + __expf(-x));
}

// x = activation(x); with `slopes` its derivatives are stored in those rows (SiLU alone: that of
// ReLU is seen from its result).
template <bool exact, int G, class S>
__device__ inline void activate_rows(const Place& at, bool silu, Rows<G>& x, S* const (&slopes)[2],
                                     bool keep) {
#pragma unroll
  for (int j = 0; j < G; ++j)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float slope[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float y = x(j, h, i);
        if (silu) {
          const float s = sigmoid_of<exact>(y), z = y * s;
          slope[i] = s + z * (1.f - s);
          x(j, h, i) = z;
        } else {
          x(j, h, i) = y < 0.f ? 0.f : y;
        }
      }
      if (silu && keep && slopes[h] && at.holds(j)) store4(slopes[h] + 16 * j + at.column, slope);
    }
}

// Mean and 1 / standard deviation of the thread's rows.
template <int G>
__device__ inline void moments_of(const Place& at, const Rows<G>& x, float eps, float (&mean)[2],
                                  float (&scale)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float sum = 0.f, square = 0.f;
#pragma unroll
    for (int j = 0; j < G; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum += x(j, h, i);
    mean[h] = row_sum(sum) * at.share;
#pragma unroll
    for (int j = 0; j < G; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float d = at.holds(j) ? x(j, h, i) - mean[h] : 0.f;
        square += d * d;
      }
    scale[h] = rsqrtf(row_sum(square) * at.share + eps);
  }
}

// x = residual + LayerNorm(x).
template <int G, class S>
__device__ inline void normalise_rows(const Place& at, const float* norm, float eps,
                                      const S* const (&residual)[2], Rows<G>& x) {
  float mean[2], scale[2];
  moments_of(at, x, eps, mean, scale);
#pragma unroll
  for (int j = 0; j < G; ++j) {
    float gamma[4], beta[4];
    load_group(at, norm, j, gamma);
    load_group(at, norm + at.width, j, beta);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float y[4];
      load_group(at, residual[h], j, y);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        x(j, h, i) = (x(j, h, i) - mean[h]) * scale[h] * gamma[i] + beta[i] + y[i];
    }
  }
}

// 8 rows of 32 columns turned, through shared memory of the warp: `give(j, i)` is the thread's
// number of column 16j + 4t + i, and `take(r, value)` gets row r of column 32c + lane, in order.
template <class Give, class Take>
__device__ inline void by_column(const Give& give, float* tile, int c, const Take& take) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int q = 0; q < 2; ++q) {  // odd rows swap their halves: other banks
    const int j = 2 * c + q;
    const float y[4] = {give(j, 0), give(j, 1), give(j, 2), give(j, 3)};
    store4(tile + 32 * g + 16 * (q ^ (g & 1)) + 4 * t, y);
  }
  __syncwarp();
  float turned[8];
#pragma unroll
  for (int r = 0; r < 8; ++r) turned[r] = tile[32 * r + (lane ^ ((r & 1) << 4))];
  __syncwarp();
#pragma unroll
  for (int r = 0; r < 8; ++r) take(r, turned[r]);
}

// The first of rowptr's n entries that is at least `value`, n if there is none; by a warp.
__device__ inline int64_t first_at_least(const int64_t* rowptr, int64_t n, int64_t value) {
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t step = (high - low + 31) / 32;
    const int64_t probe = low + step * (threadIdx.x % 32 + 1) - 1;
    const int below = __popc(__ballot_sync(everyone, probe < high && rowptr[probe] < value));
    high = min(high, low + step * (below + 1) - 1);
    low += step * below;
  }
  return low;
}

// The weights as the tensor cores' kernels want them.
template <int G, int parts>
Tensor stored_weights(const Tensor& weight) {
  const int count = static_cast<int>(weight.size(0)), width = static_cast<int>(weight.size(1));
  const int64_t bytes = count * weight_bytes<G, parts>;
  Tensor out = torch::stable::new_empty(weight, {(bytes + 3) / 4});
  const int64_t n = int64_t(count) * 16 * G * stored_row<G>;
  launch(weight, store_weights<G, parts>, blocks_of(n, 256), 256, 0, weight.const_data_ptr<float>(),
         count, width, reinterpret_cast<uint16_t*>(out.mutable_data_ptr<float>()));
  return out;
}

}  // namespace

// Whether every row of `x` begins where 16 bytes can be read at once.
inline bool aligned(const Tensor& x) {
  const int64_t size = x.scalar_type() == ScalarType::BFloat16 ? 2 : 4;
  return reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0 &&
         (x.dim() < 2 || x.stride(0) * size % 16 == 0);
}

// Room for `n` groups of columns: 2, 4, 8 or 16.
inline int groups_of(int64_t width) {
  return width <= 32 ? 2 : width <= 64 ? 4 : width <= 128 ? 8 : 16;
}

}  // namespace meshsim
