// The node block out of the stages of device/plain.h: any width, float32 and float64. Weights in
// the order [of x, of the sum, later layers…, next senders, next receivers].
#pragma once

#include "device/plain.h"
#include "nodes/nodes.h"

namespace meshsim {
namespace {

template <class T>
void first_layer(const NodeInputs& in, PlainMlp<T>& net, int64_t k, int64_t rows) {
  const int64_t at = k * in.width;
  net.template multiply<false>(in.x.const_data_ptr<T>() + at, 0, net.bias, rows, false,
                               net.tile(0));
  net.template multiply<false>(in.agg.const_data_ptr<T>() + at, 1, nullptr, rows, true,
                               net.tile(0));
}

template <class T>
void plain_forward(const NodeInputs& in, Tensor& x, Tensor& ps, Tensor& pd) {
  PlainMlp<T> net(in.weight, in.bias, in.norm, 1, in.silu, in.eps, in.nodes, false);
  const int after = static_cast<int>(in.layers) + 1;
  for (int64_t k = 0; k < in.nodes; k += net.chunk) {
    const int64_t rows = min(net.chunk, in.nodes - k), at = k * in.width;
    first_layer(in, net, k, rows);
    T* to = x.mutable_data_ptr<T>() + at;
    net.finish(net.forward(rows, false), in.x.const_data_ptr<T>() + at, rows, to,
               static_cast<T*>(nullptr));
    if (!in.next) continue;
    net.template multiply<false>(to, after, nullptr, rows, false, ps.mutable_data_ptr<T>() + at);
    net.template multiply<false>(to, after + 1, nullptr, rows, false,
                                 pd.mutable_data_ptr<T>() + at);
  }
}

template <class T>
void plain_backward(const NodeInputs& in, const NodeGradients& grads, NodeResults& out) {
  const int64_t h = in.width, hh = h * h, extra = in.count * hh;
  PlainMlp<T> net(in.weight, in.bias, in.norm, 1, in.silu, in.eps, in.nodes, true);
  Parts<T> parts(in.x, net.chunk, extra + (in.layers + 2) * h, static_cast<int>(h));
  const int after = static_cast<int>(in.layers) + 1;
  T *x = net.tile(2 * in.layers - 1), *grad = net.tile(2 * in.layers);
  for (int64_t k = 0; k == 0 || k < in.nodes; k += net.chunk) {  // once at least: zeros
    const int64_t rows = min(net.chunk, in.nodes - k), at = k * h;
    const T *from = in.x.const_data_ptr<T>() + at, *agg = in.agg.const_data_ptr<T>() + at;
    first_layer(in, net, k, rows);
    T* z = net.forward(rows, true);
    launch(in.x, store_numbers<T, T>, blocks_of(rows * h, 128), 128, 0,
           grads.x.const_data_ptr<T>() + at, rows * h, grad);
    if (in.next) {
      net.finish(z, from, rows, x, static_cast<T*>(nullptr));
      const T* of[] = {grads.ps.const_data_ptr<T>() + at, grads.pd.const_data_ptr<T>() + at};
      for (int i = 0; i < 2; ++i) {
        parts.outer(of[i], x, rows, k > 0, (after + i) * hh);
        net.template multiply<true>(of[i], after + i, nullptr, rows, true, grad);
      }
    }
    const T* g = net.backward(z, grad, rows, parts, extra, k > 0);
    parts.outer(g, from, rows, k > 0, 0);
    parts.outer(g, agg, rows, k > 0, hh);
    T *to_x = out.x.mutable_data_ptr<T>() + at, *to_agg = out.agg.mutable_data_ptr<T>() + at;
    net.template multiply<true>(g, 0, nullptr, rows, true, grad);
    launch(in.x, store_numbers<T, T>, blocks_of(rows * h, 128), 128, 0, grad, rows * h, to_x);
    net.template multiply<true>(g, 1, nullptr, rows, false, to_agg);
  }
  parts.total(0, out.weight);
  parts.total(extra, out.bias);
  parts.total(extra + in.layers * h, out.norm);
}

}  // namespace
}  // namespace meshsim
