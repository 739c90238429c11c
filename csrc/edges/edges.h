// What the files of the edge block on CUDA share.
#pragma once

#include "edges/inputs.h"

namespace meshsim {

// The gradients of the inputs.
struct EdgeResults {
  Tensor e, ps, pd, weight, bias, norm;

  explicit EdgeResults(const EdgeInputs& in)
      : e(torch::stable::new_empty(in.e, {in.edges, in.width})),
        ps(torch::stable::new_empty(in.ps, {in.nodes, in.width})),
        pd(torch::stable::new_empty(in.ps, {in.nodes, in.width})),
        weight(torch::stable::new_empty(in.ps, {in.layers, in.width, in.width})),
        bias(torch::stable::new_empty(in.ps, {in.layers, in.width})),
        norm(torch::stable::new_empty(in.ps, {2, in.width})) {}
};

// The passes on tensor cores, see edges_forward.cu, edges_backward.cu. The first returns the sums
// by receiver.
Tensor tensor_forward(const EdgeInputs& in, Tensor& new_e);
void tensor_backward(const EdgeInputs& in, const EdgeGradients& grads, EdgeResults& out);

}  // namespace meshsim
