// Sums of picked rows on CUDA, see meshsim/ops/gather.py: segment sums of rows found by index.
#include "segment/rows.h"

namespace meshsim {
namespace {

Tensor gather_sum(Tensor x, Tensor indices, Tensor rowptr, Tensor, Tensor) {
  check_device(x, "x");
  check_shape(x, -1, -1, "x");
  check_float(x, "x");
  const Tensor from = packed(x), pick = dense(indices), ptr = dense(rowptr);
  check_device(pick, "indices", from);
  check_device(ptr, "rowptr", from);
  check_shape(pick, -1, 0, "indices");
  check_index(pick, from.size(0), "indices");
  check_rowptr(ptr, pick.size(0));
  const int64_t n = ptr.size(0) - 1;
  Tensor out = torch::stable::new_empty(from, {n, from.size(1)});
  const RowLists of{{1, from.size(0), from.size(1), from.scalar_type()}, n, pick.size(0),
                    ptr.const_data_ptr<int64_t>(), pick.const_data_ptr<int64_t>()};
  fold(from, of, Fold::sum, from.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("gather_sum", TORCH_BOX(&gather_sum));
}

}  // namespace meshsim
