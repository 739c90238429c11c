// What the edge block's kernels on tensor cores share.
#pragma once

#include "device/tensor.h"
#include "edges/edges.h"

namespace meshsim {

// The block's inputs in device memory; S is what edges are stored as.
template <class S>
struct EdgeRows {
  int width, layers;
  bool silu;
  float eps;
  int64_t nodes, edges, ps_stride, pd_stride;
  const S* e;
  const float *ps, *pd, *bias, *norm;
  const int64_t *src, *dst, *rowptr;

  explicit EdgeRows(const EdgeInputs& in)
      : width(static_cast<int>(in.width)), layers(static_cast<int>(in.layers)), silu(in.silu),
        eps(static_cast<float>(in.eps)), nodes(in.nodes), edges(in.edges),
        ps_stride(in.ps.stride(0)), pd_stride(in.pd.stride(0)),
        e(static_cast<const S*>(in.e.const_data_ptr())), ps(in.ps.const_data_ptr<float>()),
        pd(in.pd.const_data_ptr<float>()), bias(in.bias.const_data_ptr<float>()),
        norm(in.norm.const_data_ptr<float>()), src(in.src.const_data_ptr<int64_t>()),
        dst(in.dst.const_data_ptr<int64_t>()), rowptr(in.rowptr.const_data_ptr<int64_t>()) {}

  // Edges k … k + size − 1 of them alone.
  EdgeRows chunk(int64_t k, int64_t size) const {
    EdgeRows out = *this;
    out.edges = min(size, edges - k);
    out.e += k * width;
    out.src += k;
    out.dst += k;
    return out;
  }
};

namespace {

// x = pd[dst] + bias + ps[src] of 16 edges; NaN where a node does not exist.
template <int G, class S>
__device__ inline void first_values(const Place& at, const EdgeRows<S>& in, int64_t k,
                                    int64_t last, Rows<G>& x) {
  const float *from[2] = {nullptr, nullptr}, *to[2] = {nullptr, nullptr};
  bool missing[2] = {false, false};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t edge = k + at.row + 8 * h;
    if (edge >= last) continue;
    const int64_t s = in.src[edge], d = in.dst[edge];
    missing[h] = uint64_t(s) >= uint64_t(in.nodes) || uint64_t(d) >= uint64_t(in.nodes);
    if (missing[h]) continue;
    from[h] = in.ps + s * in.ps_stride;
    to[h] = in.pd + d * in.pd_stride;
  }
  set_rows(at, to, x);
  add_row(at, in.bias, x);
  add_rows(at, from, x);
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (missing[h]) add_number(NAN, h, x);
}

}  // namespace
}  // namespace meshsim
