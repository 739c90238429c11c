// The edge block of message passing, see meshsim/ops/edges.py.
#include "edges/inputs.h"

namespace meshsim {

// Numbers are of type T, those stored for each edge of type S (bfloat16 as its bits, or T).
template <class T, class S>
struct Edges {
  int64_t width, layers, nodes, count;
  bool silu;
  T eps;
  const S* e;         // (E, H)
  const T *ps, *pd;   // (N, H), rows a stride apart
  int64_t ps_stride, pd_stride;
  const int64_t *src, *dst, *rowptr;
  const T *bias, *gamma, *beta;
  const T* weights[2];           // packed, for forward and backward products
  const uint16_t* weights16[2];  // the same for AMX
};

}  // namespace meshsim

#define MESHSIM_WANTS_AMX
#define MESHSIM_KERNELS "edges/edges_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

constexpr int64_t kept_bytes = 32 << 20;

struct Given : EdgeInputs {
  using EdgeInputs::EdgeInputs;

  template <class T, class S>
  Edges<T, S> as(Packed<T>& packed) const {
    const T* gamma = norm.const_data_ptr<T>();
    return {width, layers, nodes, edges, silu, T(eps), static_cast<const S*>(e.const_data_ptr()),
            ps.const_data_ptr<T>(), pd.const_data_ptr<T>(), ps.stride(0), pd.stride(0),
            src.const_data_ptr<int64_t>(), dst.const_data_ptr<int64_t>(),
            rowptr.const_data_ptr<int64_t>(), bias.const_data_ptr<T>(), gamma, gamma + width,
            {packed.weights(0), packed.weights(1)}, {packed.weights16(0), packed.weights16(1)}};
  }

  // Receivers in ranges of about `want` edges, the same whatever the number of threads.
  std::vector<int64_t> ranges(int64_t want) const {
    const auto* p = rowptr.const_data_ptr<int64_t>();
    std::vector<int64_t> out{0};
    for (int64_t i = 1; i < nodes; ++i)
      if (p[i] - p[out.back()] >= want) out.push_back(i);
    if (nodes) out.push_back(nodes);
    return out;
  }
};

// Into `new_e`, which may be the edges themselves: each is read before it is written.
template <class T, class S>
Tensor forward(const Given& in, Tensor& new_e) {
  const int64_t h = in.width;
  Tensor agg = torch::stable::new_empty(in.ps, {in.nodes, h});
  Packed<T> packed(in.layers, h, in.bf16, false);
  const T* weight = in.weight.const_data_ptr<T>();
  MESHSIM_DISPATCH(
      pack_all<T>(weight, in.layers, h, packed.weights(0), nullptr, packed.weights16(0), nullptr));
  const Edges<T, S> edges = in.as<T, S>(packed);
  S* to_e = static_cast<S*>(new_e.mutable_data_ptr());
  T* to_agg = agg.mutable_data_ptr<T>();
  const auto ranges = in.ranges(std::clamp<int64_t>(in.edges / 64, 480, 4096));
  each(static_cast<int64_t>(ranges.size()) - 1, [&](int64_t i) {
    T* scratch = thread_scratch<T>(5 * tile_rows * (h + 16));
    MESHSIM_DISPATCH(edges_forward<T, S>(edges, ranges[i], ranges[i + 1], scratch, to_e, to_agg));
  });
  return agg;
}

Tensor forward(const Given& in, Tensor& new_e) {
  if (in.e.scalar_type() == ScalarType::BFloat16) return forward<float, uint16_t>(in, new_e);
  if (in.e.scalar_type() == ScalarType::Float) return forward<float, float>(in, new_e);
  return forward<double, double>(in, new_e);
}

template <class T, class S>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Given& in,
                                                                    const EdgeGradients& grads) {
  const int64_t h = in.width, block = in.layers * h * h;
  Tensor d_e = torch::stable::new_empty(in.e, {in.edges, h});
  Tensor d_ps = torch::stable::new_empty(in.ps, {in.nodes, h});
  Tensor d_pd = torch::stable::new_empty(in.ps, {in.nodes, h});
  Tensor d_weight = torch::stable::new_empty(in.ps, {in.layers, h, h});
  Tensor d_bias = torch::stable::new_empty(in.ps, {in.layers, h});
  Tensor d_norm = torch::stable::new_empty(in.ps, {2, h});

  Packed<T> packed(in.layers, h, in.bf16, true);
  const T* weight = in.weight.const_data_ptr<T>();
  MESHSIM_DISPATCH(pack_all<T>(weight, in.layers, h, packed.weights(0), packed.weights(1),
                               packed.weights16(0), packed.weights16(1)));
  const Edges<T, S> edges = in.as<T, S>(packed);
  const auto ranges = in.ranges(std::max<int64_t>(in.edges / 48, 960));
  const int64_t n = static_cast<int64_t>(ranges.size()) - 1;
  const int64_t size = block + in.layers * h + 2 * h;  // numbers in one range's sums
  Buffer<T> partial(std::max<int64_t>(n, 1) * size);
  const S* ge = static_cast<const S*>(grads.e.const_data_ptr());
  const T* ga = grads.agg.const_data_ptr<T>();
  S *to_e = static_cast<S*>(d_e.mutable_data_ptr());
  // the gradient of the first layer's result, between the two passes
  const bool keep = in.edges * h * static_cast<int64_t>(sizeof(S)) <= kept_bytes;
  Buffer<S> large(keep ? 0 : in.edges * h);
  S* to_first = keep ? thread_scratch<S, 1>(in.edges * h) : large.data;
  T *to_pd = d_pd.mutable_data_ptr<T>(), *to_ps = d_ps.mutable_data_ptr<T>();
  each(n, [&](int64_t i) {
    T* scratch = thread_scratch<T>((6 + 2 * in.layers) * tile_rows * (h + 16));
    MESHSIM_DISPATCH(edges_backward<T, S>(edges, ge, grads.e.stride(0), ga, ranges[i],
                                          ranges[i + 1], scratch, to_e, to_first, to_pd,
                                          partial.data + i * size));
  });
  const auto* columns = grads.colptr.const_data_ptr<int64_t>();
  const auto* list = grads.sent.const_data_ptr<int64_t>();
  each((in.nodes + 255) / 256, [&](int64_t i) {
    const int64_t last = std::min(in.nodes, 256 * (i + 1));
    MESHSIM_DISPATCH(gather_rows<T, S>(to_first, list, columns, 256 * i, last, h, to_ps));
  });
  add_lists(partial.data, n, size);
  std::copy_n(partial.data, block, d_weight.mutable_data_ptr<T>());
  std::copy_n(partial.data + block, in.layers * h, d_bias.mutable_data_ptr<T>());
  std::copy_n(partial.data + block + in.layers * h, 2 * h, d_norm.mutable_data_ptr<T>());
  return {d_e, d_ps, d_pd, d_weight, d_bias, d_norm};
}

std::tuple<Tensor, Tensor> edge_block(Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst,
                                      Tensor rowptr, Tensor colptr, Tensor sent, Tensor weight,
                                      Tensor bias, Tensor norm, std::string activation, double eps,
                                      bool bf16) {
  const Given in(e, ps, pd, src, dst, rowptr, weight, bias, norm, activation, eps, bf16);
  Tensor new_e = torch::stable::new_empty(in.e, {in.edges, in.width});
  Tensor agg = forward(in, new_e);
  return {new_e, agg};
}

Tensor edge_block_(Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst, Tensor rowptr,
                   Tensor weight, Tensor bias, Tensor norm, std::string activation, double eps,
                   bool bf16) {
  if (!e.is_contiguous()) bad_input("`e`: expected a contiguous tensor to overwrite");
  const Given in(e, ps, pd, src, dst, rowptr, weight, bias, norm, activation, eps, bf16);
  return forward(in, e);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> edge_block_backward(
    Tensor grad_e, Tensor grad_agg, Tensor e, Tensor ps, Tensor pd, Tensor src, Tensor dst,
    Tensor rowptr, Tensor colptr, Tensor sent, Tensor weight, Tensor bias, Tensor norm,
    std::string activation, double eps, bool bf16) {
  const Given in(e, ps, pd, src, dst, rowptr, weight, bias, norm, activation, eps, bf16);
  const EdgeGradients grads(in, grad_e, grad_agg, colptr, sent);
  if (e.scalar_type() == ScalarType::BFloat16) return backward<float, uint16_t>(in, grads);
  if (e.scalar_type() == ScalarType::Float) return backward<float, float>(in, grads);
  return backward<double, double>(in, grads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("edge_block", TORCH_BOX(&edge_block));
  m.impl("edge_block_", TORCH_BOX(&edge_block_));
  m.impl("edge_block_backward", TORCH_BOX(&edge_block_backward));
}

}  // namespace meshsim
