// Morton's order on CUDA, see meshsim/ops/order.py. The Cuthill–McKee order stays on the CPU: it
// takes one node after another.
#include "order/morton.h"

namespace meshsim {
namespace {

__global__ void widen(const int32_t* from, int64_t n, int64_t* to) {
  const int64_t i = thread_number();
  if (i < n) to[i] = from[i];
}

Tensor morton_order(Tensor points_) {
  const Tensor points = dense(points_);
  check_points(points, "points");
  const int64_t n = points.size(0);
  const Tensor out = integers(points, {n});
  with_points(points, [&](auto t, auto dim) {
    using T = decltype(t);
    constexpr int D = decltype(dim)::value;
    const Frame frame = frame_of<D, T>(points, "points");
    const Room<int32_t> ids = along_curve<D, T>(points, frame);
    launch(points, widen, blocks_of(n, 256), 256, 0, ids.data, n, numbers(out));
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("morton_order", TORCH_BOX(&morton_order));
}

}  // namespace meshsim
