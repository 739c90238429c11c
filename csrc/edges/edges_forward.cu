// The edge block on tensor cores: one warp takes a range of receivers, 16 edges at a time, from
// the edges and nodes in memory to new edges and their sums; nothing else is written.
#include "edges/stage.h"

namespace meshsim {
namespace {

// The receivers of range i of `size` edges: those whose edges begin in i·size … (i + 1)·size − 1.
// A receiver is in one range, so that a sum is made by one warp, in the order of its edges.
struct Range {
  int64_t node, last_node, edge, last_edge;
};

template <class S>
__device__ inline Range range_of(const EdgeRows<S>& in, int64_t i, int64_t ranges, int64_t size) {
  Range out = {0, 0, 0, 0};
  if (i >= ranges) return out;
  out.node = i ? first_at_least(in.rowptr, in.nodes, i * size) : 0;
  out.last_node = i + 1 < ranges ? first_at_least(in.rowptr, in.nodes, (i + 1) * size) : in.nodes;
  out.edge = max(in.rowptr[out.node], int64_t(0));
  out.last_edge = max(out.edge, min(in.rowptr[out.last_node], in.edges));
  return out;
}

// Zeros for receivers of nothing.
__device__ inline void clear_empty(const int64_t* rowptr, const Range& range, int width,
                                   float* agg) {
  const float zero[4] = {};
  for (int64_t n = range.node + threadIdx.x % 32; n < range.last_node; n += 32)
    if (rowptr[n + 1] <= rowptr[n])
      for (int j = 0; j < width; j += 4) store4(agg + n * width + j, zero);
}

// Adds the tile's rows to the sums of their receivers, lane l having columns 32c + l; writes those
// that are complete. `to` is the receiver of row lane % 16, `after` that of the edge behind it.
template <int G>
__device__ inline void add_to_sums(const Rows<G>& y, int64_t to, int64_t after, int64_t k,
                                   const Range& range, int width, float* tile,
                                   float (&sum)[G / 2], float* agg) {
  const int lane = threadIdx.x % 32;
  const int there = static_cast<int>(min(int64_t(16), range.last_edge - k));
  const bool complete = lane % 16 < there && (lane % 16 + k + 1 == range.last_edge || after != to);
  const unsigned ends = __ballot_sync(everyone, complete);
  const bool writes = to >= range.node && to < range.last_node;
  const int64_t row = writes ? to : -1;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const unsigned ending = ends >> 8 * h & 0xff;
#pragma unroll
    for (int c = 0; c < G / 2; ++c)
      by_column([&](int j, int i) { return y(j, h, i); }, tile, c, [&](int r, float value) {
        sum[c] += 8 * h + r < there ? value : 0.f;
        if (!(ending >> r & 1)) return;
        const int64_t node = __shfl_sync(everyone, row, 8 * h + r);
        if (node >= 0 && 32 * c + lane < width) agg[node * width + 32 * c + lane] = sum[c];
        sum[c] = 0.f;
      });
  }
}

// From the first layer's products to the last layer's result.
template <int G, int parts, bool resident, class S>
__device__ inline void later_layers(const Place& at, const EdgeRows<S>& in,
                                    Weights<G, parts, resident>& weights, Left<G, parts>& a,
                                    Rows<G>& x) {
  multiply<false>(weights, a, x);
  for (int l = 1; l < in.layers; ++l) {
    S* none[2] = {nullptr, nullptr};
    activate_rows<parts != 1>(at, in.silu, x, none, false);
    to_left(x, a);
    fill_rows(at, in.bias + l * in.width, x);
    multiply<false>(weights, a, x);
  }
}

template <int G, int parts, bool resident, class S>
__global__ void __launch_bounds__(32 * block_warps, 1)
    forward_rows(EdgeRows<S> in, Plan plan, const uint16_t* stored, int64_t ranges,
                 int64_t range_size, S* new_e, float* agg) {
  SHARED_ROOM(room);
  __shared__ int rounds[block_warps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  Weights<G, parts, resident> weights;
  float* tile = open_shared(room, plan, stored, in.layers, weights);
  const Place at(in.width);
  for (int64_t first = int64_t(blockIdx.x) * block_warps; first < ranges;
       first += int64_t(gridDim.x) * block_warps) {
    const Range range = range_of(in, first + warp, ranges, range_size);
    clear_empty(in.rowptr, range, in.width, agg);
    int steps = static_cast<int>((range.last_edge - range.edge + 15) / 16);
    if constexpr (!resident) {  // all take the weights, as often as the longest range needs
      __syncthreads();
      if (lane == 0) rounds[warp] = steps;
      __syncthreads();
      for (int w = 0; w < block_warps; ++w) steps = max(steps, rounds[w]);
    }
    float sum[G / 2] = {};
    for (int step = 0; step < steps; ++step) {
      const int64_t k = range.edge + 16 * int64_t(step);
      const S* e[2];
      two_rows(at, in.e, k, range.last_edge, e);
      Rows<G> x;
      Left<G, parts> a;
      load_left(at, e, a);
      first_values(at, in, k, range.last_edge, x);
      later_layers(at, in, weights, a, x);
      two_rows(at, in.e, k, range.last_edge, e);  // anew: the registers were wanted
      normalise_rows(at, in.norm, in.eps, e, x);
      if (k >= range.last_edge) continue;
      S* to[2];
      two_rows(at, new_e, k, range.last_edge, to);
      store_rows(at, x, to);
      const int64_t mine = min(k + lane % 16, range.last_edge - 1);
      const int64_t after = in.dst[min(mine + 1, range.last_edge - 1)];
      add_to_sums(x, in.dst[mine], after, k, range, in.width, tile, sum, agg);
    }
  }
  weights.end();
}

// The same where there is room for the next tile too.
template <int G, class S>
__global__ void __launch_bounds__(32 * block_warps, 1)
    forward_staged(EdgeRows<S> in, Plan plan, const uint16_t* stored, int64_t ranges,
                   int64_t range_size, S* new_e, float* agg) {
  SHARED_ROOM(room);
  Weights<G, 1, true> weights;
  const Stage<G, S> stage(room);
  float* tile = open_shared(room, plan, stored, in.layers, weights, block_warps * stage.bytes);
  const Place at(in.width);
  for (int64_t i = int64_t(blockIdx.x) * block_warps + threadIdx.x / 32; i < ranges;
       i += int64_t(gridDim.x) * block_warps) {
    const Range range = range_of(in, i, ranges, range_size);
    clear_empty(in.rowptr, range, in.width, agg);
    if (range.edge >= range.last_edge) continue;
    const int64_t last = range.last_edge;
    Ends now = ends_of(in, range.edge, last), next = ends_of(in, range.edge + 16, last);
    stage.send_senders(in, now);
    stage.send_rows(in.e, range.edge, last, in.width);
    float sum[G / 2] = {};
    for (int64_t k = range.edge; k < last; k += 16) {
      const bool more = k + 16 < last;
      const Ends later = ends_of(in, k + 32, last);
      wait_copies<0>();
      __syncwarp();
      Rows<G> x;
      Left<G, 1> a;
      const S* e[2];
      stage.edges(at, e);
      load_left(at, e, a);
      sent_values(at, in, stage, now, x);
      __syncwarp();  // all have read what is written over now
      if (more) {
        stage.send_senders(in, next);
        fetch_receivers<G>(in.pd, in.pd_stride, in.width, in.nodes, next);
      }
      later_layers(at, in, weights, a, x);
      normalise_rows(at, in.norm, in.eps, e, x);
      __syncwarp();
      if (more) stage.send_rows(in.e, k + 16, last, in.width);
      S* to[2];
      two_rows(at, new_e, k, last, to);
      store_rows(at, x, to);
      const int64_t beside = __shfl_down_sync(everyone, now.dst, 1, 16);
      const int64_t behind = __shfl_sync(everyone, next.dst, 0);
      const int64_t after = threadIdx.x % 16 == 15 ? behind : beside;
      add_to_sums(x, now.dst, after, k, range, in.width, tile, sum, agg);
      now = next, next = later;
    }
  }
}

template <int G, int parts, bool resident, bool staged, class S>
void run(const EdgeInputs& in, Tensor& new_e, Tensor& agg) {
  const Tensor stored = stored_weights<G, parts>(in.weight);
  // fixed by the graph: sums are made within a range
  const int64_t size = max(int64_t(32), min(int64_t(512), in.edges / 4096 / 16 * 16));
  const int64_t ranges = max(int64_t(1), (in.edges + size - 1) / size);
  const unsigned blocks = min(blocks_of(ranges, block_warps), 2 * processors(in.e));
  const EdgeRows<S> rows(in);
  Plan plan;
  for (int l = 0; l < in.layers; ++l) plan.add(l);
  const auto start = [&](auto kernel, int64_t shared) {
    launch(in.e, kernel, blocks, 32 * block_warps, shared, rows, plan,
           reinterpret_cast<const uint16_t*>(stored.const_data_ptr<float>()), ranges, size,
           static_cast<S*>(new_e.mutable_data_ptr()), agg.mutable_data_ptr<float>());
  };
  if constexpr (staged)
    start(forward_staged<G, S>, staged_bytes<G, S>(in.layers));
  else
    start(forward_rows<G, parts, resident, S>, shared_bytes<G, parts>(in.layers, resident));
}

template <int G, class S>
void run_resident(const EdgeInputs& in, Tensor& new_e, Tensor& agg) {
  if (fits_staged<G, S>(in.e, in.layers)) return run<G, 1, true, true, S>(in, new_e, agg);
  run<G, 1, true, false, S>(in, new_e, agg);
}

template <class S>
void run_rounded(const EdgeInputs& in, Tensor& new_e, Tensor& agg) {
  switch (groups_of(in.width)) {
    case 2: return run_resident<2, S>(in, new_e, agg);
    case 4: return run_resident<4, S>(in, new_e, agg);
    case 8:
      if (fits<8, 1>(in.e, in.layers)) return run_resident<8, S>(in, new_e, agg);
      return run<8, 1, false, false, S>(in, new_e, agg);
    default: return run<16, 1, false, false, S>(in, new_e, agg);
  }
}

void run_exact(const EdgeInputs& in, Tensor& new_e, Tensor& agg) {
  switch (groups_of(in.width)) {
    case 2: return run<2, 3, true, false, float>(in, new_e, agg);
    case 4: return run<4, 3, false, false, float>(in, new_e, agg);
    default: return run<8, 3, false, false, float>(in, new_e, agg);
  }
}

}  // namespace

Tensor tensor_forward(const EdgeInputs& in, Tensor& new_e) {
  Tensor agg = torch::stable::new_empty(in.ps, {in.nodes, in.width});
  if (in.nodes == 0) return agg;
  if (in.e.scalar_type() == ScalarType::BFloat16)
    run_rounded<BFloat16>(in, new_e, agg);
  else if (in.bf16)
    run_rounded<float>(in, new_e, agg);
  else
    run_exact(in, new_e, agg);
  return agg;
}

}  // namespace meshsim
