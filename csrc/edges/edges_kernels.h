// The edge block on a range of receivers, in tiles that stay in cache. Included once an
// instruction set.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "simd.h"
#include "matmul.h"
#if defined(MESHSIM_AMX)
#include "amx.h"
#endif
#include "mlp.h"

template <class T, class S>
static Mlp<T> make_net(const Edges<T, S>& in, uint16_t* room) {
  const Activation activation = in.silu ? Activation::silu : Activation::relu;
  return {in.width, in.layers, 0,       activation, in.eps,
          in.bias,  in.gamma,  in.beta, {in.weights[0], in.weights[1]},
          {in.weights16[0], in.weights16[1]}, room};
}

// What edge k adds as a sender, which lies anywhere, and what a later edge has.
template <class T, class S>
static inline void fetch(const Edges<T, S>& in, int64_t k) {
  if (k + ahead < in.count) fetch_row(in.e + (k + ahead) * in.width, in.width);
  if (k < in.count) fetch_row(in.ps + in.src[k] * in.ps_stride, in.width);
}

// e into `rows` of the tile, and what the first layer gives without its bias into `h`.
template <class T, class S>
static inline void first_layer(const Edges<T, S>& in, const Mlp<T>& net, int64_t k, int64_t rows,
                               T* e, T* h) {
  const int64_t width = net.width, ld = net.ld();
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = in.ps + in.src[k + r] * in.ps_stride;
    const T* to = in.pd + in.dst[k + r] * in.pd_stride;
    const S* edge = in.e + (k + r) * width;
    fetch(in, k + r + 12);
    for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
      store(e + r * ld + j, load(edge + j));
      store(h + r * ld + j, load(from + j) + load(to + j));
    }
  }
  multiply<true>(net, 0, 0, e, h, rows);
}

template <class T, class S>
void edges_forward(const Edges<T, S>& in, int64_t first_node, int64_t last_node, T* scratch,
                   S* new_e, T* agg) {
  const int64_t width = in.width, ld = width + 16, size = tile_rows * ld;
  T *e = scratch, *tiles = scratch + size;
  const Mlp<T> net = make_net(in, reinterpret_cast<uint16_t*>(tiles + 2 * size));
  const Tiles tiles_in_use(net.weights16[0]);
  __builtin_memset(agg + first_node * width, 0, (last_node - first_node) * width * sizeof(T));
  for (int64_t k = in.rowptr[first_node], end = in.rowptr[last_node]; k < end; k += tile_rows) {
    const int64_t rows = end - k < tile_rows ? end - k : tile_rows;
    first_layer(in, net, k, rows, e, tiles);
    const T* last = run_layers(net, tiles, size, rows, false);
    normalise(net, last, e, rows, [&](int64_t r, int64_t j, Vec<T> y) {
      if (k + r + ahead < in.count) __builtin_prefetch(new_e + (k + r + ahead) * width + j, 1);
      T* sum = agg + in.dst[k + r] * width + j;
      store(new_e + (k + r) * width + j, y);
      store(sum, load(sum) + y);
    });
  }
}

template <class T, class S>
void edges_backward(const Edges<T, S>& in, const S* grad_e, int64_t grad_stride, const T* grad_agg,
                    int64_t first_node, int64_t last_node, T* scratch, S* d_e, S* d_first, T* d_pd,
                    T* partial) {
  const int64_t width = in.width, ld = width + 16, size = tile_rows * ld, hh = width * width;
  T *e = scratch, *grad = e + size, *spare = grad + size, *through = spare + size;
  T* tiles = through + size;
  const Mlp<T> net = make_net(in, reinterpret_cast<uint16_t*>(tiles + 2 * in.layers * size));
  const Tiles tiles_in_use(net.weights16[0]);
  T* extra = partial + net.layers * hh;
  const Grads<T> out = {partial, extra, extra + net.layers * width,
                        extra + (net.layers + 1) * width};
  __builtin_memset(partial, 0, (net.layers * (hh + width) + 2 * width) * sizeof(T));
  __builtin_memset(d_pd + first_node * width, 0, (last_node - first_node) * width * sizeof(T));
  for (int64_t k = in.rowptr[first_node], end = in.rowptr[last_node]; k < end; k += tile_rows) {
    const int64_t rows = end - k < tile_rows ? end - k : tile_rows;
    first_layer(in, net, k, rows, e, tiles);
    const T* last = run_layers(net, tiles, size, rows, true);
    for (int64_t r = 0; r < rows; ++r) {
      if (k + r + ahead < in.count) fetch_row(grad_e + (k + r + ahead) * grad_stride, width);
      for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
        const Vec<T> g = load(grad_e + (k + r) * grad_stride + j) +
                         load(grad_agg + in.dst[k + r] * width + j);
        store(grad + r * ld + j, g);
        store(through + r * ld + j, g);  // the residual
      }
    }
    normalise_backward(net, last, grad, spare, rows, out);
    const T* g = run_backward(net, tiles, size, grad, spare, rows, out);
    multiply_outer(net, g, e, out.weight, rows);
    multiply<true>(net, 1, 0, g, through, rows);
    for (int64_t r = 0; r < rows; ++r) {
      if (k + r + ahead < in.count) {
        fetch_row(d_e + (k + r + ahead) * width, width);
        fetch_row(d_first + (k + r + ahead) * width, width);
      }
      for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
        const Vec<T> x = load(g + r * ld + j);
        T* sum = d_pd + in.dst[k + r] * width + j;
        store(sum, load(sum) + x);
        store(d_first + (k + r) * width + j, x);
        store(d_e + (k + r) * width + j, load(through + r * ld + j));
      }
    }
  }
}

// Sums of picked rows for nodes first…last − 1, in the order of the list.
template <class T, class S>
void gather_rows(const S* x, const int64_t* rows, const int64_t* rowptr, int64_t first,
                 int64_t last, int64_t width, T* out) {
  for (int64_t i = first; i < last; ++i) {
    T* sum = out + i * width;
    __builtin_memset(sum, 0, width * sizeof(T));
    for (int64_t k = rowptr[i]; k < rowptr[i + 1]; ++k) {
      const S* row = x + rows[k] * width;
      for (int64_t j = 0; j < width; j += Simd<T>::lanes)
        store(sum + j, load(sum + j) + load(row + j));
    }
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
