// Sums of picked rows on CUDA, see meshsim/ops/gather.py.
#include "device/device.h"

namespace meshsim {
namespace {

// One warp a row of the result, its lanes over the columns: a sum has one order whatever runs.
template <class S>
__global__ void sum_rows(const S* x, int64_t rows, int width, const int64_t* pick,
                         const int64_t* rowptr, int64_t n, int64_t picks, S* out) {
  using A = computed<S>;
  const int64_t i = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (i >= n) return;
  const int64_t first = max(rowptr[i], int64_t(0)), last = min(rowptr[i + 1], picks);
  for (int c = threadIdx.x; c < width; c += 32) {
    A sum = 0;
    for (int64_t k = first; k < last; ++k) {
      const int64_t row = pick[k];
      sum += uint64_t(row) < uint64_t(rows) ? A(x[row * width + c]) : A(NAN);
    }
    out[i * width + c] = S(sum);
  }
}

template <class S>
void run(const Tensor& x, const Tensor& pick, const Tensor& rowptr, Tensor& out) {
  const int64_t n = out.size(0);
  launch(x, sum_rows<S>, blocks_of(n, 8), dim3(32, 8), 0, static_cast<const S*>(x.const_data_ptr()),
         x.size(0), static_cast<int>(x.size(1)), pick.const_data_ptr<int64_t>(),
         rowptr.const_data_ptr<int64_t>(), n, pick.size(0), static_cast<S*>(out.mutable_data_ptr()));
}

Tensor gather_sum(Tensor x, Tensor indices, Tensor rowptr, Tensor, Tensor) {
  const Tensor from = dense(x), pick = dense(indices), ptr = dense(rowptr);
  check_device(from, "x");
  check_shape(from, -1, -1, "x");
  check_shape(pick, -1, 0, "indices");
  check_index(pick, from.size(0), "indices");
  check_rowptr(ptr, pick.size(0));
  Tensor out = torch::stable::new_empty(from, {ptr.size(0) - 1, from.size(1)});
  switch (from.scalar_type()) {
    case ScalarType::Float: run<float>(from, pick, ptr, out); break;
    case ScalarType::Double: run<double>(from, pick, ptr, out); break;
    case ScalarType::BFloat16: run<BFloat16>(from, pick, ptr, out); break;
    case ScalarType::Half: run<Half>(from, pick, ptr, out); break;
    default: bad_input("`x`: expected float32, float64, bfloat16 or float16, got ",
                       torch::headeronly::toString(from.scalar_type()));
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("gather_sum", TORCH_BOX(&gather_sum));
}

}  // namespace meshsim
