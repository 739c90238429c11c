// The edge block of message passing on CUDA, see meshsim/ops/edges.py.
//
// What runs where. On tensor cores (edges_forward.cu, edges_backward.cu): edges of float32 or
// bfloat16 with `bf16`, widths to 256 forward and to 128 backward; edges of float32 without it,
// widths to 128, each product as good as float32. On plain kernels (plain.h): float64, other
// widths, edges of bfloat16 without `bf16`, and rows that do not begin at a multiple of 16 bytes.
#include "device/tensor.h"
#include "edges/plain.h"

namespace meshsim {
namespace {

bool on_tensor_cores(const EdgeInputs& in, bool back) {
  const ScalarType stored = in.e.scalar_type();
  if (stored == ScalarType::Double || (stored == ScalarType::BFloat16 && !in.bf16)) return false;
  if (in.width > (in.bf16 && !back ? widest : widest / 2)) return false;
  for (const Tensor* x : {&in.e, &in.ps, &in.pd, &in.bias, &in.norm})
    if (!aligned(*x)) return false;
  return true;
}

Tensor forward(const EdgeInputs& in, Tensor& new_e) {
  if (on_tensor_cores(in, false)) return tensor_forward(in, new_e);
  if (in.e.scalar_type() == ScalarType::BFloat16) return plain_forward<float, BFloat16>(in, new_e);
  if (in.e.scalar_type() == ScalarType::Float) return plain_forward<float, float>(in, new_e);
  return plain_forward<double, double>(in, new_e);
}

std::tuple<Tensor, Tensor> edge_block(Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst,
                                      Tensor rowptr, Tensor, Tensor, Tensor weight, Tensor bias,
                                      Tensor norm, std::string activation, double eps, bool bf16) {
  const EdgeInputs in(e, ps, pd, src, dst, rowptr, weight, bias, norm, activation, eps, bf16);
  Tensor new_e = torch::stable::new_empty(in.e, {in.edges, in.width});
  Tensor agg = forward(in, new_e);
  return {new_e, agg};
}

Tensor edge_block_(Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst, Tensor rowptr,
                   Tensor weight, Tensor bias, Tensor norm, std::string activation, double eps,
                   bool bf16) {
  if (!e.is_contiguous()) bad_input("`e`: expected a contiguous tensor to overwrite");
  const EdgeInputs in(e, ps, pd, src, dst, rowptr, weight, bias, norm, activation, eps, bf16);
  return forward(in, e);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> edge_block_backward(
    Tensor grad_e, Tensor grad_agg, Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst,
    Tensor rowptr, Tensor colptr, Tensor sent, Tensor weight, Tensor bias, Tensor norm,
    std::string activation, double eps, bool bf16) {
  const EdgeInputs in(e, ps, pd, src, dst, rowptr, weight, bias, norm, activation, eps, bf16);
  EdgeGradients grads(in, grad_e, grad_agg, colptr, sent);
  grads.e = dense(grads.e);
  EdgeResults out(in);
  if (on_tensor_cores(in, true) && aligned(grads.e) && aligned(grads.agg))
    tensor_backward(in, grads, out);
  else if (in.e.scalar_type() == ScalarType::BFloat16)
    plain_backward<float, BFloat16>(in, grads, out);
  else if (in.e.scalar_type() == ScalarType::Float)
    plain_backward<float, float>(in, grads, out);
  else
    plain_backward<double, double>(in, grads, out);
  return {out.e, out.ps, out.pd, out.weight, out.bias, out.norm};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("edge_block", TORCH_BOX(&edge_block));
  m.impl("edge_block_", TORCH_BOX(&edge_block_));
  m.impl("edge_block_backward", TORCH_BOX(&edge_block_backward));
}

}  // namespace meshsim
