// The node block on tensor cores: one warp takes 16 nodes through all layers, and the projections
// for the next block's edges.
#include "nodes/rows.h"

namespace meshsim {
namespace {

template <int G, int parts, bool resident>
__global__ void __launch_bounds__(32 * block_warps, 1)
    forward_rows(NodeRows in, Plan plan, const uint16_t* stored, float* new_x, float* ps,
                 float* pd) {
  SHARED_ROOM(room);
  Weights<G, parts, resident> weights;
  open_shared(room, plan, stored, in.count, weights);
  const Place at(in.width);
  const int64_t step = 16 * block_warps * int64_t(gridDim.x);
  for (int64_t first = 16 * block_warps * int64_t(blockIdx.x); first < in.nodes; first += step) {
    const int64_t k = first + 16 * (threadIdx.x / 32);
    const float* own[2];
    two_rows(at, in.x, k, in.nodes, own);
    Rows<G> x;
    Left<G, parts> a;
    first_layer(at, in, weights, own, k, in.nodes, a, x);
    for (int l = 1; l < in.layers; ++l) {
      float* none[2] = {nullptr, nullptr};
      activate_rows<parts != 1>(at, in.silu, x, none, false);
      to_left(x, a);
      fill_rows(at, in.bias + l * in.width, x);
      multiply<false>(weights, a, x);
    }
    normalise_rows(at, in.norm, in.eps, own, x);
    float* to[2];
    two_rows(at, new_x, k, in.nodes, to);
    store_rows(at, x, to);
    if (!in.next) continue;
    to_left(x, a);
    for (int i = 0; i < 2; ++i) {
      fill_rows(at, static_cast<const float*>(nullptr), x);
      multiply<false>(weights, a, x);
      two_rows(at, i ? pd : ps, k, in.nodes, to);
      store_rows(at, x, to);
    }
  }
  weights.end();
}

template <int G, int parts, bool resident>
void run(const NodeInputs& in, Tensor& x, Tensor& ps, Tensor& pd) {
  const Tensor stored = stored_weights<G, parts>(in.weight);
  const unsigned blocks = min(blocks_of(in.nodes, 16 * block_warps), processors(in.x));
  Plan plan;
  for (int l = 0; l < in.count; ++l) plan.add(l);
  launch(in.x, forward_rows<G, parts, resident>, blocks, 32 * block_warps,
         shared_bytes<G, parts>(in.count, resident), NodeRows(in), plan,
         reinterpret_cast<const uint16_t*>(stored.const_data_ptr<float>()),
         x.mutable_data_ptr<float>(), ps.mutable_data_ptr<float>(), pd.mutable_data_ptr<float>());
}

}  // namespace

void tensor_forward(const NodeInputs& in, Tensor& x, Tensor& ps, Tensor& pd) {
  if (in.nodes == 0) return;
  const int groups = groups_of(in.width);
  if (!in.bf16) {
    if (groups == 2) return run<2, 3, true>(in, x, ps, pd);
    if (groups == 4) return run<4, 3, false>(in, x, ps, pd);
    return run<8, 3, false>(in, x, ps, pd);
  }
  if (groups == 2) return run<2, 1, true>(in, x, ps, pd);
  if (groups == 4) return run<4, 1, true>(in, x, ps, pd);
  if (groups == 8 && fits<8, 1>(in.x, in.count)) return run<8, 1, true>(in, x, ps, pd);
  if (groups == 8) return run<8, 1, false>(in, x, ps, pd);
  run<16, 1, false>(in, x, ps, pd);
}

}  // namespace meshsim
