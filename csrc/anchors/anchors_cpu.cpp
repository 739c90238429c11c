// Queries through the blocks of an anchored transformer, see meshsim/ops/anchors.py.
#include "mlp_cpu.h"

#include <cmath>
#include <initializer_list>

namespace meshsim {

template <class T>
constexpr int64_t span = 256 / sizeof(T);  // keys taken at a time

template <class T>
struct Anchors {
  int64_t width, heads, depth, turns, parts, blocks;  // turns: pairs turned in a head
  T eps, scale;
  const T *x, *bias, *norm, *cos, *sin;
  const int64_t* ptr;  // (blocks + 1,)
  const T* packed;     // what each block reads, in the order in which it does
  const T* squares;    // (blocks, heads), the largest |k|²

  // Numbers that a block's keys and values take at most, in panels of any instruction set.
  int64_t room(int64_t l) const {
    const int64_t count = (ptr[l + 1] - ptr[l] + 63) / 64 * 64;
    return count * heads * (depth + (depth + 15) / 16 * 16);
  }
};

}  // namespace meshsim

#define MESHSIM_KERNELS "anchors/anchors_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

void check_sizes(const Tensor& x, std::initializer_list<int64_t> wanted, const char* name) {
  bool fits = x.dim() == static_cast<int64_t>(wanted.size());
  for (int64_t i = 0; fits && i < x.dim(); ++i) fits = x.size(i) == wanted.begin()[i];
  if (fits) return;
  std::ostringstream text;
  for (int64_t size : wanted) text << (text.tellp() ? ", " : "") << size;
  bad_input("`", name, "`: expected shape (", text.str(), "), got ", shape_of(x));
}

struct Given {
  Tensor x, k, v, ptr, weight, bias, norm, cos, sin;
  int64_t rows, width, blocks, parts, heads;
  double eps;

  Given(const Tensor& x_, const Tensor& k_, const Tensor& v_, const Tensor& ptr_,
        const Tensor& weight_, const Tensor& bias_, const Tensor& norm_, const Tensor& cos_,
        const Tensor& sin_, int64_t heads_, double eps_)
      : x(dense(x_)), k(dense(k_)), v(dense(v_)), ptr(dense(ptr_)), weight(dense(weight_)),
        bias(dense(bias_)), norm(dense(norm_)), cos(dense(cos_)), sin(dense(sin_)), heads(heads_),
        eps(eps_) {
    width = check_width(x, "x");
    rows = x.size(0);
    if (heads < 1 || width % heads)
      bad_input("`heads`: expected a divisor of the width ", width, ", got ", heads);
    check_shape(k, -1, width, "k");
    check_shape(v, k.size(0), width, "v");
    if (weight.dim() != 4 || weight.size(0) == 0 || weight.size(1) < 5 || weight.size(1) % 3 != 2 ||
        weight.size(2) != width || weight.size(3) != width)
      bad_input("`weight`: expected shape (L, 2 + 3 C, ", width, ", ", width, "), got ",
                shape_of(weight));
    blocks = weight.size(0);
    parts = weight.size(1) / 3;
    check_rowptr(ptr, k.size(0), "ptr");
    check_shape(ptr, blocks + 1, 0, "ptr");
    check_sizes(bias, {blocks, 3 + 2 * parts, width}, "bias");
    check_sizes(norm, {blocks, 2, width}, "norm");
    check_shape(cos, rows, -1, "cos");
    check_shape(sin, rows, -1, "sin");
    if (sin.size(1) != cos.size(1))
      bad_input("`sin`: expected ", cos.size(1), " columns, as `cos`, got ", sin.size(1));
    if (2 * cos.size(1) > width / heads)
      bad_input("`cos`: expected at most ", width / heads / 2, " columns, got ", cos.size(1));
    const std::pair<const Tensor*, const char*> others[] = {
        {&k, "k"},       {&v, "v"},     {&weight, "weight"}, {&bias, "bias"},
        {&norm, "norm"}, {&cos, "cos"}, {&sin, "sin"}};
    for (const auto& [t, name] : others) check_like(*t, x, name);
  }
};

template <class T>
Tensor forward(const Given& in) {
  const int64_t h = in.width, depth = h / in.heads, count = 2 + 3 * in.parts;
  Tensor out = torch::stable::new_empty(in.x, {in.rows, h});
  if (in.rows == 0) return out;
  Buffer<T> squares(in.blocks * in.heads);
  const double scale = 1.4426950408889634 / std::sqrt(static_cast<double>(depth));  // log₂ e
  Anchors<T> anchors{h, in.heads, depth, in.cos.size(1), in.parts, in.blocks, T(in.eps), T(scale),
                     in.x.const_data_ptr<T>(), in.bias.const_data_ptr<T>(),
                     in.norm.const_data_ptr<T>(), in.cos.const_data_ptr<T>(),
                     in.sin.const_data_ptr<T>(), in.ptr.const_data_ptr<int64_t>(), nullptr,
                     squares.data};
  std::vector<int64_t> starts{0};
  for (int64_t l = 0; l < in.blocks; ++l)
    starts.push_back(starts.back() + count * h * h + anchors.room(l));
  Buffer<T> packed(starts.back());
  large_pages(packed.data, starts.back() * sizeof(T));
  anchors.packed = packed.data;
  const T *weight = in.weight.const_data_ptr<T>(), *k = in.k.const_data_ptr<T>();
  const T* v = in.v.const_data_ptr<T>();
  each(in.blocks, [&](int64_t l) {
    T *to = packed.data + starts[l], *square = squares.data + l * in.heads;
    MESHSIM_DISPATCH(anchors_pack<T>(anchors, l, weight, k, v, square, to));
  });
  T* to = out.mutable_data_ptr<T>();
  each((in.rows + tile_rows - 1) / tile_rows, [&](int64_t i) {
    const int64_t a_row = 3 * (h + 16) + in.parts * h + 16 + 2 * depth + 16 + 17;
    T* scratch = thread_scratch<T>(tile_rows * a_row + 8 * span<T>);
    const int64_t first = i * tile_rows, last = std::min(in.rows, first + tile_rows);
    MESHSIM_DISPATCH(anchors_tile<T>(anchors, first, last, scratch, to));
  });
  return out;
}

Tensor anchor_blocks(Tensor x, Tensor k, Tensor v, Tensor ptr, Tensor weight, Tensor bias,
                     Tensor norm, Tensor cos, Tensor sin, int64_t heads, double eps) {
  const Given in(x, k, v, ptr, weight, bias, norm, cos, sin, heads, eps);
  if (x.scalar_type() == ScalarType::Float) return forward<float>(in);
  if (x.scalar_type() == ScalarType::Double) return forward<double>(in);
  bad_dtype(x, "x");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("anchor_blocks", TORCH_BOX(&anchor_blocks));
}

}  // namespace meshsim
