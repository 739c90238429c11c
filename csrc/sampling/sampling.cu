// Farthest-point sampling on CUDA, see meshsim/ops/sampling.py.
//
// One launch a point taken: every block finds it among what the blocks of its batch left before,
// then brings its share of the distances up to date and leaves the farthest of them.
#include "order/morton.h"

namespace meshsim {
namespace {

constexpr int threads = 256;
constexpr int64_t most_blocks = 256;  // of one batch

struct Farthest {
  double square;
  int64_t id;
};

__device__ bool before(const Farthest& a, const Farthest& b) {
  return a.square > b.square || (a.square == b.square && a.id < b.id);
}

// The farthest of a block's threads, of equally far ones the first; for all of them.
__device__ Farthest farthest_of(const Farthest& mine) {
  __shared__ Farthest of[threads];
  of[threadIdx.x] = mine;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half && before(of[threadIdx.x + half], of[threadIdx.x]))
      of[threadIdx.x] = of[threadIdx.x + half];
  }
  __syncthreads();
  const Farthest out = of[0];
  __syncthreads();  // the next call writes there
  return out;
}

// Step s of n. `blocks` blocks a batch; `were` and `are` hold what each left and leaves.
template <int D, class T>
__global__ void take(const T* x, int64_t points, const int64_t* offsets, int blocks, int64_t s,
                     int64_t n, int64_t start, const Farthest* were, Farthest* are, double* square,
                     int64_t* out) {
  const int64_t b = blockIdx.x / blocks, share = blockIdx.x % blocks;
  const int64_t first = offsets ? offsets[b] : 0, last = offsets ? offsets[b + 1] : points;
  int64_t taken = first + start;
  if (s > 0) {
    Farthest mine{-2.0, INT64_MAX};
    for (int64_t i = threadIdx.x; i < blocks; i += threads)
      if (before(were[b * blocks + i], mine)) mine = were[b * blocks + i];
    taken = farthest_of(mine).id;
  }
  if (share == 0 && threadIdx.x == 0) out[b * n + s] = taken;
  if (s == n - 1) return;
  double at[D];
  for (int d = 0; d < D; ++d) at[d] = x[taken * D + d];
  Farthest mine{-2.0, INT64_MAX};
  const int64_t stride = int64_t(blocks) * threads;
  for (int64_t i = first + share * threads + threadIdx.x; i < last; i += stride) {
    double sum = 0.0;
    for (int d = 0; d < D; ++d) {
      const double side = double(x[i * D + d]) - at[d];
      sum = __dadd_rn(sum, __dmul_rn(side, side));
    }
    const double known = s > 0 ? square[i] : INFINITY;
    const double now = i == taken ? -1.0 : sum < known ? sum : known;
    if (s == 0 || now != known) square[i] = now;
    const Farthest here{now, i};
    if (before(here, mine)) mine = here;
  }
  const Farthest left = farthest_of(mine);
  if (threadIdx.x == 0) are[blockIdx.x] = left;
}

// Offsets of batches as numbers, for the checks; they are few.
std::vector<int64_t> offsets_of(const Tensor& points, const std::optional<Tensor>& batch) {
  if (!batch) return {0, points.size(0)};
  const int64_t size = batch->size(0);
  const auto out =
      read_back(points, static_cast<const int64_t*>(batch->const_data_ptr()), size);
  if (out[0] != 0 || out[size - 1] != points.size(0) || !std::is_sorted(out.begin(), out.end()))
    bad_input("`batch`: expected to rise from 0 to ", points.size(0), " (the rows)");
  return out;
}

// The size of the largest batch.
int64_t check_sizes(const std::vector<int64_t>& offsets, int64_t n, int64_t start) {
  int64_t most = 0;
  for (size_t b = 0; b + 1 < offsets.size(); ++b) {
    const int64_t size = offsets[b + 1] - offsets[b];
    if (n > size)
      bad_input("`n`: expected at most the ", size, " points of batch ", b, ", got ", n);
    if (n && (start < 0 || start >= size))
      bad_input("`start`: expected 0..", size - 1, " (batch ", b, "), got ", start);
    most = std::max(most, size);
  }
  return most;
}

template <int D, class T>
void sample(const Tensor& points, const int64_t* offsets, int64_t batches, int64_t largest,
            int64_t n, int64_t start, int64_t* out) {
  // a few points a thread: with more blocks there is more to look through at every step
  const int64_t blocks = std::min<int64_t>(blocks_of(largest, 4 * threads), most_blocks);
  const Room<Farthest> even(points, batches * blocks), odd(points, batches * blocks);
  const Room<double> square(points, points.size(0));
  for (int64_t s = 0; s < n; ++s)
    launch(points, take<D, T>, batches * blocks, threads, 0,
           static_cast<const T*>(points.const_data_ptr()), points.size(0), offsets, blocks, s, n,
           start, s % 2 ? even.data : odd.data, s % 2 ? odd.data : even.data, square.data, out);
}

Tensor farthest_points(Tensor points_, int64_t n, int64_t start, std::optional<Tensor> batch) {
  const Tensor points = dense(points_);
  check_points(points, "points");
  if (batch) {
    batch = dense(*batch);
    check_device(*batch, "batch", points);
    check_rowptr(*batch, points.size(0), "batch");
  }
  if (n < 0) bad_input("`n`: expected >= 0, got ", n);
  const std::vector<int64_t> offsets = offsets_of(points, batch);
  const int64_t largest = check_sizes(offsets, n, start), batches = offsets.size() - 1;
  const Tensor out = integers(points, {batches * n});
  with_points(points, [&](auto t, auto dim) {
    constexpr int D = decltype(dim)::value;
    using T = decltype(t);
    frame_of<D, T>(points, "points");  // are they finite?
    sample<D, T>(points, batch ? static_cast<const int64_t*>(batch->const_data_ptr()) : nullptr,
                 batches, largest, n, start, numbers(out));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("farthest_points", TORCH_BOX(&farthest_points));
}

}  // namespace meshsim
