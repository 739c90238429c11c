// The node-wise half of a transformer block on a range of nodes, in tiles that stay in cache.
// Included once an instruction set. Weights in the order [of the attention's result, then gate,
// up and down of each part of the gated MLP, then the next block's queries, keys, values].
namespace meshsim {
namespace ISA_NAMESPACE {

#include "simd.h"
#include "matmul.h"
#if defined(MESHSIM_AMX)
#include "amx.h"
#endif
#include "mlp.h"

template <class T>
static Mlp<T> make_net(const Tokens<T>& in, uint16_t* room) {
  Mlp<T> net = {};
  net.width = in.width;
  net.weights[0] = in.weights[0], net.weights[1] = in.weights[1];
  net.weights16[0] = in.weights16[0], net.weights16[1] = in.weights16[1];
  net.room = room;
  return net;
}

// 1 / √(mean x² + eps) of a row.
template <class T>
static inline T mean_square(const T* x, int64_t width, T eps) {
  Vec<T> sum = {};
  for (int64_t j = 0; j < width; j += Simd<T>::lanes) sum += load(x + j) * load(x + j);
  const T mean = total(sum) / T(width) + eps;
  return T(1) / T(sizeof(T) == 8 ? __builtin_sqrt(mean) : __builtin_sqrtf(mean));
}

// out = RMSNorm(x).
template <class T>
static void scale_rows(const Tokens<T>& in, const T* weight, const T* x, T* out, int64_t rows) {
  const int64_t h = in.width, ld = h + 16;
  for (int64_t r = 0; r < rows; ++r) {
    const T s = mean_square(x + r * ld, h, in.eps);
    for (int64_t j = 0; j < h; j += Simd<T>::lanes)
      store(out + r * ld + j, load(x + r * ld + j) * s * load(weight + j));
  }
}

// into += the gradient at x of RMSNorm(x), given that of its result; the weight's is added to
// d_weight. `hats` is a spare tile.
template <class T>
static void scale_backward(const Tokens<T>& in, const T* weight, const T* x, const T* grad,
                           T* hats, T* into, T* d_weight, int64_t rows) {
  const int64_t h = in.width, ld = h + 16;
  for (int64_t r = 0; r < rows; ++r) {
    const T *row = x + r * ld, *g = grad + r * ld;
    const T s = mean_square(row, h, in.eps);
    Vec<T> dot = {};
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> gy = load(g + j), hat = load(row + j) * s;
      store(hats + r * ld + j, gy * hat);
      dot += gy * load(weight + j) * hat;
    }
    const T mean = total(dot) / T(h);
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> hat = load(row + j) * s;
      T* to = into + r * ld + j;
      store(to, load(to) + s * (load(g + j) * load(weight + j) - hat * mean));
    }
  }
  add_rows(hats, ld, rows, h, d_weight);
}

// Eigen's rational approximation of erf: within 4e-7.
static inline Vec<float> erf_of(Vec<float> x) {
  const Vec<float> top = splat<float>(4), bottom = splat<float>(-4);
  x = x > top ? top : x;
  x = x < bottom ? bottom : x;
  const Vec<float> y = x * x;
  Vec<float> p = splat<float>(-2.72614225801306e-10f);
  p = p * y + 2.77068142495902e-08f;
  p = p * y - 2.10102402082508e-06f;
  p = p * y - 5.69250639462346e-05f;
  p = p * y - 7.34990630326855e-04f;
  p = p * y - 2.95459980854025e-03f;
  p = p * y - 1.60960333262415e-02f;
  Vec<float> q = splat<float>(-1.45660718464996e-05f);
  q = q * y - 2.13374055278905e-04f;
  q = q * y - 1.68282697438203e-03f;
  q = q * y - 7.37332916720468e-03f;
  q = q * y - 1.42647390514189e-02f;
  return x * p / q;
}

static inline Vec<double> erf_of(Vec<double> x) {
  Vec<double> out;
  for (int i = 0; i < Simd<double>::lanes; ++i) out[i] = __builtin_erf(x[i]);
  return out;
}

// Φ(x), by which GELU multiplies x.
template <class T>
static inline Vec<T> share(Vec<T> x) {
  return T(0.5) + T(0.5) * erf_of(x * T(0.70710678118654752));
}

// Turns pair t of each head, (t, t + R), by the node's angle; the other way round if `back`.
template <class T>
static void turn_rows(const Tokens<T>& in, int64_t first, T* tile, int64_t rows, bool back) {
  const int64_t depth = in.width / in.heads, n = in.turns, ld = in.width + 16;
  for (int64_t r = 0; r < rows; ++r) {
    const T *c = in.cos + (first + r) * n, *s = in.sin + (first + r) * n;
    for (int64_t k = 0; k < in.heads; ++k) {
      T *a = tile + r * ld + k * depth, *b = a + n;
      for (int64_t t = 0; t < n; ++t) {
        const T x = a[t], y = b[t], sine = back ? -s[t] : s[t];
        a[t] = x * c[t] - y * sine;
        b[t] = x * sine + y * c[t];
      }
    }
  }
}

// What every tile begins with: x + W_o y + b_o, and its RMSNorm.
template <class T>
static void attended(const Tokens<T>& in, const Mlp<T>& net, int64_t k, int64_t rows, T* x, T* y,
                     T* m) {
  const int64_t h = in.width, ld = net.ld();
  copy_rows(in.x + k * h, h, x, ld, rows, h);
  copy_rows(in.y + k * h, h, y, ld, rows, h);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; j += Simd<T>::lanes)
      store(x + r * ld + j, load(x + r * ld + j) + load(in.bias + j));
  multiply<true>(net, 0, 0, y, x, rows);
  scale_rows(in, in.norm, x, m, rows);
}

// Gate and up of part c of the gated MLP, without their biases.
template <class T>
static void open_part(const Mlp<T>& net, int64_t c, const T* m, T* gate, T* up, int64_t rows) {
  take_left(net, m, rows);
  multiply_taken<false>(net, 0, 1 + 3 * c, m, gate, rows);
  multiply_taken<false>(net, 0, 2 + 3 * c, m, up, rows);
}

template <class T>
void tokens_forward(const Tokens<T>& in, int64_t first, int64_t last, T* scratch, T* new_x, T* q,
                    T* k_, T* v) {
  const int64_t h = in.width, ld = h + 16, size = tile_rows * ld;
  T *x = scratch, *y = x + size, *m = y + size, *gate = m + size, *up = gate + size;
  const Mlp<T> net = make_net(in, reinterpret_cast<uint16_t*>(up + size));
  T* const to[3] = {q, k_, v};
  const Tiles registers(net.weights16[0]);
  for (int64_t k = first; k < last; k += tile_rows) {
    const int64_t rows = last - k < tile_rows ? last - k : tile_rows;
    attended(in, net, k, rows, x, y, m);
    T* out = y;  // no longer needed
    for (int64_t c = 0; c < in.parts; ++c) {
      open_part(net, c, m, gate, up, rows);
      const T *b = in.bias + (1 + 2 * c) * h, *d = b + h;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
          const Vec<T> g = load(gate + r * ld + j) + load(b + j);
          store(gate + r * ld + j, g * share<T>(g) * (load(up + r * ld + j) + load(d + j)));
        }
      if (c == 0) multiply<false>(net, 0, 3 + 3 * c, gate, out, rows);
      else multiply<true>(net, 0, 3 + 3 * c, gate, out, rows);
    }
    const T* b = in.bias + (1 + 2 * in.parts) * h;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < h; j += Simd<T>::lanes)
        store(x + r * ld + j, load(x + r * ld + j) + (load(out + r * ld + j) + load(b + j)));
    copy_rows(x, ld, new_x + k * h, h, rows, h);
    if (!in.next) continue;
    scale_rows(in, in.norm + h, x, m, rows);
    take_left(net, m, rows);
    for (int i = 0; i < 3; ++i) {
      multiply_taken<false>(net, 0, 1 + 3 * in.parts + i, m, gate, rows);
      if (i < 2 && in.turns) turn_rows(in, k, gate, rows, false);
      copy_rows(gate, ld, to[i] + k * h, h, rows, h);
    }
  }
}

// Overwrites gate, up and `grad` (of their product) by gradients of gate and up and by the product.
template <class T>
static void gate_backward(const T* bias, T* gate, T* up, T* grad, int64_t ld, int64_t rows,
                          int64_t h) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const int64_t at = r * ld + j;
      const Vec<T> g = load(gate + at) + load(bias + j), d = load(grad + at);
      const Vec<T> u = load(up + at) + load(bias + h + j);
      const Vec<T> phi = share<T>(g), a = g * phi;
      const Vec<T> slope = phi + g * T(0.39894228040143268) * exp_of(g * g * T(-0.5));
      store(gate + at, d * u * slope);
      store(up + at, d * a);
      store(grad + at, a * u);
    }
}

template <class T>
void tokens_backward(const Tokens<T>& in, const T* after, const T* grad_x, const T* grad_q,
                     const T* grad_k, const T* grad_v, int64_t first, int64_t last, T* scratch,
                     T* d_x, T* d_y, T* partial) {
  const int64_t h = in.width, ld = h + 16, size = tile_rows * ld, hh = h * h;
  T *x = scratch, *y = x + size, *m = y + size, *gate = m + size, *up = gate + size;
  T *grad = up + size, *dm = grad + size, *dh = dm + size;
  const Mlp<T> net = make_net(in, reinterpret_cast<uint16_t*>(dh + size));
  const int64_t weights = 1 + 3 * in.parts + (in.next ? 3 : 0), biases = 2 + 2 * in.parts;
  T *d_bias = partial + weights * hh, *d_norm = d_bias + biases * h;
  __builtin_memset(partial, 0, (weights * hh + (biases + 1 + in.next) * h) * sizeof(T));
  const T* const from[3] = {grad_q, grad_k, grad_v};
  const Tiles registers(net.weights16[0]);
  for (int64_t k = first; k < last; k += tile_rows) {
    const int64_t rows = last - k < tile_rows ? last - k : tile_rows;
    copy_rows(grad_x + k * h, h, grad, ld, rows, h);
    if (in.next) {
      copy_rows(after + k * h, h, x, ld, rows, h);
      scale_rows(in, in.norm + h, x, m, rows);
      for (int i = 0; i < 3; ++i) {
        copy_rows(from[i] + k * h, h, gate, ld, rows, h);
        if (i < 2 && in.turns) turn_rows(in, k, gate, rows, true);
        multiply_outer(net, gate, m, partial + (1 + 3 * in.parts + i) * hh, rows);
        if (i == 0) multiply<false>(net, 1, 1 + 3 * in.parts, gate, dm, rows);
        else multiply<true>(net, 1, 1 + 3 * in.parts + i, gate, dm, rows);
      }
      scale_backward(in, in.norm + h, x, dm, dh, grad, d_norm + h, rows);
    }
    attended(in, net, k, rows, x, y, m);
    add_rows(grad, ld, rows, h, d_bias + (1 + 2 * in.parts) * h);
    for (int64_t c = 0; c < in.parts; ++c) {
      open_part(net, c, m, gate, up, rows);
      multiply<false>(net, 1, 3 + 3 * c, grad, dh, rows);
      gate_backward(in.bias + (1 + 2 * c) * h, gate, up, dh, ld, rows, h);
      multiply_outer(net, grad, dh, partial + (3 + 3 * c) * hh, rows);
      add_rows(gate, ld, rows, h, d_bias + (1 + 2 * c) * h);
      add_rows(up, ld, rows, h, d_bias + (2 + 2 * c) * h);
      multiply_outer(net, gate, m, partial + (1 + 3 * c) * hh, rows);
      multiply_outer(net, up, m, partial + (2 + 3 * c) * hh, rows);
      if (c == 0) multiply<false>(net, 1, 1, gate, dm, rows);
      else multiply<true>(net, 1, 1 + 3 * c, gate, dm, rows);
      multiply<true>(net, 1, 2 + 3 * c, up, dm, rows);
    }
    scale_backward(in, in.norm, x, dm, dh, grad, d_norm, rows);
    add_rows(grad, ld, rows, h, d_bias);
    multiply_outer(net, grad, y, partial, rows);
    copy_rows(grad, ld, d_x + k * h, h, rows, h);
    multiply<false>(net, 1, 0, grad, dh, rows);
    copy_rows(dh, ld, d_y + k * h, h, rows, h);
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
