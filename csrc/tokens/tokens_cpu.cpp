// The node-wise half of a transformer block, see meshsim/ops/tokens.py.
#include "mlp_cpu.h"

namespace meshsim {

template <class T>
struct Tokens {
  int64_t width, parts, heads, turns;  // H; H-wide parts of the gated MLP; pairs turned in a head
  bool next;
  T eps;
  const T *x, *y;      // (N, H)
  const T *bias, *norm;
  const T *cos, *sin;  // (N, turns)
  const T* weights[2];           // packed, for forward and backward products
  const uint16_t* weights16[2];  // the same for AMX
};

}  // namespace meshsim

#define MESHSIM_WANTS_AMX
#define MESHSIM_KERNELS "tokens/tokens_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

constexpr int64_t range = 960;  // nodes that a thread takes at a time; sets the order of sums

struct Given {
  Tensor x, y, weight, bias, norm, cos, sin;
  int64_t nodes, width, parts, count, heads;
  bool next, bf16;
  double eps;

  Given(const Tensor& x_, const Tensor& y_, const Tensor& weight_, const Tensor& bias_,
        const Tensor& norm_, const Tensor& cos_, const Tensor& sin_, int64_t heads_, bool next_,
        double eps_, bool bf16_)
      : x(dense(x_)), y(dense(y_)), weight(dense(weight_)), bias(dense(bias_)), norm(dense(norm_)),
        cos(dense(cos_)), sin(dense(sin_)), heads(heads_), next(next_), bf16(bf16_), eps(eps_) {
    width = check_width(x, "x");
    nodes = x.size(0);
    check_shape(y, nodes, width, "y");
    if (heads < 1 || width % heads)
      bad_input("`heads`: expected a divisor of the width ", width, ", got ", heads);
    check_shape(bias, -1, width, "bias");
    parts = bias.size(0) / 2 - 1;
    if (parts < 1 || bias.size(0) % 2)
      bad_input("`bias`: expected 2 + 2 rows for each part of the gated MLP, got ", bias.size(0));
    count = 1 + 3 * parts + (next ? 3 : 0);
    check_weight(weight, width, count, count, "weight");
    check_shape(norm, next ? 2 : 1, width, "norm");
    check_shape(cos, nodes, -1, "cos");
    check_shape(sin, nodes, -1, "sin");
    if (sin.size(1) != cos.size(1))
      bad_input("`sin`: expected ", cos.size(1), " columns, as `cos`, got ", sin.size(1));
    if (2 * cos.size(1) > width / heads)
      bad_input("`cos`: expected at most ", width / heads / 2, " columns, got ", cos.size(1));
    const std::pair<const Tensor*, const char*> others[] = {
        {&y, "y"}, {&weight, "weight"}, {&bias, "bias"}, {&norm, "norm"}, {&cos, "cos"}, {&sin, "sin"}};
    for (const auto& [t, name] : others) check_like(*t, x, name);
  }

  template <class T>
  Tokens<T> as(Packed<T>& packed) const {
    return {width, parts, heads, cos.size(1), next, T(eps), x.const_data_ptr<T>(),
            y.const_data_ptr<T>(), bias.const_data_ptr<T>(), norm.const_data_ptr<T>(),
            cos.const_data_ptr<T>(), sin.const_data_ptr<T>(),
            {packed.weights(0), packed.weights(1)}, {packed.weights16(0), packed.weights16(1)}};
  }
};

using Four = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
Four forward(const Given& in) {
  const int64_t h = in.width, rows = in.next ? in.nodes : 0;
  Tensor out[4];
  for (int i = 0; i < 4; ++i) out[i] = torch::stable::new_empty(in.x, {i ? rows : in.nodes, h});
  Packed<T> packed(in.count, h, in.bf16, false);
  const T* weight = in.weight.const_data_ptr<T>();
  MESHSIM_DISPATCH(
      pack_all<T>(weight, in.count, h, packed.weights(0), nullptr, packed.weights16(0), nullptr));
  const Tokens<T> tokens = in.as<T>(packed);
  T* to[4];
  for (int i = 0; i < 4; ++i) to[i] = out[i].mutable_data_ptr<T>();
  each((in.nodes + 191) / 192, [&](int64_t i) {
    T* scratch = thread_scratch<T>(9 * tile_rows * (h + 16));
    const int64_t last = std::min(in.nodes, 192 * (i + 1));
    MESHSIM_DISPATCH(
        tokens_forward<T>(tokens, 192 * i, last, scratch, to[0], to[1], to[2], to[3]));
  });
  return {out[0], out[1], out[2], out[3]};
}

template <class T>
Five backward(const Given& in, const Tensor& after_, const Tensor (&grads)[4]) {
  static const char* const names[] = {"grad_x", "grad_q", "grad_k", "grad_v"};
  const int64_t h = in.width;
  Tensor given[4];
  const T* from[4];
  for (int i = 0; i < 4; ++i) {
    given[i] = dense(grads[i]);
    check_shape(given[i], i && !in.next ? 0 : in.nodes, h, names[i]);
    check_like(given[i], in.x, names[i]);
    from[i] = given[i].template const_data_ptr<T>();
  }
  const Tensor after = dense(after_);
  check_shape(after, in.nodes, h, "after");
  check_like(after, in.x, "after");
  Tensor d_x = torch::stable::new_empty(in.x, {in.nodes, h});
  Tensor d_y = torch::stable::new_empty(in.x, {in.nodes, h});
  Tensor d_weight = torch::stable::new_empty(in.x, {in.count, h, h});
  Tensor d_bias = torch::stable::new_empty(in.x, {in.bias.size(0), h});
  Tensor d_norm = torch::stable::new_empty(in.x, {in.norm.size(0), h});
  const int64_t block = in.count * h * h, biases = in.bias.size(0) * h;
  const int64_t size = block + biases + in.norm.size(0) * h;
  Packed<T> packed(in.count, h, in.bf16, true);
  const T* weight = in.weight.const_data_ptr<T>();
  MESHSIM_DISPATCH(pack_all<T>(weight, in.count, h, packed.weights(0), packed.weights(1),
                               packed.weights16(0), packed.weights16(1)));
  const Tokens<T> tokens = in.as<T>(packed);
  const int64_t n = (in.nodes + range - 1) / range;
  Buffer<T> partial(std::max<int64_t>(n, 1) * size);
  const T* result = after.const_data_ptr<T>();
  T *to_x = d_x.mutable_data_ptr<T>(), *to_y = d_y.mutable_data_ptr<T>();
  each(n, [&](int64_t i) {
    T* scratch = thread_scratch<T>(12 * tile_rows * (h + 16));
    const int64_t last = std::min(in.nodes, range * (i + 1));
    MESHSIM_DISPATCH(tokens_backward<T>(tokens, result, from[0], from[1], from[2], from[3],
                                        range * i, last, scratch, to_x, to_y,
                                        partial.data + i * size));
  });
  add_lists(partial.data, n, size);
  std::copy_n(partial.data, block, d_weight.mutable_data_ptr<T>());
  std::copy_n(partial.data + block, biases, d_bias.mutable_data_ptr<T>());
  std::copy_n(partial.data + block + biases, size - block - biases, d_norm.mutable_data_ptr<T>());
  return {d_x, d_y, d_weight, d_bias, d_norm};
}

Four token_block(Tensor x, Tensor y, Tensor weight, Tensor bias, Tensor norm, Tensor cos,
                 Tensor sin, int64_t heads, bool next, double eps, bool bf16) {
  const Given in(x, y, weight, bias, norm, cos, sin, heads, next, eps, bf16);
  if (x.scalar_type() == ScalarType::Float) return forward<float>(in);
  if (x.scalar_type() == ScalarType::Double) return forward<double>(in);
  bad_dtype(x, "x");
}

Five token_block_backward(Tensor grad_x, Tensor grad_q, Tensor grad_k, Tensor grad_v,
                          Tensor after, Tensor x, Tensor y, Tensor weight, Tensor bias,
                          Tensor norm, Tensor cos, Tensor sin, int64_t heads, bool next,
                          double eps, bool bf16) {
  const Given in(x, y, weight, bias, norm, cos, sin, heads, next, eps, bf16);
  const Tensor grads[] = {grad_x, grad_q, grad_k, grad_v};
  if (x.scalar_type() == ScalarType::Float) return backward<float>(in, after, grads);
  if (x.scalar_type() == ScalarType::Double) return backward<double>(in, after, grads);
  bad_dtype(x, "x");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("token_block", TORCH_BOX(&token_block));
  m.impl("token_block_backward", TORCH_BOX(&token_block_backward));
}

}  // namespace meshsim
