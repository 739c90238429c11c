// What attention is given, checked.
#pragma once

#include "common.h"

namespace meshsim {

// Of the log-sum-exp beside numbers of type S.
template <class S>
ScalarType wide_dtype() {
  return sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
}

// Checks every argument, for the kernels of the CPU, which read nothing out of bounds after it, and
// for those of a GPU, which guard what is not read here.
struct AttentionInputs {
  Tensor q, k, v, rowptr, col;
  std::optional<Tensor> bias;
  int64_t rows, columns, entries, heads, width;
  double scale;

  AttentionInputs(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& rowptr_,
                  const Tensor& col_, const std::optional<Tensor>& bias_, int64_t heads_,
                  double scale_)
      : q(lined(q_, "q")), k(lined(k_, "k")), v(lined(v_, "v")), rowptr(dense(rowptr_)),
        col(dense(col_)), heads(heads_), scale(scale_) {
    check_device(q, "q");
    rows = q.size(0), width = q.size(1), columns = k.size(0);
    if (heads < 1 || width % heads || width == 0)
      bad_input("`heads`: expected a number that divides the width ", width, ", got ", heads);
    check_shape(k, -1, width, "k");
    check_shape(v, columns, width, "v");
    same(k, "k");
    same(v, "v");
    check_device(rowptr, "rowptr", q);
    check_device(col, "col", q);
    check_shape(col, -1, 0, "col");
    entries = col.size(0);
    check_rowptr(rowptr, entries);
    if (rowptr.size(0) != rows + 1)
      bad_input("`rowptr`: expected shape (", rows + 1, "), got ", shape_of(rowptr));
    check_index(col, columns, "col");
    if (!bias_) return;
    check_shape(*bias_, entries, heads, "bias");
    same(*bias_, "bias");
    bias = dense(*bias_);
  }

  void same(const Tensor& x, const char* name) const {
    check_device(x, name, q);
    check_dtype(x, q.scalar_type(), name);
  }

  // As it is, if its rows lie apart.
  static Tensor lined(const Tensor& x, const char* name) {
    check_shape(x, -1, -1, name);
    return x.stride(1) == 1 && x.stride(0) >= x.size(1) ? x : dense(x);
  }

  // Calls work(S{}) with S the type of the numbers.
  template <class Work>
  auto typed(const Work& work) const {
    switch (q.scalar_type()) {
      case ScalarType::Float: return work(float{});
      case ScalarType::Double: return work(double{});
      case ScalarType::BFloat16: return work(BFloat16{});
      default: bad_input("`q`: expected float32, float64 or bfloat16, got ",
                         torch::headeronly::toString(q.scalar_type()));
    }
  }
};

// What its gradient is given besides; colptr and eperm list every entry once, by column.
struct AttentionGradients {
  Tensor out, lse_grad, lse, colptr, eperm;

  AttentionGradients(const AttentionInputs& in, const Tensor& grad_out, const Tensor& grad_lse,
                     const Tensor& lse_, const Tensor& colptr_, const Tensor& eperm_)
      : out(dense(grad_out)), lse_grad(dense(grad_lse)), lse(dense(lse_)), colptr(dense(colptr_)),
        eperm(dense(eperm_)) {
    check_device(colptr, "colptr", in.q);
    check_device(eperm, "eperm", in.q);
    check_rowptr(colptr, in.entries, "colptr");
    if (colptr.size(0) != in.columns + 1)
      bad_input("`colptr`: expected shape (", in.columns + 1, "), got ", shape_of(colptr));
    check_shape(eperm, in.entries, 0, "eperm");
    check_index(eperm, in.entries, "eperm");
    check_places(in);
    in.same(out, "grad_out");
    check_shape(out, in.rows, in.width, "grad_out");
    const ScalarType wide = in.typed([](auto s) { return wide_dtype<decltype(s)>(); });
    for (const auto& [x, name] : {std::pair{&lse_grad, "grad_lse"}, std::pair{&lse, "lse"}}) {
      check_device(*x, name, in.q);
      check_dtype(*x, wide, name);
      check_shape(*x, in.rows, in.heads, name);
    }
  }

 private:
  void check_places(const AttentionInputs& in) const {
#if defined(MESHSIM_READS_INDICES)  // on a GPU an entry in the wrong column is added there
    const auto *p = colptr.const_data_ptr<int64_t>(), *e = eperm.const_data_ptr<int64_t>();
    const auto* col = in.col.const_data_ptr<int64_t>();
    for (int64_t j = 0; j < in.columns; ++j)
      for (int64_t t = p[j]; t < p[j + 1]; ++t)
        if (col[e[t]] != j || (t > p[j] && e[t] <= e[t - 1]))
          bad_input("`eperm`: expected the entries of column ", j, ", rising, got ", e[t],
                    " at place ", t);
#endif
  }
};

}  // namespace meshsim
