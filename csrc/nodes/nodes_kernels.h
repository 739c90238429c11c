// The node block on a range of nodes, in tiles that stay in cache. Included once an instruction
// set. Weights in the order [of x, of the sum, later layers…, next senders, next receivers].
namespace meshsim {
namespace ISA_NAMESPACE {

#include "simd.h"
#include "matmul.h"
#if defined(MESHSIM_AMX)
#include "amx.h"
#endif
#include "mlp.h"

template <class T>
static Mlp<T> make_net(const Nodes<T>& in, uint16_t* room) {
  const Activation activation = in.silu ? Activation::silu : Activation::relu;
  return {in.width, in.layers, 1,       activation, in.eps,
          in.bias,  in.gamma,  in.beta, {in.weights[0], in.weights[1]},
          {in.weights16[0], in.weights16[1]}, room};
}

// Values and sums of `rows` nodes into x and agg, and what the first layer gives, without its bias, into h.
template <class T>
static inline void first_layer(const Nodes<T>& in, const Mlp<T>& net, int64_t k, int64_t rows,
                               T* x, T* agg, T* h) {
  const int64_t width = net.width, ld = net.ld();
  copy_rows(in.x + k * width, width, x, ld, rows, width);
  copy_rows(in.agg + k * width, width, agg, ld, rows, width);
  multiply<false>(net, 0, 0, x, h, rows);
  multiply<true>(net, 0, 1, agg, h, rows);
}

// What the nodes send and receive in the next block: x' W, without a bias.
template <class T>
static inline void project(const Mlp<T>& net, const T* x, T* spare, int64_t rows, int64_t which,
                           T* to) {
  const int64_t width = net.width, ld = net.ld();
  multiply<false>(net, 0, net.layers + 1 + which, x, spare, rows);
  copy_rows(spare, ld, to, width, rows, width);
}

template <class T>
void nodes_forward(const Nodes<T>& in, int64_t first, int64_t last, T* scratch, T* new_x, T* ps,
                   T* pd) {
  const int64_t width = in.width, ld = width + 16, size = tile_rows * ld;
  T *x = scratch, *agg = x + size, *tiles = agg + size;
  const Mlp<T> net = make_net(in, reinterpret_cast<uint16_t*>(tiles + 2 * size));
  const Tiles tiles_in_use(net.weights16[0]);
  for (int64_t k = first; k < last; k += tile_rows) {
    const int64_t rows = last - k < tile_rows ? last - k : tile_rows;
    first_layer(in, net, k, rows, x, agg, tiles);
    const T* h = run_layers(net, tiles, size, rows, false);
    normalise(net, h, x, rows, [&](int64_t r, int64_t j, Vec<T> y) { store(agg + r * ld + j, y); });
    copy_rows(agg, ld, new_x + k * width, width, rows, width);
    if (!in.next) continue;
    project(net, agg, x, rows, 0, ps + k * width);
    project(net, agg, x, rows, 1, pd + k * width);
  }
}

// grad += g W of a projection, and its weight's gradient.
template <class T>
static inline void project_backward(const Mlp<T>& net, const T* g, const T* x, T* tile, T* grad,
                                    int64_t rows, int64_t which, T* weight) {
  const int64_t width = net.width, ld = net.ld(), at = net.layers + 1 + which;
  copy_rows(g, width, tile, ld, rows, width);
  multiply_outer(net, tile, x, weight + at * width * width, rows);
  multiply<true>(net, 1, at, tile, grad, rows);
}

template <class T>
void nodes_backward(const Nodes<T>& in, const T* grad_x, const T* grad_ps, const T* grad_pd,
                    int64_t first, int64_t last, T* scratch, T* d_x, T* d_agg, T* partial) {
  const int64_t width = in.width, ld = width + 16, size = tile_rows * ld, hh = width * width;
  const int64_t weights = in.layers + 1 + (in.next ? 2 : 0);
  T *x = scratch, *agg = x + size, *grad = agg + size, *spare = grad + size;
  T *new_x = spare + size, *tiles = new_x + size;
  const Mlp<T> net = make_net(in, reinterpret_cast<uint16_t*>(tiles + 2 * in.layers * size));
  const Tiles tiles_in_use(net.weights16[0]);
  T* extra = partial + weights * hh;
  const Grads<T> out = {partial, extra, extra + net.layers * width,
                        extra + (net.layers + 1) * width};
  __builtin_memset(partial, 0, (weights * hh + (net.layers + 2) * width) * sizeof(T));
  for (int64_t k = first; k < last; k += tile_rows) {
    const int64_t rows = last - k < tile_rows ? last - k : tile_rows;
    first_layer(in, net, k, rows, x, agg, tiles);
    const T* h = run_layers(net, tiles, size, rows, true);
    copy_rows(grad_x + k * width, width, grad, ld, rows, width);
    if (in.next) {
      normalise(net, h, x, rows,
                [&](int64_t r, int64_t j, Vec<T> y) { store(new_x + r * ld + j, y); });
      project_backward(net, grad_ps + k * width, new_x, spare, grad, rows, 0, partial);
      project_backward(net, grad_pd + k * width, new_x, spare, grad, rows, 1, partial);
    }
    copy_rows(grad, ld, new_x, ld, rows, width);  // the residual
    normalise_backward(net, h, grad, spare, rows, out);
    const T* g = run_backward(net, tiles, size, grad, spare, rows, out);
    multiply_outer(net, g, x, partial, rows);
    multiply_outer(net, g, agg, partial + hh, rows);
    multiply<true>(net, 1, 0, g, new_x, rows);
    copy_rows(new_x, ld, d_x + k * width, width, rows, width);
    multiply<false>(net, 1, 1, g, x, rows);
    copy_rows(x, ld, d_agg + k * width, width, rows, width);
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
