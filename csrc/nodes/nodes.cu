// The node block of message passing on CUDA, see meshsim/ops/nodes.py.
//
// What runs where. On tensor cores (nodes_forward.cu, nodes_backward.cu): float32, with `bf16`
// widths to 256 forward and to 128 backward; without it widths to 128, each product as good as
// float32. On plain kernels (plain.h): float64, other widths, and rows that do not begin at a
// multiple of 16 bytes.
#include "device/tensor.h"
#include "nodes/plain.h"

namespace meshsim {
namespace {

bool on_tensor_cores(const NodeInputs& in, int64_t most) {
  if (in.x.scalar_type() != ScalarType::Float || in.width > most) return false;
  for (const Tensor* x : {&in.x, &in.agg, &in.bias, &in.norm})
    if (!aligned(*x)) return false;
  return true;
}

std::tuple<Tensor, Tensor, Tensor> node_block(Tensor x, Tensor agg, Tensor weight, Tensor bias,
                                              Tensor norm, bool next, std::string activation,
                                              double eps, bool bf16) {
  const NodeInputs in(x, agg, weight, bias, norm, next, activation, eps, bf16);
  const int64_t projected = in.next ? in.nodes : 0;
  Tensor new_x = torch::stable::new_empty(in.x, {in.nodes, in.width});
  Tensor ps = torch::stable::new_empty(in.x, {projected, in.width});
  Tensor pd = torch::stable::new_empty(in.x, {projected, in.width});
  if (on_tensor_cores(in, in.bf16 ? widest : widest / 2))
    tensor_forward(in, new_x, ps, pd);
  else if (in.x.scalar_type() == ScalarType::Float)
    plain_forward<float>(in, new_x, ps, pd);
  else
    plain_forward<double>(in, new_x, ps, pd);
  return {new_x, ps, pd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> node_block_backward(
    Tensor grad_x, Tensor grad_ps, Tensor grad_pd, Tensor x, Tensor agg, Tensor weight,
    Tensor bias, Tensor norm, bool next, std::string activation, double eps, bool bf16) {
  const NodeInputs in(x, agg, weight, bias, norm, next, activation, eps, bf16);
  const NodeGradients grads(in, grad_x, grad_ps, grad_pd);
  NodeResults out(in);
  if (on_tensor_cores(in, widest / 2) && aligned(grads.x) && aligned(grads.ps) &&
      aligned(grads.pd))
    tensor_backward(in, grads, out);
  else if (in.x.scalar_type() == ScalarType::Float)
    plain_backward<float>(in, grads, out);
  else
    plain_backward<double>(in, grads, out);
  return {out.x, out.agg, out.weight, out.bias, out.norm};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("node_block", TORCH_BOX(&node_block));
  m.impl("node_block_backward", TORCH_BOX(&node_block_backward));
}

}  // namespace meshsim
