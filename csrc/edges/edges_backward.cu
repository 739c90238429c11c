// The way back through the edge block on tensor cores, by chunks of edges: one kernel computes the
// hidden layers anew and the gradients of their results, another the weights' gradients. Then the
// gradients of the first layer's result, stored as edges are, are summed by sender and receiver.
#include "device/backward.h"
#include "edges/stage.h"

namespace meshsim {
namespace {

// x = the gradient of 16 new edges: their own and that of the sum they are part of.
template <int G, class S>
__device__ inline void new_gradient(const Place& at, const EdgeRows<S>& in, const S* grad_e,
                                    const float* grad_agg, int64_t k, int64_t last, Rows<G>& x) {
  const S* own[2];
  const float* sums[2] = {nullptr, nullptr};
  bool missing[2] = {false, false};
  two_rows(at, grad_e, k, last, own);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t edge = k + at.row + 8 * h;
    if (edge >= last) continue;
    const int64_t to = in.dst[edge];
    missing[h] = uint64_t(to) >= uint64_t(in.nodes);
    if (!missing[h]) sums[h] = grad_agg + to * in.width;
  }
  set_rows(at, sums, x);
  add_rows(at, own, x);
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (missing[h]) add_number(NAN, h, x);
}

// The same out of what has been sent.
template <int G, class S>
__device__ inline void sent_gradient(const Place& at, const EdgeRows<S>& in,
                                     const Stage<G, S>& stage, const float* grad_agg,
                                     const Ends& ends, Rows<G>& x) {
  bool missing[2];
  const S* own[2];
  receivers(at, grad_agg, in.width, in.nodes, ends, missing, x);
  stage.edges(at, own);
  add_rows(at, own, x);
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (missing[h]) add_number(NAN, h, x);
}

// `in` are the edges of a chunk, and so are the rows of all else but `grad_agg`.
template <int G, int parts, bool resident, class S, class K>
__global__ void __launch_bounds__(32 * block_warps, 1)
    backward_rows(EdgeRows<S> in, Plan plan, const uint16_t* stored, const S* grad_e,
                  const float* grad_agg, int64_t tasks, int64_t steps, bool add,
                  Kept<K> kept, S* d_e, S* d_first, float* norm_sums) {
  SHARED_ROOM(room);
  Weights<G, parts, resident> weights;
  float* tile = open_shared(room, plan, stored, in.layers, weights);
  const Place at(in.width);
  for (int64_t first = int64_t(blockIdx.x) * block_warps; first < tasks;
       first += int64_t(gridDim.x) * block_warps) {
    const int64_t mine = first + threadIdx.x / 32;
    const Task task = task_of(mine, tasks, steps, in.edges);
    float gamma_sum[G / 2] = {}, beta_sum[G / 2] = {};
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t k = task.first + 16 * step, last = task.last;
      const int rows = static_cast<int>(max(int64_t(0), min(int64_t(16), last - k)));
      const S* e[2];
      two_rows(at, in.e, k, last, e);
      Rows<G> x, grad;
      Left<G, parts> a;
      load_left(at, e, a);
      first_values(at, in, k, last, x);
      multiply<false>(weights, a, x);
      keep_layers(at, weights, in.layers, in.silu, in.bias, kept, k, last, a, x);
      new_gradient(at, in, grad_e, grad_agg, k, last, grad);
      normalise_back(at, in.norm, in.eps, grad, rows, tile, gamma_sum, beta_sum, x);
      back_through_layers(at, weights, in.layers, in.silu, kept, k, last, a, x);
      S* to[2];
      two_rows(at, d_first, k, last, to);
      store_rows(at, x, to);
      to_left(x, a);
      new_gradient(at, in, grad_e, grad_agg, k, last, x);  // the residual
      multiply<true>(weights, a, x);
      two_rows(at, d_e, k, last, to);
      store_rows(at, x, to);
    }
    if (mine < tasks)
      store_norm_sums<G>(gamma_sum, beta_sum, in.width, add, norm_sums + mine * 2 * in.width);
  }
  weights.end();
}

// The same where there is room for the next tile too. First comes e, then its gradient in its place.
template <int G, class S>
__global__ void __launch_bounds__(32 * block_warps, 1)
    backward_staged(EdgeRows<S> in, Plan plan, const uint16_t* stored, const S* grad_e,
                    const float* grad_agg, int64_t tasks, int64_t steps, bool add,
                    Kept<BFloat16> kept, S* d_e, S* d_first, float* norm_sums) {
  SHARED_ROOM(room);
  Weights<G, 1, true> weights;
  const Stage<G, S> stage(room);
  float* tile = open_shared(room, plan, stored, in.layers, weights, block_warps * stage.bytes);
  const Place at(in.width);
  for (int64_t i = int64_t(blockIdx.x) * block_warps + threadIdx.x / 32; i < tasks;
       i += int64_t(gridDim.x) * block_warps) {
    const Task task = task_of(i, tasks, steps, in.edges);
    const int64_t last = task.last;
    float gamma_sum[G / 2] = {}, beta_sum[G / 2] = {};
    Ends now = {0, 0}, next = {0, 0};
    if (task.first < last) {
      now = ends_of(in, task.first, last), next = ends_of(in, task.first + 16, last);
      stage.send_senders(in, now);
      stage.send_rows(in.e, task.first, last, in.width);
    }
    for (int64_t k = task.first; k < last; k += 16) {
      const bool more = k + 16 < last;
      const Ends later = ends_of(in, k + 32, last);
      wait_copies<0>();
      __syncwarp();
      Rows<G> x, grad;
      Left<G, 1> a;
      const S* e[2];
      stage.edges(at, e);
      load_left(at, e, a);
      sent_values(at, in, stage, now, x);
      __syncwarp();  // all have read what is written over now
      stage.send_rows(grad_e, k, last, in.width);
      if (more) {
        stage.send_senders(in, next);
        fetch_receivers<G>(in.pd, in.pd_stride, in.width, in.nodes, next);
        fetch_receivers<G>(grad_agg, in.width, in.width, in.nodes, next);
      } else {
        commit_copies();
      }
      multiply<false>(weights, a, x);
      keep_layers(at, weights, in.layers, in.silu, in.bias, kept, k, last, a, x);
      wait_copies<1>();  // the senders may still be on their way
      __syncwarp();
      sent_gradient(at, in, stage, grad_agg, now, grad);
      normalise_back(at, in.norm, in.eps, grad, static_cast<int>(min(int64_t(16), last - k)), tile,
                     gamma_sum, beta_sum, x);
      back_through_layers(at, weights, in.layers, in.silu, kept, k, last, a, x);
      S* to[2];
      two_rows(at, d_first, k, last, to);
      store_rows(at, x, to);
      to_left(x, a);
      sent_gradient(at, in, stage, grad_agg, now, x);  // the residual
      __syncwarp();
      if (more) stage.send_rows(in.e, k + 16, last, in.width);
      multiply<true>(weights, a, x);
      two_rows(at, d_e, k, last, to);
      store_rows(at, x, to);
      now = next, next = later;
    }
    store_norm_sums<G>(gamma_sum, beta_sum, in.width, add, norm_sums + i * 2 * in.width);
  }
}

template <int G, int parts, bool resident, bool staged, class S>
void run(const EdgeInputs& in, const EdgeGradients& grads, EdgeResults& out) {
  using K = std::conditional_t<parts == 1, BFloat16, float>;
  const int64_t h = in.width, layers = in.layers, extra = layers * h * h;
  const int64_t chunk = max(int64_t(1), min(chunk_rows(h), in.edges));
  const int64_t tasks = max(tasks_of(chunk), int64_t(block_warps));
  const int64_t steps = (chunk + 16 * tasks - 1) / (16 * tasks);
  const Tensor stored = stored_weights<G, parts>(in.weight);
  Tensor d_first = torch::stable::new_empty(in.e, {in.edges, h});
  Tensor norm_sums = torch::stable::new_empty(in.ps, {tasks, 2, h});
  KeptRoom<K> kept(in.ps, layers, in.silu, chunk, h);
  Parts<float> sums(in.ps, chunk, extra + layers * h, static_cast<int>(h));
  const unsigned blocks = min(blocks_of(tasks, block_warps), processors(in.e));
  Plan plan;
  for (int l = 0; l < layers; ++l) plan.add(l);
  for (int64_t l = layers - 1; l >= 0; --l) plan.add(l);
  const S* grad_e = static_cast<const S*>(grads.e.const_data_ptr());
  S *to_e = static_cast<S*>(out.e.mutable_data_ptr());
  S *to_first = static_cast<S*>(d_first.mutable_data_ptr());
  for (int64_t k = 0; k == 0 || k < in.edges; k += chunk) {  // once at least: zeros
    const EdgeRows<S> rows = EdgeRows<S>(in).chunk(k, chunk);
    const auto start = [&](auto kernel, int64_t shared) {
      launch(in.e, kernel, blocks, 32 * block_warps, shared, rows, plan,
             reinterpret_cast<const uint16_t*>(stored.const_data_ptr<float>()), grad_e + k * h,
             grads.agg.const_data_ptr<float>(), tasks, steps, k > 0, kept.kept, to_e + k * h,
             to_first + k * h, norm_sums.mutable_data_ptr<float>());
    };
    if constexpr (staged)
      start(backward_staged<G, S>, staged_bytes<G, S>(layers));
    else
      start(backward_rows<G, parts, resident, S, K>, shared_bytes<G, parts>(layers, resident));
    const Outer<S> outer = {1, {to_first + k * h}, {rows.e}, {0}, {extra}};
    Outer<K> hidden = {static_cast<int>(layers) - 1, {}, {}, {}, {}};
    for (int l = 1; l < layers; ++l) {
      hidden.g[l - 1] = kept.kept.grad(l - 1), hidden.a[l - 1] = kept.kept.after(l - 1);
      hidden.weight[l - 1] = l * h * h, hidden.bias[l - 1] = extra + l * h;
    }
    add_outers<parts>(outer, rows.edges, rows.width, k > 0, sums);
    add_outers<parts>(hidden, rows.edges, rows.width, k > 0, sums);
  }
  sums.total(0, out.weight);
  sums.total(extra, out.bias);
  launch(in.ps, add_parts<float>, blocks_of(2 * h, 128), 128, 0, norm_sums.const_data_ptr<float>(),
         tasks, 2 * h, int64_t(0), 2 * h, out.norm.mutable_data_ptr<float>());
  sum_by_node<float, S>(d_first, grads.sent.const_data_ptr<int64_t>(), grads.colptr, out.ps);
  sum_by_node<float, S>(d_first, nullptr, in.rowptr, out.pd);
}

template <int G, class S>
void run_resident(const EdgeInputs& in, const EdgeGradients& grads, EdgeResults& out) {
  if (fits_staged<G, S>(in.e, in.layers)) return run<G, 1, true, true, S>(in, grads, out);
  run<G, 1, true, false, S>(in, grads, out);
}

template <class S>
void run_rounded(const EdgeInputs& in, const EdgeGradients& grads, EdgeResults& out) {
  const int groups = groups_of(in.width);
  if (groups == 2) return run_resident<2, S>(in, grads, out);
  if (groups == 4) return run_resident<4, S>(in, grads, out);
  if (fits<8, 1>(in.e, in.layers)) return run_resident<8, S>(in, grads, out);
  run<8, 1, false, false, S>(in, grads, out);
}

}  // namespace

void tensor_backward(const EdgeInputs& in, const EdgeGradients& grads, EdgeResults& out) {
  const int groups = groups_of(in.width);
  if (in.e.scalar_type() == ScalarType::BFloat16) return run_rounded<BFloat16>(in, grads, out);
  if (in.bf16) return run_rounded<float>(in, grads, out);
  if (groups == 2) return run<2, 3, true, false, float>(in, grads, out);
  if (groups == 4) return run<4, 3, false, false, float>(in, grads, out);
  run<8, 3, false, false, float>(in, grads, out);
}

}  // namespace meshsim
