// Reductions of segments on CUDA: what the operators of meshsim/ops/segment.py are given.
#include "segment/rows.h"

namespace meshsim {
namespace {

int64_t width_of(const Tensor& x) {
  int64_t width = 1;
  for (int64_t i = 1; i < x.dim(); ++i) width *= x.size(i);
  return width;
}

std::vector<int64_t> shape_with(const Tensor& x, int64_t rows) {
  std::vector<int64_t> shape(x.dim());
  for (int64_t i = 0; i < x.dim(); ++i) shape[i] = i ? x.size(i) : rows;
  return shape;
}

Tensor fresh_rows(const Tensor& x, int64_t rows) {
  return torch::stable::new_empty(x, shape_with(x, rows));
}

// What an operator over sorted rows is given: x (E, …) and rowptr (N + 1,).
struct Given {
  Tensor x, rowptr;
  RowLists of;

  Given(const Tensor& x_, const Tensor& rowptr_) : x(packed(x_)), rowptr(dense(rowptr_)) {
    check_device(x, "x");
    if (x.dim() == 0) bad_input("`x`: expected shape (E, ...), got ()");
    const int64_t rows = x.size(0);
    check_rowptr(rowptr, rows);
    of = {{1, rows, width_of(x), x.scalar_type()},
          rowptr.size(0) - 1, rows, rowptr.const_data_ptr<int64_t>()};
  }

  const void* data() const { return x.const_data_ptr(); }
};

Tensor segment_sum(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  Given in(x, rowptr);
  Tensor out = fresh_rows(in.x, in.of.lists);
  Block& block = in.of.block;
  if (block.dtype == ScalarType::Bool) {  // sums of truth values are «any»
    block.dtype = ScalarType::Byte;
    const Room<int64_t> arg(in.x, in.of.lists * block.width);
    extreme(in.x, in.of, false, in.data(), out.mutable_data_ptr(), arg.data);
    return out;
  }
  if (block.dtype == ScalarType::ComplexFloat || block.dtype == ScalarType::ComplexDouble) {
    const bool narrow = block.dtype == ScalarType::ComplexFloat;
    block.dtype = narrow ? ScalarType::Float : ScalarType::Double;
    block.width *= 2;
  }
  fold(in.x, in.of, Fold::sum, in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_mean(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = fresh_rows(in.x, in.of.lists);
  fold(in.x, in.of, Fold::mean, in.data(), out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> segment_extreme(const Tensor& x, const Tensor& rowptr, bool least) {
  Given in(x, rowptr);
  if (in.of.block.dtype == ScalarType::Bool) in.of.block.dtype = ScalarType::Byte;
  Tensor out = fresh_rows(in.x, in.of.lists);
  Tensor arg = torch::stable::new_empty(in.x, shape_with(in.x, in.of.lists), ScalarType::Long);
  extreme(in.x, in.of, least, in.data(), out.mutable_data_ptr(), arg.mutable_data_ptr<int64_t>());
  return {out, arg};
}

std::tuple<Tensor, Tensor> segment_max(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  return segment_extreme(x, rowptr, false);
}

std::tuple<Tensor, Tensor> segment_min(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  return segment_extreme(x, rowptr, true);
}

Tensor segment_softmax(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = fresh_rows(in.x, in.of.block.rows);
  softmax(in.x, in.of, in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_logsumexp(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = fresh_rows(in.x, in.of.lists);
  logsumexp(in.x, in.of, in.data(), out.mutable_data_ptr());
  return out;
}

void check_alike(const Tensor& a, const Tensor& x, int64_t rows, const char* name) {
  check_device(a, name);
  check_dtype(a, x.scalar_type(), name);
  bool fits = a.dim() == x.dim() && a.dim() > 0 && a.size(0) == rows;
  for (int64_t i = 1; fits && i < x.dim(); ++i) fits = a.size(i) == x.size(i);
  if (!fits)
    bad_input("`", name, "`: expected ", rows, " rows like `x`, got ", shape_of(a), " beside ",
              shape_of(x));
}

Tensor segment_softmax_backward(Tensor grad, Tensor y, Tensor rowptr) {
  const Given in(y, rowptr);
  const Tensor g = packed(grad);
  check_float(in.x, "y");
  check_alike(g, in.x, in.of.block.rows, "grad");
  Tensor out = fresh_rows(in.x, in.of.block.rows);
  softmax_backward(in.x, in.of, g.const_data_ptr(), in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_logsumexp_backward(Tensor grad, Tensor x, Tensor y, Tensor rowptr) {
  const Given in(x, rowptr);
  const Tensor g = packed(grad), top = packed(y);
  check_float(in.x, "x");
  check_alike(g, in.x, in.of.lists, "grad");
  check_alike(top, in.x, in.of.lists, "y");
  Tensor out = fresh_rows(in.x, in.of.block.rows);
  logsumexp_backward(in.x, in.of, g.const_data_ptr(), in.data(), top.const_data_ptr(),
                     out.mutable_data_ptr());
  return out;
}

// What an operator from segments to their rows is given: x (N, …) and rowptr (N + 1,).
struct Back {
  Tensor x, rowptr;
  RowLists of;

  Back(const Tensor& x_, const Tensor& rowptr_, int64_t rows)
      : x(packed(x_)), rowptr(dense(rowptr_)) {
    check_device(x, "x");
    check_rowptr(rowptr, rows);
    const int64_t n = rowptr.size(0) - 1;
    if (x.dim() == 0 || x.size(0) != n)
      bad_input("`x`: expected ", n, " rows (one for each segment), got ", shape_of(x));
    of = {{1, rows, width_of(x), x.scalar_type()}, n, rows, rowptr.const_data_ptr<int64_t>()};
  }
};

Tensor segment_spread(Tensor x, Tensor rowptr, int64_t rows, bool mean) {
  Back in(x, rowptr, rows);
  if (mean) check_float(in.x, "x");
  Block& block = in.of.block;
  if (block.dtype == ScalarType::Bool) block.dtype = ScalarType::Byte;
  if (block.dtype == ScalarType::ComplexFloat || block.dtype == ScalarType::ComplexDouble) {
    block.width *= block.dtype == ScalarType::ComplexFloat ? 1 : 2;
    block.dtype = ScalarType::Long;  // moved, not reckoned with
  }
  Tensor out = fresh_rows(in.x, rows);
  spread(in.x, in.of, mean, in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

#if defined(MESHSIM_EMULATED)  // on the device what lies outside its segment is left out
void check_places(const Back& in, const int64_t* arg) {
  const int64_t width = in.of.block.width;
  for (int64_t i = 0; i < in.of.lists; ++i)
    for (int64_t j = 0; j < width; ++j) {
      const int64_t k = arg[i * width + j], first = in.of.ptr[i], end = in.of.ptr[i + 1];
      if ((k < first || k >= end) && k != in.of.block.rows)
        bad_input("`arg`: row ", k, " of segment ", i, " is outside ", first, "..", end - 1);
    }
}
#endif

Tensor segment_place(Tensor x, Tensor arg, Tensor rowptr, int64_t rows) {
  const Back in(x, rowptr, rows);
  const Tensor to = dense(arg);
  check_device(to, "arg");
  check_dtype(to, ScalarType::Long, "arg");
  if (shape_of(in.x) != shape_of(to))
    bad_input("`arg`: expected shape ", shape_of(in.x), ", got ", shape_of(to));
  check_float(in.x, "x");
#if defined(MESHSIM_EMULATED)
  check_places(in, to.const_data_ptr<int64_t>());
#endif
  Tensor out = fresh_rows(in.x, rows);
  place(in.x, in.of, in.x.const_data_ptr(), to.const_data_ptr<int64_t>(), out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("segment_sum", TORCH_BOX(&segment_sum));
  m.impl("segment_mean", TORCH_BOX(&segment_mean));
  m.impl("segment_max", TORCH_BOX(&segment_max));
  m.impl("segment_min", TORCH_BOX(&segment_min));
  m.impl("segment_softmax", TORCH_BOX(&segment_softmax));
  m.impl("segment_logsumexp", TORCH_BOX(&segment_logsumexp));
  m.impl("segment_softmax_backward", TORCH_BOX(&segment_softmax_backward));
  m.impl("segment_logsumexp_backward", TORCH_BOX(&segment_logsumexp_backward));
  m.impl("segment_spread", TORCH_BOX(&segment_spread));
  m.impl("segment_place", TORCH_BOX(&segment_place));
}

}  // namespace meshsim
