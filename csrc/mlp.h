// What follows an MLP's first product, on a tile of rows in cache, forward and backward: for
// kernel files, after matmul.h. Rows of a tile lie `ld` apart, more than the width, so that they
// do not share the same few cache sets.

enum class Activation { relu, silu };

static constexpr int64_t tile_rows = 96;  // a multiple of `tall`, and of AMX's 16

template <class T>
struct Mlp {
  int64_t width, layers;  // H; linear layers, the first included
  int64_t shift;          // layer l has weight l + shift; what comes before is the first layer's
  Activation activation;
  T eps;
  const T* bias;   // (layers, H)
  const T* gamma;  // (H,)
  const T* beta;   // (H,)
  const T* weights[2];            // packed for the forward and the backward products
  const uint16_t* weights16[2];   // in bfloat16 for AMX, null if not used
  uint16_t* room;                 // for AMX, see `room16`
  int64_t ld() const { return width + 16; }
};

// Numbers of 16 bits that bfloat16 products of a tile need, and that a packed weight has.
static inline int64_t weight16(int64_t width) { return (width + 31) / 32 * 32 * width; }

// Packs `count` weights (count, out, in) for the forward and, if asked for, the backward products.
template <class T>
static void pack_all(const T* weight, int64_t count, int64_t h, T* forward, T* backward,
                     uint16_t* forward16, uint16_t* backward16) {
  for (int64_t l = 0; l < count; ++l) {
    const T* w = weight + l * h * h;
#if defined(MESHSIM_AMX)
    if constexpr (sizeof(T) == 4) {
      if (forward16) {
        pack16(w, 1, h, h, h, forward16 + l * weight16(h));
        if (backward16) pack16(w, h, 1, h, h, backward16 + l * weight16(h));
        continue;
      }
    }
#endif
    pack(w, 1, h, h, h, forward + l * h * h);
    if (backward) pack(w, h, 1, h, h, backward + l * h * h);
  }
}

// c += a · weightᵀ (`back` = 0) or a · weight (1), on a tile.
template <class T>
static void multiply(const Mlp<T>& net, int back, int64_t which, const T* a, T* c, int64_t rows) {
  const int64_t h = net.width, ld = net.ld();
#if defined(MESHSIM_AMX)
  if constexpr (sizeof(T) == 4) {
    if (net.weights16[back]) {
      to_left(a, ld, rows, h, net.room);
      const uint16_t* weight = net.weights16[back] + which * weight16(h);
      add_product16(net.room, weight, deep(h), c, ld, rows, h);
      return;
    }
  }
#endif
  add_product(a, ld, net.weights[back] + which * h * h, c, ld, rows, h, h);
}

// weight (H, H) += gᵀ · a.
template <class T>
static void multiply_outer(const Mlp<T>& net, const T* g, const T* a, T* weight, int64_t rows) {
  const int64_t h = net.width, ld = net.ld();
#if defined(MESHSIM_AMX)
  if constexpr (sizeof(T) == 4) {
    if (net.weights16[0]) {
      uint16_t *right = net.room, *turned = right + tile_rows * h, *other = turned + tile_rows * h;
      to_right(g, ld, rows, h, other);
      turn(other, rows, h, turned);
      to_right(a, ld, rows, h, right);
      add_product16(turned, right, deep(rows), weight, h, h, h);
      return;
    }
  }
#endif
  add_outer(g, a, ld, weight, rows, h, h);
}

template <class T>
static inline Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> low = splat<T>(-80);  // beyond, x · sigmoid(x) is 0 to rounding
  return inverse(T(1) + exp_of(-(x < low ? low : x)));
}

// after = activation(before). With `keep`, what `activate_backward` needs takes before's place.
template <class T>
static void activate(const Mlp<T>& net, T* before, T* after, int64_t rows, bool keep) {
  const int64_t h = net.width, ld = net.ld();
  const Vec<T> zero = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> x = load(before + r * ld + j);
      if (net.activation == Activation::relu) {
        store(after + r * ld + j, x < zero ? zero : x);
      } else {
        const Vec<T> s = sigmoid<T>(x);
        store(after + r * ld + j, x * s);
        if (keep) store(before + r * ld + j, s);
      }
    }
}

// grad = grad · activation'; `kept` and `after` are what `activate` left.
template <class T>
static void activate_backward(const Mlp<T>& net, const T* kept, const T* after, T* grad,
                              int64_t rows) {
  const int64_t h = net.width, ld = net.ld();
  const Vec<T> zero = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> s = load(kept + r * ld + j), g = load(grad + r * ld + j);
      if (net.activation == Activation::relu) {
        store(grad + r * ld + j, s <= zero ? zero : g);
      } else {  // (x s)' = s + x s (1 − s)
        store(grad + r * ld + j, g * (s + load(after + r * ld + j) * (T(1) - s)));
      }
    }
}

template <class T>
static void fill_rows(const T* row, T* tile, int64_t ld, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < width; j += Simd<T>::lanes) store(tile + r * ld + j, load(row + j));
}

// Mean and 1 / standard deviation of a row.
template <class T>
static inline void moments(const T* x, int64_t width, T eps, T& mean, T& scale) {
  Vec<T> sum = {}, square = {};
  for (int64_t j = 0; j < width; j += Simd<T>::lanes) sum += load(x + j);
  mean = total(sum) / T(width);
  for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
    const Vec<T> d = load(x + j) - mean;
    square += d * d;
  }
  const T variance = total(square) / T(width);
  scale = T(1) / T(sizeof(T) == 8 ? __builtin_sqrt(variance + eps)
                                  : __builtin_sqrtf(variance + eps));
}

// From the first layer's result in before(0) to the last layer's in before(layers − 1), in
// `tiles`: before and after of layer l at 2 l and 2 l + 1 tiles of `size` numbers. If `keep` is
// false all of them share the first two tiles; returns where the last result is.
template <class T>
static T* run_layers(const Mlp<T>& net, T* tiles, int64_t size, int64_t rows, bool keep) {
  const int64_t h = net.width, ld = net.ld();
  T* before = tiles;
  for (int64_t l = 1; l < net.layers; ++l) {
    T* after = before + size;
    activate(net, before, after, rows, keep);
    before = keep ? after + size : before;
    fill_rows(net.bias + l * h, before, ld, rows, h);
    multiply(net, 0, l + net.shift, after, before, rows);
  }
  return before;
}

// out = residual + LayerNorm(x), row by row; `each(r, j, value)` takes it.
template <class T, class Take>
static inline void normalise(const Mlp<T>& net, const T* x, const T* residual, int64_t rows,
                             const Take& take) {
  for (int64_t r = 0; r < rows; ++r) {
    T mean, scale;
    const T* row = x + r * net.ld();
    moments(row, net.width, net.eps, mean, scale);
    for (int64_t j = 0; j < net.width; j += Simd<T>::lanes) {
      const Vec<T> y = (load(row + j) - mean) * scale * load(net.gamma + j) + load(net.beta + j);
      take(r, j, load(residual + r * net.ld() + j) + y);
    }
  }
}

// sum += the rows of a tile. Sums over all edges are sums of tiles' sums throughout: fewer roundings.
template <class T>
static void add_rows(const T* tile, int64_t ld, int64_t rows, int64_t width, T* sum) {
  for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
    Vec<T> column = {};
    for (int64_t r = 0; r < rows; ++r) column += load(tile + r * ld + j);
    store(sum + j, load(sum + j) + column);
  }
}

// Gradients of an MLP's parameters, added up.
template <class T>
struct Grads {
  T* weight;  // (layers + shift, H, H)
  T* bias;    // (layers, H)
  T* gamma;   // (H,)
  T* beta;    // (H,)
};

// Overwrites `grad`, of LayerNorm's result, by that of its argument x; `hats` is a spare tile.
template <class T>
static void normalise_backward(const Mlp<T>& net, const T* x, T* grad, T* hats, int64_t rows,
                               const Grads<T>& out) {
  const int64_t h = net.width;
  add_rows(grad, net.ld(), rows, h, out.beta);
  for (int64_t r = 0; r < rows; ++r) {
    T mean, scale;
    const T* row = x + r * net.ld();
    T* g = grad + r * net.ld();
    moments(row, h, net.eps, mean, scale);
    Vec<T> sum = {}, dot = {};
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> hat = (load(row + j) - mean) * scale, gy = load(g + j);
      store(hats + r * net.ld() + j, gy * hat);
      const Vec<T> gh = gy * load(net.gamma + j);
      sum += gh;
      dot += gh * hat;
    }
    const T a = total(sum) / T(h), b = total(dot) / T(h);
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> hat = (load(row + j) - mean) * scale;
      store(g + j, scale * (load(g + j) * load(net.gamma + j) - a - hat * b));
    }
  }
  add_rows(hats, net.ld(), rows, h, out.gamma);
}

// From `grad` of the last layer's result to that of the first layer's, which it returns, adding
// up the gradients of everything but the first layer's weight. `spare` is another tile.
template <class T>
static T* run_backward(const Mlp<T>& net, const T* tiles, int64_t size, T* grad, T* spare,
                       int64_t rows, const Grads<T>& out) {
  const int64_t h = net.width, ld = net.ld();
  for (int64_t l = net.layers - 1; l > 0; --l) {
    const T* before = tiles + (2 * l - 2) * size;
    add_rows(grad, ld, rows, h, out.bias + l * h);
    multiply_outer(net, grad, before + size, out.weight + (l + net.shift) * h * h, rows);
    for (int64_t i = 0; i < rows; ++i) __builtin_memset(spare + i * ld, 0, h * sizeof(T));
    multiply(net, 1, l + net.shift, grad, spare, rows);
    activate_backward(net, before, before + size, spare, rows);
    T* old = grad;
    grad = spare;
    spare = old;
  }
  add_rows(grad, ld, rows, h, out.bias);
  return grad;
}
