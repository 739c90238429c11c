// Reductions of segments on CUDA: what the operators of meshsim/ops/segment.py are given.
#include "segment/inputs.h"
#include "segment/rows.h"

namespace meshsim {
namespace {

Tensor fresh_rows(const Tensor& x, int64_t rows) {
  return torch::stable::new_empty(x, shape_with(x, rows));
}

struct Given : SegmentInputs {
  Given(const Tensor& x_, const Tensor& rowptr_, const char* name = "x")
      : SegmentInputs(packed(x_), rowptr_, name) {}

  RowLists of() const { return {block, n, block.rows, rowptr.const_data_ptr<int64_t>()}; }
  const void* data() const { return x.const_data_ptr(); }
};

Tensor segment_sum(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  Given in(x, rowptr);
  Tensor out = fresh_rows(in.x, in.n);
  if (in.block.dtype == ScalarType::Bool) {
    in.block.dtype = ScalarType::Byte;
    const Room<int64_t> arg(in.x, in.n * in.block.width);
    extreme(in.x, in.of(), false, in.data(), out.mutable_data_ptr(), arg.data);
    return out;
  }
  in.as_reals();
  fold(in.x, in.of(), Fold::sum, in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_mean(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = fresh_rows(in.x, in.n);
  fold(in.x, in.of(), Fold::mean, in.data(), out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> segment_extreme(const Tensor& x, const Tensor& rowptr, bool least) {
  Given in(x, rowptr);
  if (in.block.dtype == ScalarType::Bool) in.block.dtype = ScalarType::Byte;
  Tensor out = fresh_rows(in.x, in.n);
  Tensor arg = torch::stable::new_empty(in.x, shape_with(in.x, in.n), ScalarType::Long);
  extreme(in.x, in.of(), least, in.data(), out.mutable_data_ptr(), arg.mutable_data_ptr<int64_t>());
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
  Tensor out = fresh_rows(in.x, in.block.rows);
  softmax(in.x, in.of(), in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_logsumexp(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = fresh_rows(in.x, in.n);
  logsumexp(in.x, in.of(), in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_softmax_backward(Tensor grad, Tensor y, Tensor rowptr) {
  const Given in(y, rowptr, "y");
  const Tensor g = packed(grad);
  check_float(in.x, "y");
  check_alike(g, in.x, in.block.rows, "grad");
  Tensor out = fresh_rows(in.x, in.block.rows);
  softmax_backward(in.x, in.of(), g.const_data_ptr(), in.data(), out.mutable_data_ptr());
  return out;
}

Tensor segment_logsumexp_backward(Tensor grad, Tensor x, Tensor y, Tensor rowptr) {
  const Given in(x, rowptr);
  const Tensor g = packed(grad), top = packed(y);
  check_float(in.x, "x");
  check_alike(g, in.x, in.n, "grad");
  check_alike(top, in.x, in.n, "y");
  Tensor out = fresh_rows(in.x, in.block.rows);
  logsumexp_backward(in.x, in.of(), g.const_data_ptr(), in.data(), top.const_data_ptr(),
                     out.mutable_data_ptr());
  return out;
}

struct Back : SpreadInputs {
  Back(const Tensor& x_, const Tensor& rowptr_, int64_t rows)
      : SpreadInputs(packed(x_), rowptr_, rows) {}

  RowLists of() const { return {block, n, block.rows, rowptr.const_data_ptr<int64_t>()}; }
};

Tensor segment_spread(Tensor x, Tensor rowptr, int64_t rows, bool mean) {
  Back in(x, rowptr, rows);
  if (mean) check_float(in.x, "x");
  in.as_words();
  Tensor out = fresh_rows(in.x, rows);
  spread(in.x, in.of(), mean, in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

#if defined(MESHSIM_READS_INDICES)  // on a GPU what lies outside its segment is left out
void check_rows(const Back& in, const int64_t* arg) {
  const int64_t width = in.block.width;
  const auto* ptr = in.rowptr.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < in.n; ++i)
    for (int64_t j = 0; j < width; ++j) {
      const int64_t k = arg[i * width + j], first = ptr[i], end = ptr[i + 1];
      if ((k < first || k >= end) && k != in.block.rows)
        bad_input("`arg`: row ", k, " of segment ", i, " is outside ", first, "..", end - 1);
    }
}
#endif

Tensor segment_place(Tensor x, Tensor arg, Tensor rowptr, int64_t rows) {
  const Back in(x, rowptr, rows);
  const Tensor to = dense(arg);
  in.check_places(to);
#if defined(MESHSIM_READS_INDICES)
  check_rows(in, to.const_data_ptr<int64_t>());
#endif
  Tensor out = fresh_rows(in.x, rows);
  place(in.x, in.of(), in.x.const_data_ptr(), to.const_data_ptr<int64_t>(), out.mutable_data_ptr());
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
