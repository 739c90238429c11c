// The edge block out of the stages of device/plain.h: any width, float32 and float64.
#pragma once

#include "device/plain.h"
#include "edges/edges.h"

namespace meshsim {
namespace {

// z = ps[src] + pd[dst] + bias; what does not exist reads as NaN.
template <class T>
__global__ void first_values(const T* ps, const T* pd, int64_t ps_stride, int64_t pd_stride,
                             const int64_t* src, const int64_t* dst, int64_t nodes, const T* bias,
                             int64_t rows, int h, T* z) {
  const int64_t r = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  const int64_t from = src[r], to = dst[r];
  const bool there = uint64_t(from) < uint64_t(nodes) && uint64_t(to) < uint64_t(nodes);
  for (int j = threadIdx.x; j < h; j += 32)
    z[r * h + j] =
        there ? ps[from * ps_stride + j] + pd[to * pd_stride + j] + bias[j] : T(NAN);
}

// The gradient of a new edge: its own and that of the sum it is part of.
template <class T, class S>
__global__ void edge_gradient(const S* grad_e, const T* grad_agg, const int64_t* dst,
                              int64_t nodes, int64_t rows, int h, T* grad) {
  const int64_t r = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (r >= rows) return;
  const int64_t to = dst[r];
  const bool there = uint64_t(to) < uint64_t(nodes);
  for (int j = threadIdx.x; j < h; j += 32)
    grad[r * h + j] = T(grad_e[r * h + j]) + (there ? grad_agg[to * h + j] : T(NAN));
}

template <class T, class S>
void first_layer(const EdgeInputs& in, PlainMlp<T>& net, int64_t k, int64_t rows) {
  launch(in.ps, first_values<T>, blocks_of(rows, 4), warps(), 0, in.ps.const_data_ptr<T>(),
         in.pd.const_data_ptr<T>(), in.ps.stride(0), in.pd.stride(0),
         in.src.const_data_ptr<int64_t>() + k, in.dst.const_data_ptr<int64_t>() + k, in.nodes,
         net.bias, rows, net.h, net.tile(0));
  net.template multiply<false>(static_cast<const S*>(in.e.const_data_ptr()) + k * net.h, 0, nullptr,
                               rows, true, net.tile(0));
}

template <class T, class S>
Tensor plain_forward(const EdgeInputs& in, Tensor& new_e) {
  constexpr bool narrow = sizeof(S) < sizeof(T);  // then the sums are of what is not rounded yet
  const int64_t h = in.width;
  Tensor agg = torch::stable::new_empty(in.ps, {in.nodes, h});
  Tensor wide = torch::stable::new_empty(in.ps, {narrow ? in.edges : 0, h});
  PlainMlp<T> net(in.weight, in.bias, in.norm, 0, in.silu, in.eps, in.edges, false);
  const S* e = static_cast<const S*>(in.e.const_data_ptr());
  for (int64_t k = 0; k < in.edges; k += net.chunk) {
    const int64_t rows = min(net.chunk, in.edges - k);
    first_layer<T, S>(in, net, k, rows);
    net.finish(net.forward(rows, false), e + k * h, rows,
               static_cast<S*>(new_e.mutable_data_ptr()) + k * h,
               narrow ? wide.mutable_data_ptr<T>() + k * h : nullptr);
  }
  if (narrow)
    sum_by_node<T, T>(wide, nullptr, in.rowptr, agg);
  else
    sum_by_node<T, S>(new_e, nullptr, in.rowptr, agg);
  return agg;
}

template <class T, class S>
void plain_backward(const EdgeInputs& in, const EdgeGradients& grads, EdgeResults& out) {
  const int64_t h = in.width, extra = in.layers * h * h;
  Tensor d_first = torch::stable::new_empty(in.e, {in.edges, h});  // of the first layer's result
  PlainMlp<T> net(in.weight, in.bias, in.norm, 0, in.silu, in.eps, in.edges, true);
  Parts<T> parts(in.ps, net.chunk, extra + (in.layers + 2) * h, static_cast<int>(h));
  T* grad = net.tile(2 * in.layers);
  const S* e = static_cast<const S*>(in.e.const_data_ptr());
  const S* grad_e = static_cast<const S*>(grads.e.const_data_ptr());
  S *to_e = static_cast<S*>(out.e.mutable_data_ptr());
  S *to_first = static_cast<S*>(d_first.mutable_data_ptr());
  for (int64_t k = 0; k == 0 || k < in.edges; k += net.chunk) {  // once at least: zeros
    const int64_t rows = min(net.chunk, in.edges - k), n = rows * h;
    first_layer<T, S>(in, net, k, rows);
    T* z = net.forward(rows, true);
    launch(in.ps, edge_gradient<T, S>, blocks_of(rows, 4), warps(), 0, grad_e + k * h,
           grads.agg.const_data_ptr<T>(), in.dst.const_data_ptr<int64_t>() + k, in.nodes, rows,
           net.h, grad);
    const T* g = net.backward(z, grad, rows, parts, extra, k > 0);
    parts.outer(g, e + k * h, rows, k > 0, 0);
    net.template multiply<true>(g, 0, nullptr, rows, true, grad);
    launch(in.ps, store_numbers<T, S>, blocks_of(n, 128), 128, 0, g, n, to_first + k * h);
    launch(in.ps, store_numbers<T, S>, blocks_of(n, 128), 128, 0, grad, n, to_e + k * h);
  }
  parts.total(0, out.weight);
  parts.total(extra, out.bias);
  parts.total(extra + in.layers * h, out.norm);
  sum_by_node<T, S>(d_first, grads.sent.const_data_ptr<int64_t>(), grads.colptr, out.ps);
  sum_by_node<T, S>(d_first, nullptr, in.rowptr, out.pd);
}

}  // namespace
}  // namespace meshsim
