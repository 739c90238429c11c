// A whole MLP on a range of rows, in tiles that stay in cache. Included once an instruction set.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "simd.h"
#include "matmul.h"
#include "mlp.h"

// Packs `weight` (out, in) for the forward products, its rows filled up with zeros to `height`, and
// for the backward ones, its columns filled up to `across`. `spare` has room for both.
template <class T>
void pack_filled(const T* weight, int64_t out, int64_t in, int64_t height, int64_t across,
                 T* spare, T* forward, T* backward) {
  __builtin_memset(spare, 0, height * across * sizeof(T));
  copy_rows(weight, in, spare, across, out, in);
  pack(spare, 1, across, in, height, forward);
  if (backward) pack(spare, across, 1, out, across, backward);
}

// The layers whose results are `width` wide. Weight 0 is the second layer's.
template <class T>
static Mlp<T> make_net(const Rows<T>& in) {
  const Activation activation = in.silu ? Activation::silu : Activation::relu;
  return {in.width, in.hidden, -1,      activation, in.eps,
          in.bias,  in.gamma,  in.beta, {in.later[0], in.later[1]}, {nullptr, nullptr}, nullptr};
}

// Rows with `width` numbers into a tile, filled up with zeros to `full`.
template <class T>
static inline void take_rows(const T* from, int64_t width, T* tile, int64_t full, int64_t rows) {
  const int64_t ld = full + 16;
  copy_rows(from, width, tile, ld, rows, width);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = width; j < full; ++j) tile[r * ld + j] = 0;
}

// Where the parts of a range's tiles begin; all tiles of one kind are `size` numbers long.
template <class T>
struct Layout {
  int64_t ld, ld_in, ld_out, size;
  T *x, *y, *grad, *spare, *tiles;

  Layout(const Rows<T>& in, T* scratch)
      : ld(in.width + 16), ld_in(in.inputs_full + 16), ld_out(in.outputs_full + 16),
        size(tile_rows * ld), x(scratch), y(x + tile_rows * ld_in), grad(y + tile_rows * ld_out),
        spare(grad + size), tiles(spare + size) {}
};

template <class T>
void rows_forward(const Rows<T>& in, int64_t first, int64_t last, T* scratch, T* out) {
  const Mlp<T> net = make_net(in);
  const Layout<T> at(in, scratch);
  for (int64_t k = first; k < last; k += tile_rows) {
    const int64_t rows = last - k < tile_rows ? last - k : tile_rows;
    take_rows(in.x + k * in.inputs, in.inputs, at.x, in.inputs_full, rows);
    tile_product<T, false>(at.x, at.ld_in, in.first[0], at.tiles, at.ld, rows, in.inputs, in.width);
    T* h = run_layers(net, at.tiles, at.size, rows, false);
    T* to = out + k * in.outputs;
    if (in.gamma) {
      const T* no_residual = nullptr;
      normalise(net, h, no_residual, rows,
                [&](int64_t r, int64_t j, Vec<T> y) {
                  if (k + r + ahead < last) __builtin_prefetch(to + (r + ahead) * in.width + j);
                  store(to + r * in.width + j, y);
                });
      continue;
    }
    T* after = h + at.size;
    activate(net, net.bias + (in.hidden - 1) * in.width, h, after, rows, false);
    tile_product<T, false>(after, at.ld, in.last[0], at.y, at.ld_out, rows, in.width,
                           in.outputs_full);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < in.outputs; ++j)
        to[r * in.outputs + j] = at.y[r * at.ld_out + j] + in.last_bias[j];
  }
}

// Back through the last layer where it has no LayerNorm: from `at.y` to `at.grad`, of the result
// `h` of the layer before it.
template <class T>
static inline void last_backward(const Rows<T>& in, const Mlp<T>& net, const Layout<T>& at, T* h,
                                 int64_t rows, T* d_last, T* d_bias) {
  T* after = h + at.size;
  activate(net, net.bias + (in.hidden - 1) * in.width, h, after, rows, true);
  add_rows(at.y, at.ld_out, rows, in.outputs_full, d_bias);
  add_outer(at.y, at.ld_out, after, at.ld, d_last, rows, in.outputs_full, in.width);
  tile_product<T, false>(at.y, at.ld_out, in.last[1], at.grad, at.ld, rows, in.outputs, in.width);
  activate_backward(net, h, after, at.grad, rows);
}

// Adds to `partial`: the later weights, biases, then LayerNorm's parameters or the last layer's,
// then the first weight, transposed. `d_x` may be null.
template <class T>
void rows_backward(const Rows<T>& in, const T* grad, int64_t first, int64_t last, T* scratch,
                   T* d_x, T* partial) {
  const int64_t width = in.width;
  const Mlp<T> net = make_net(in);
  const Layout<T> at(in, scratch);
  T* bias = partial + (in.hidden - 1) * width * width;
  T* end = bias + in.hidden * width;
  T* d_first = end + in.end_size;
  const Grads<T> out = {partial, bias, end, end + width};
  __builtin_memset(partial, 0, in.partial_size * sizeof(T));
  for (int64_t k = first; k < last; k += tile_rows) {
    const int64_t rows = last - k < tile_rows ? last - k : tile_rows;
    take_rows(in.x + k * in.inputs, in.inputs, at.x, in.inputs_full, rows);
    tile_product<T, false>(at.x, at.ld_in, in.first[0], at.tiles, at.ld, rows, in.inputs, width);
    T* h = run_layers(net, at.tiles, at.size, rows, true);
    if (in.gamma) {
      take_rows(grad + k * width, width, at.grad, width, rows);
      normalise_backward(net, h, at.grad, at.spare, rows, out);
    } else {
      take_rows(grad + k * in.outputs, in.outputs, at.y, in.outputs_full, rows);
      last_backward(in, net, at, h, rows, end, end + in.outputs_full * width);
    }
    const T* g = run_backward(net, at.tiles, at.size, at.grad, at.spare, rows, out);
    add_outer(at.x, at.ld_in, g, at.ld, d_first, rows, in.inputs_grown, width);
    if (!d_x) continue;
    tile_product<T, false>(g, at.ld, in.first[1], at.x, at.ld_in, rows, width, in.inputs_full);
    copy_rows(at.x, at.ld_in, d_x + k * in.inputs, in.inputs, rows, in.inputs);
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
