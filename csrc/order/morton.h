// Points along Morton's curve, on the device: the key of meshsim/ops/order.py, step by step.
#pragma once

#include "device/sort.h"

namespace meshsim {

// What a cloud of points spans, and its first row with a number that is not finite.
struct Extent {
  double lo[3], hi[3];
  int64_t bad;
};

__host__ __device__ inline Extent empty_extent() {
  constexpr double most = 1.7976931348623157e308;
  return {{most, most, most}, {-most, -most, -most}, INT64_MAX};
}

__host__ __device__ inline void join(Extent& a, const Extent& b) {
  for (int d = 0; d < 3; ++d) {
    a.lo[d] = b.lo[d] < a.lo[d] ? b.lo[d] : a.lo[d];
    a.hi[d] = b.hi[d] > a.hi[d] ? b.hi[d] : a.hi[d];
  }
  a.bad = b.bad < a.bad ? b.bad : a.bad;
}

constexpr int measuring = 128;  // threads

// Every block leaves what its share spans.
template <int D, class T>
__global__ void measure(const T* x, int64_t n, Extent* out) {
  __shared__ Extent of[measuring];
  Extent mine = empty_extent();
  for (int64_t i = thread_number(); i < n; i += int64_t(gridDim.x) * measuring) {
    for (int d = 0; d < D; ++d) {
      const double v = x[i * D + d];
      if (v < mine.lo[d]) mine.lo[d] = v;
      if (v > mine.hi[d]) mine.hi[d] = v;
      if (!(v - v == 0.0) && i < mine.bad) mine.bad = i;
    }
  }
  of[threadIdx.x] = mine;
  for (int half = measuring / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) join(of[threadIdx.x], of[threadIdx.x + half]);
  }
  if (threadIdx.x == 0) out[blockIdx.x] = of[0];
}

// The smallest cube from the lowest corner that holds some points.
struct Frame {
  double lo[3], side;
};

// Raises an error unless all of `points` (n, dim) is finite.
template <int D, class T>
Frame frame_of(const Tensor& points, const char* name) {
  const int64_t n = points.size(0);
  if (n == 0) return {{0.0, 0.0, 0.0}, 0.0};
  const int64_t blocks = std::min<int64_t>(blocks_of(n, 8 * measuring), 512);
  const Room<Extent> parts(points, blocks);
  launch(points, measure<D, T>, blocks, measuring, 0,
         static_cast<const T*>(points.const_data_ptr()), n, parts.data);
  Extent all = empty_extent();
  for (const Extent& part : read_back(points, parts.data, blocks)) join(all, part);
  if (all.bad < n)
    bad_input("`", name, "`: expected finite coordinates, got others at row ", all.bad);
  Frame out{{0.0, 0.0, 0.0}, 0.0};
  for (int d = 0; d < D; ++d) {
    out.lo[d] = all.lo[d];
    out.side = std::max(out.side, all.hi[d] - all.lo[d]);
  }
  return out;
}

// The cell of a point on the curve; one outside the frame has that of a point on its rim.
template <int D>
__device__ uint64_t curve_key(const double (&x)[D], const Frame& frame) {
  constexpr int bits = 62 / D;
  constexpr double cells = double(int64_t(1) << bits);
  uint64_t key = 0;
  for (int d = 0; d < D; ++d) {
    const double t = frame.side > 0.0 ? (x[d] - frame.lo[d]) / frame.side : 0.0;
    const uint64_t cell = static_cast<uint64_t>(fmax(fmin(floor(t * cells), cells - 1.0), 0.0));
    if (D == 1) key = cell;
    for (int b = 0; D > 1 && b < bits; ++b) key |= (cell >> b & 1) << (b * D + D - 1 - d);
  }
  return key;
}

template <int D, class T>
__global__ void key_points(const T* x, int64_t n, Frame frame, uint64_t* key, int32_t* id) {
  const int64_t i = thread_number();
  if (i >= n) return;
  double at[D];
  for (int d = 0; d < D; ++d) at[d] = x[i * D + d];
  key[i] = curve_key(at, frame);
  id[i] = static_cast<int32_t>(i);
}

// The rows of points in the order of the curve; those of one cell rise.
template <int D, class T>
Room<int32_t> along_curve(const Tensor& points, const Frame& frame) {
  const int64_t n = points.size(0);
  Room<uint64_t> keys(points, n);
  Room<int32_t> ids(points, n);
  launch(points, key_points<D, T>, blocks_of(n, 256), 256, 0,
         static_cast<const T*>(points.const_data_ptr()), n, frame, keys.data, ids.data);
  sort_pairs(keys, ids, D == 1 ? 63 : 62 / D * D);  // 2^62 − 1 is rounded to 2^62
  return ids;
}

// Calls make(T(), D) with the type and the dimension of points.
template <class Make>
auto with_points(const Tensor& points, const Make& make) {
  const auto with_dim = [&](auto t) {
    if (points.size(1) == 1) return make(t, std::integral_constant<int, 1>());
    if (points.size(1) == 2) return make(t, std::integral_constant<int, 2>());
    return make(t, std::integral_constant<int, 3>());
  };
  return points.scalar_type() == ScalarType::Float ? with_dim(float()) : with_dim(double());
}

// Shape (n, 1..3) or (n, 2..3), float32 or float64, n < 2^31, on the device.
inline void check_points(const Tensor& points, const char* name, int lowest = 1) {
  check_device(points, name);
  check_shape(points, -1, -1, name);
  if (points.size(1) < lowest || points.size(1) > 3)
    bad_input("`", name, "`: expected shape (*, ", lowest, "..3), got ", shape_of(points));
  if (points.scalar_type() != ScalarType::Float && points.scalar_type() != ScalarType::Double)
    bad_input("`", name, "`: expected float32 or float64, got ",
              torch::headeronly::toString(points.scalar_type()));
  if (points.size(0) >= int64_t(1) << 31)
    bad_input("`", name, "`: expected fewer than 2^31 rows, got ", points.size(0));
}

}  // namespace meshsim
