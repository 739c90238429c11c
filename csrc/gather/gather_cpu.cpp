// Sums of picked rows, see meshsim/ops/gather.py.
#include "segment/segment.h"

namespace meshsim {
namespace {

Tensor gather_sum(Tensor x, Tensor indices, Tensor rowptr, Tensor, Tensor) {
  const Tensor from = dense(x), pick = dense(indices), ptr = dense(rowptr);
  check_cpu(from, "x");
  check_shape(from, -1, -1, "x");
  check_float(from, "x");
  check_shape(pick, -1, 0, "indices");
  check_index(pick, from.size(0), "indices");
  check_rowptr(ptr, pick.size(0));
  const int64_t n = ptr.size(0) - 1;
  Tensor out = fresh(from, {n, from.size(1)});
  const Groups by{n, from.size(0), ptr.const_data_ptr<int64_t>(),
                  pick.const_data_ptr<int64_t>()};
  fold({1, from.size(0), from.size(1), from.scalar_type()}, by, Fold::sum, from.const_data_ptr(),
       out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) { m.impl("gather_sum", TORCH_BOX(&gather_sum)); }

}  // namespace meshsim
