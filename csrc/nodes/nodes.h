// What the files of the node block on CUDA share.
#pragma once

#include "nodes/inputs.h"

namespace meshsim {

// The gradients of the inputs.
struct NodeResults {
  Tensor x, agg, weight, bias, norm;

  explicit NodeResults(const NodeInputs& in)
      : x(torch::stable::new_empty(in.x, {in.nodes, in.width})),
        agg(torch::stable::new_empty(in.x, {in.nodes, in.width})),
        weight(torch::stable::new_empty(in.x, {in.count, in.width, in.width})),
        bias(torch::stable::new_empty(in.x, {in.layers, in.width})),
        norm(torch::stable::new_empty(in.x, {2, in.width})) {}
};

// The passes on tensor cores, see nodes_forward.cu, nodes_backward.cu.
void tensor_forward(const NodeInputs& in, Tensor& x, Tensor& ps, Tensor& pd);
void tensor_backward(const NodeInputs& in, const NodeGradients& grads, NodeResults& out);

}  // namespace meshsim
