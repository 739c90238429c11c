// What the edge block is given, checked.
#pragma once

#include "mlp_cpu.h"

namespace meshsim {

// Checks every argument, for the kernels of the CPU, which read nothing out of bounds after it, and
// for those of a GPU, which guard what is not read here.
struct EdgeInputs {
  Tensor e, ps, pd, src, dst, rowptr, weight, bias, norm;
  int64_t nodes, edges, width, layers;
  bool silu, bf16;
  double eps;

  EdgeInputs(const Tensor& e_, const Tensor& ps_, const Tensor& pd_, const Tensor& src_,
             const Tensor& dst_, const Tensor& rowptr_, const Tensor& weight_, const Tensor& bias_,
             const Tensor& norm_, const std::string& activation, double eps_, bool bf16_)
      : e(dense(e_)), ps(rows(ps_)), pd(rows(pd_)), src(dense(src_)), dst(dense(dst_)),
        rowptr(dense(rowptr_)), weight(dense(weight_)), bias(dense(bias_)), norm(dense(norm_)),
        silu(is_silu(activation)), bf16(bf16_), eps(eps_) {
    width = check_width(e, "e");
    const std::pair<const Tensor*, const char*> others[] = {
        {&ps, "ps"}, {&pd, "pd"}, {&src, "src"}, {&dst, "dst"}, {&rowptr, "rowptr"},
        {&weight, "weight"}, {&bias, "bias"}, {&norm, "norm"}};
    for (const auto& [x, name] : others) check_device(*x, name, e);
    edges = e.size(0);
    check_rowptr(rowptr, edges);
    nodes = rowptr.size(0) - 1;
    check_shape(ps, nodes, width, "ps");
    check_shape(pd, nodes, width, "pd");
    check_shape(src, edges, 0, "src");
    check_shape(dst, edges, 0, "dst");
    check_index(src, nodes, "src");
    check_index(dst, nodes, "dst");
    check_sorted();
    layers = check_weight(weight, width, 1, max_layers, "weight");
    check_shape(bias, layers, width, "bias");
    check_shape(norm, 2, width, "norm");
    check_numbers();
  }

  // As it is, if its rows lie apart or are one and the same.
  static Tensor rows(const Tensor& x) {
    const bool fits = x.dim() == 2 && x.stride(1) == 1 &&
                      (x.stride(0) >= x.size(1) || x.stride(0) == 0);
    return fits ? x : dense(x);
  }

 private:
  void check_sorted() const {
#if defined(MESHSIM_READS_INDICES)
    const auto *d = dst.const_data_ptr<int64_t>(), *p = rowptr.const_data_ptr<int64_t>();
    for (int64_t k = 0; k < edges; ++k)
      if (k < p[d[k]] || k >= p[d[k] + 1])
        bad_input("`dst`: expected receivers sorted as `rowptr` says, got ", d[k], " at edge ", k);
#endif
  }

  void check_numbers() const {
    const ScalarType stored = e.scalar_type();
    const ScalarType wide = stored == ScalarType::BFloat16 ? ScalarType::Float : stored;
    if (wide != ScalarType::Float && wide != ScalarType::Double)
      bad_input("`e`: expected float32, float64 or bfloat16, got ",
                torch::headeronly::toString(stored));
    const std::pair<const Tensor*, const char*> others[] = {
        {&ps, "ps"}, {&pd, "pd"}, {&weight, "weight"}, {&bias, "bias"}, {&norm, "norm"}};
    for (const auto& [x, name] : others) check_dtype(*x, wide, name);
  }
};

// What its gradient is given besides.
struct EdgeGradients {
  Tensor e, agg, colptr, sent;  // the rows of e as `EdgeInputs::rows` leaves them

  EdgeGradients(const EdgeInputs& in, const Tensor& grad_e, const Tensor& grad_agg,
                const Tensor& colptr_, const Tensor& sent_)
      : e(EdgeInputs::rows(grad_e)), agg(dense(grad_agg)), colptr(dense(colptr_)),
        sent(dense(sent_)) {
    check_shape(e, in.edges, in.width, "grad_e");
    check_shape(agg, in.nodes, in.width, "grad_agg");
    check_like(e, in.e, "grad_e");
    check_like(agg, in.ps, "grad_agg");
    check_device(colptr, "colptr", in.e);
    check_device(sent, "sent", in.e);
    check_shape(colptr, in.nodes + 1, 0, "colptr");
    check_rowptr(colptr, in.edges, "colptr");
    check_shape(sent, in.edges, 0, "sent");
    check_index(sent, in.edges, "sent");
  }
};

}  // namespace meshsim
