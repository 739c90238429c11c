// The node block of message passing, see meshsim/ops/nodes.py.
#include "nodes/inputs.h"

namespace meshsim {

template <class T>
struct Nodes {
  int64_t width, layers;
  bool silu, next;
  T eps;
  const T *x, *agg;  // (N, H)
  const T *bias, *gamma, *beta;
  const T* weights[2];           // packed, for forward and backward products
  const uint16_t* weights16[2];  // the same for AMX
};

}  // namespace meshsim

#define MESHSIM_WANTS_AMX
#define MESHSIM_KERNELS "nodes/nodes_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

constexpr int64_t range = 960;  // nodes that a thread takes at a time; sets the order of sums

struct Given : NodeInputs {
  using NodeInputs::NodeInputs;

  template <class T>
  Nodes<T> as(Packed<T>& packed) const {
    const T* gamma = norm.const_data_ptr<T>();
    return {width, layers, silu, next, T(eps), x.const_data_ptr<T>(), agg.const_data_ptr<T>(),
            bias.const_data_ptr<T>(), gamma, gamma + width,
            {packed.weights(0), packed.weights(1)}, {packed.weights16(0), packed.weights16(1)}};
  }
};

template <class T>
std::tuple<Tensor, Tensor, Tensor> forward(const Given& in) {
  const int64_t h = in.width, projected = in.next ? in.nodes : 0;
  Tensor new_x = torch::stable::new_empty(in.x, {in.nodes, h});
  Tensor ps = torch::stable::new_empty(in.x, {projected, h});
  Tensor pd = torch::stable::new_empty(in.x, {projected, h});
  Packed<T> packed(in.count, h, in.bf16, false);
  const T* weight = in.weight.const_data_ptr<T>();
  MESHSIM_DISPATCH(
      pack_all<T>(weight, in.count, h, packed.weights(0), nullptr, packed.weights16(0), nullptr));
  const Nodes<T> nodes = in.as<T>(packed);
  T *to_x = new_x.mutable_data_ptr<T>();
  T *to_ps = ps.mutable_data_ptr<T>(), *to_pd = pd.mutable_data_ptr<T>();
  each((in.nodes + 191) / 192, [&](int64_t i) {
    T* scratch = thread_scratch<T>(6 * tile_rows * (h + 16));
    const int64_t last = std::min(in.nodes, 192 * (i + 1));
    MESHSIM_DISPATCH(nodes_forward<T>(nodes, 192 * i, last, scratch, to_x, to_ps, to_pd));
  });
  return {new_x, ps, pd};
}

template <class T>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(const Given& in,
                                                            const NodeGradients& grads) {
  const int64_t h = in.width;
  Tensor d_x = torch::stable::new_empty(in.x, {in.nodes, h});
  Tensor d_agg = torch::stable::new_empty(in.x, {in.nodes, h});
  Tensor d_weight = torch::stable::new_empty(in.x, {in.count, h, h});
  Tensor d_bias = torch::stable::new_empty(in.x, {in.layers, h});
  Tensor d_norm = torch::stable::new_empty(in.x, {2, h});
  const int64_t block = in.count * h * h, size = block + (in.layers + 2) * h;
  Packed<T> packed(in.count, h, in.bf16, true);
  const T* weight = in.weight.const_data_ptr<T>();
  MESHSIM_DISPATCH(pack_all<T>(weight, in.count, h, packed.weights(0), packed.weights(1),
                               packed.weights16(0), packed.weights16(1)));
  const Nodes<T> nodes = in.as<T>(packed);
  const int64_t n = (in.nodes + range - 1) / range;
  Buffer<T> partial(std::max<int64_t>(n, 1) * size);
  const T *px = grads.x.const_data_ptr<T>(), *pps = grads.ps.const_data_ptr<T>();
  const T* ppd = grads.pd.const_data_ptr<T>();
  T *to_x = d_x.mutable_data_ptr<T>(), *to_agg = d_agg.mutable_data_ptr<T>();
  each(n, [&](int64_t i) {
    T* scratch = thread_scratch<T>((7 + 2 * in.layers) * tile_rows * (h + 16));
    const int64_t last = std::min(in.nodes, range * (i + 1));
    MESHSIM_DISPATCH(nodes_backward<T>(nodes, px, pps, ppd, range * i, last, scratch, to_x, to_agg,
                                       partial.data + i * size));
  });
  add_lists(partial.data, n, size);
  std::copy_n(partial.data, block, d_weight.mutable_data_ptr<T>());
  std::copy_n(partial.data + block, in.layers * h, d_bias.mutable_data_ptr<T>());
  std::copy_n(partial.data + block + in.layers * h, 2 * h, d_norm.mutable_data_ptr<T>());
  return {d_x, d_agg, d_weight, d_bias, d_norm};
}

std::tuple<Tensor, Tensor, Tensor> node_block(Tensor x, Tensor agg, Tensor weight, Tensor bias,
                                              Tensor norm, bool next, std::string activation,
                                              double eps, bool bf16) {
  const Given in(x, agg, weight, bias, norm, next, activation, eps, bf16);
  return x.scalar_type() == ScalarType::Float ? forward<float>(in) : forward<double>(in);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> node_block_backward(
    Tensor grad_x, Tensor grad_ps, Tensor grad_pd, Tensor x, Tensor agg, Tensor weight,
    Tensor bias, Tensor norm, bool next, std::string activation, double eps,
    bool bf16) {
  const Given in(x, agg, weight, bias, norm, next, activation, eps, bf16);
  const NodeGradients grads(in, grad_x, grad_ps, grad_pd);
  if (x.scalar_type() == ScalarType::Float) return backward<float>(in, grads);
  return backward<double>(in, grads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("node_block", TORCH_BOX(&node_block));
  m.impl("node_block_backward", TORCH_BOX(&node_block_backward));
}

}  // namespace meshsim
