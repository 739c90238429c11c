// What the node block is given, checked.
#pragma once

#include "mlp_cpu.h"

namespace meshsim {

// Checks every argument, for the kernels of the CPU and for those of a GPU.
struct NodeInputs {
  Tensor x, agg, weight, bias, norm;
  int64_t nodes, width, layers, count;
  bool silu, next, bf16;
  double eps;

  NodeInputs(const Tensor& x_, const Tensor& agg_, const Tensor& weight_, const Tensor& bias_,
             const Tensor& norm_, bool next_, const std::string& activation, double eps_,
             bool bf16_)
      : x(dense(x_)), agg(dense(agg_)), weight(dense(weight_)), bias(dense(bias_)),
        norm(dense(norm_)), silu(is_silu(activation)), next(next_), bf16(bf16_), eps(eps_) {
    width = check_width(x, "x");
    nodes = x.size(0);
    check_shape(agg, nodes, width, "agg");
    const int64_t more = next ? 3 : 1;
    count = check_weight(weight, width, 1 + more, max_layers + more, "weight");
    layers = count - more;
    check_shape(bias, layers, width, "bias");
    check_shape(norm, 2, width, "norm");
    check_like(agg, x, "agg");
    check_like(weight, x, "weight");
    check_like(bias, x, "bias");
    check_like(norm, x, "norm");
    if (x.scalar_type() != ScalarType::Float && x.scalar_type() != ScalarType::Double)
      bad_dtype(x, "x");
  }
};

// What its gradient is given besides.
struct NodeGradients {
  Tensor x, ps, pd;

  NodeGradients(const NodeInputs& in, const Tensor& gx, const Tensor& gs, const Tensor& gd)
      : x(dense(gx)), ps(dense(gs)), pd(dense(gd)) {
    const int64_t projected = in.next ? in.nodes : 0;
    check_shape(x, in.nodes, in.width, "grad_x");
    check_shape(ps, projected, in.width, "grad_ps");
    check_shape(pd, projected, in.width, "grad_pd");
    check_like(x, in.x, "grad_x");
    check_like(ps, in.x, "grad_ps");
    check_like(pd, in.x, "grad_pd");
  }
};

}  // namespace meshsim
