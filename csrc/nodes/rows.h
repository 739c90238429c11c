// What the node block's kernels on tensor cores share.
#pragma once

#include "device/tensor.h"
#include "nodes/nodes.h"

namespace meshsim {

// The block's inputs in device memory. Weights in the order [of x, of the sum, later layers…,
// next senders, next receivers].
struct NodeRows {
  int width, layers, count;
  bool silu, next;
  float eps;
  int64_t nodes;
  const float *x, *agg, *bias, *norm;

  explicit NodeRows(const NodeInputs& in)
      : width(static_cast<int>(in.width)), layers(static_cast<int>(in.layers)),
        count(static_cast<int>(in.count)), silu(in.silu), next(in.next),
        eps(static_cast<float>(in.eps)), nodes(in.nodes), x(in.x.const_data_ptr<float>()),
        agg(in.agg.const_data_ptr<float>()), bias(in.bias.const_data_ptr<float>()),
        norm(in.norm.const_data_ptr<float>()) {}
};

namespace {

// The first layer's result of 16 nodes, whose values are in `own`.
template <int G, int parts, bool resident>
__device__ inline void first_layer(const Place& at, const NodeRows& in,
                                   Weights<G, parts, resident>& weights,
                                   const float* const (&own)[2], int64_t k, int64_t last,
                                   Left<G, parts>& a, Rows<G>& x) {
  const float* agg[2];
  two_rows(at, in.agg, k, last, agg);
  load_left(at, own, a);
  fill_rows(at, in.bias, x);
  multiply<false>(weights, a, x);
  load_left(at, agg, a);
  multiply<false>(weights, a, x);
}

}  // namespace
}  // namespace meshsim
