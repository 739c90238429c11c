// The way back through the node block on tensor cores, by chunks of nodes: one kernel computes the
// layers anew and the gradients of their results, another the weights' gradients.
#include "device/backward.h"
#include "nodes/rows.h"

namespace meshsim {
namespace {

// Gradients of 16 new nodes and what is made of them.
struct Gradients {
  const float *x, *ps, *pd;  // of the results
  float *d_x, *d_agg;        // of the inputs
  float *new_x, *d_first;    // kept for the weights' gradients: new nodes, first layer's gradient
};

// grad = that of the new nodes, with what comes by way of the projections.
template <int G, int parts, bool resident>
__device__ inline void new_gradient(const Place& at, const NodeRows& in,
                                    Weights<G, parts, resident>& weights, const Gradients& of,
                                    int64_t k, int64_t last, Left<G, parts>& a, Rows<G>& grad) {
  const float* from[2];
  two_rows(at, of.x, k, last, from);
  fill_rows(at, static_cast<const float*>(nullptr), grad);
  add_rows(at, from, grad);
  if (!in.next) return;
  for (int i = 0; i < 2; ++i) {
    two_rows(at, i ? of.pd : of.ps, k, last, from);
    load_left(at, from, a);
    multiply<true>(weights, a, grad);
  }
}

// `in` are the nodes of a chunk, and so are all rows. The gradient of the new nodes waits in d_x
// while the layers need the registers.
template <int G, int parts, bool resident, class K>
__global__ void __launch_bounds__(32 * block_warps, 1)
    backward_rows(NodeRows in, Plan plan, const uint16_t* stored, Gradients of, int64_t tasks,
                  int64_t steps, bool add, Kept<K> kept, float* norm_sums) {
  SHARED_ROOM(room);
  Weights<G, parts, resident> weights;
  float* tile = open_shared(room, plan, stored, in.count, weights);
  const Place at(in.width);
  for (int64_t first = int64_t(blockIdx.x) * block_warps; first < tasks;
       first += int64_t(gridDim.x) * block_warps) {
    const int64_t mine = first + threadIdx.x / 32;
    const Task task = task_of(mine, tasks, steps, in.nodes);
    float gamma_sum[G / 2] = {}, beta_sum[G / 2] = {};
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t k = task.first + 16 * step, last = task.last;
      const int rows = static_cast<int>(max(int64_t(0), min(int64_t(16), last - k)));
      const float* own[2];
      float* to[2];
      two_rows(at, in.x, k, last, own);
      Rows<G> x, grad;
      Left<G, parts> a;
      first_layer(at, in, weights, own, k, last, a, x);
      keep_layers(at, weights, in.layers, in.silu, in.bias, kept, k, last, a, x);
      if (in.next) {
        Rows<G> new_x = x;
        normalise_rows(at, in.norm, in.eps, own, new_x);
        two_rows(at, of.new_x, k, last, to);
        store_rows(at, new_x, to);
      }
      new_gradient(at, in, weights, of, k, last, a, grad);
      two_rows(at, of.d_x, k, last, to);
      store_rows(at, grad, to);
      normalise_back(at, in.norm, in.eps, grad, rows, tile, gamma_sum, beta_sum, x);
      back_through_layers(at, weights, in.layers, in.silu, kept, k, last, a, x);
      two_rows(at, of.d_first, k, last, to);
      store_rows(at, x, to);
      to_left(x, a);
      two_rows(at, of.d_x, k, last, to);
      const float* const waiting[2] = {to[0], to[1]};
      fill_rows(at, static_cast<const float*>(nullptr), x);
      add_rows(at, waiting, x);
      multiply<true>(weights, a, x);
      store_rows(at, x, to);
      fill_rows(at, static_cast<const float*>(nullptr), x);
      multiply<true>(weights, a, x);
      two_rows(at, of.d_agg, k, last, to);
      store_rows(at, x, to);
    }
    if (mine < tasks)
      store_norm_sums<G>(gamma_sum, beta_sum, in.width, add, norm_sums + mine * 2 * in.width);
  }
  weights.end();
}

// In the order that `backward_rows` multiplies.
Plan plan_of(const NodeInputs& in) {
  Plan plan;
  for (int64_t l = 0; l <= in.layers; ++l) plan.add(l);
  if (in.next)
    for (int i = 1; i <= 2; ++i) plan.add(in.layers + i);
  for (int64_t l = in.layers; l > 1; --l) plan.add(l);
  plan.add(0);
  plan.add(1);
  return plan;
}

// The weights' gradients from a chunk.
template <int parts, class K>
void add_weights(const NodeInputs& in, const NodeRows& rows, const Gradients& of,
                 const Kept<K>& kept, bool add, Parts<float>& sums) {
  const int64_t hh = in.width * in.width, extra = in.count * hh;
  Outer<float> outer = {2, {of.d_first, of.d_first}, {rows.x, rows.agg}, {0, hh}, {extra, -1}};
  if (in.next)
    for (int i = 0; i < 2; ++i) {
      outer.g[outer.count] = i ? of.pd : of.ps, outer.a[outer.count] = of.new_x;
      outer.weight[outer.count] = (in.layers + 1 + i) * hh, outer.bias[outer.count++] = -1;
    }
  Outer<K> hidden = {static_cast<int>(in.layers) - 1, {}, {}, {}, {}};
  for (int l = 1; l < in.layers; ++l) {
    hidden.g[l - 1] = kept.grad(l - 1), hidden.a[l - 1] = kept.after(l - 1);
    hidden.weight[l - 1] = (l + 1) * hh, hidden.bias[l - 1] = extra + l * in.width;
  }
  add_outers<parts>(outer, rows.nodes, rows.width, add, sums);
  add_outers<parts>(hidden, rows.nodes, rows.width, add, sums);
}

template <int G, int parts, bool resident>
void run(const NodeInputs& in, const NodeGradients& grads, NodeResults& out) {
  using K = std::conditional_t<parts == 1, BFloat16, float>;
  const int64_t h = in.width, layers = in.layers, extra = in.count * h * h;
  const int64_t chunk = max(int64_t(1), min(chunk_rows(h), in.nodes));
  const int64_t tasks = max(tasks_of(chunk), int64_t(block_warps));
  const int64_t steps = (chunk + 16 * tasks - 1) / (16 * tasks);
  const Tensor stored = stored_weights<G, parts>(in.weight);
  Tensor norm_sums = torch::stable::new_empty(in.x, {tasks, 2, h});
  Tensor between = torch::stable::new_empty(in.x, {2, chunk, h});
  KeptRoom<K> kept(in.x, layers, in.silu, chunk, h);
  Parts<float> sums(in.x, chunk, extra + layers * h, static_cast<int>(h));
  const unsigned blocks = min(blocks_of(tasks, block_warps), processors(in.x));
  for (int64_t k = 0; k == 0 || k < in.nodes; k += chunk) {  // once at least: zeros
    NodeRows rows(in);
    rows.nodes = min(chunk, in.nodes - k);
    rows.x += k * h, rows.agg += k * h;
    float* room = between.mutable_data_ptr<float>();
    const int64_t at = k * h, projected = in.next ? at : 0;
    const Gradients of = {grads.x.const_data_ptr<float>() + at,
                          grads.ps.const_data_ptr<float>() + projected,
                          grads.pd.const_data_ptr<float>() + projected,
                          out.x.mutable_data_ptr<float>() + at,
                          out.agg.mutable_data_ptr<float>() + at, room, room + chunk * h};
    launch(in.x, backward_rows<G, parts, resident, K>, blocks, 32 * block_warps,
           shared_bytes<G, parts>(in.count, resident), rows, plan_of(in),
           reinterpret_cast<const uint16_t*>(stored.const_data_ptr<float>()), of, tasks, steps,
           k > 0, kept.kept, norm_sums.mutable_data_ptr<float>());
    add_weights<parts>(in, rows, of, kept.kept, k > 0, sums);
  }
  sums.total(0, out.weight);
  sums.total(extra, out.bias);
  launch(in.x, add_parts<float>, blocks_of(2 * h, 128), 128, 0, norm_sums.const_data_ptr<float>(),
         tasks, 2 * h, int64_t(0), 2 * h, out.norm.mutable_data_ptr<float>());
}

}  // namespace

void tensor_backward(const NodeInputs& in, const NodeGradients& grads, NodeResults& out) {
  const int groups = groups_of(in.width);
  if (in.bf16) {
    if (groups == 2) return run<2, 1, true>(in, grads, out);
    if (groups == 4) return run<4, 1, true>(in, grads, out);
    if (fits<8, 1>(in.x, in.count)) return run<8, 1, true>(in, grads, out);
    return run<8, 1, false>(in, grads, out);
  }
  if (groups == 2) return run<2, 3, true>(in, grads, out);
  if (groups == 4) return run<4, 3, false>(in, grads, out);
  run<8, 3, false>(in, grads, out);
}

}  // namespace meshsim
