// What follows an MLP's first product, on a tile of rows in cache, forward and backward: for
// kernel files, after matmul.h. Rows of a tile lie `ld` apart, more than the width, so that they
// do not share the same few cache sets.

enum class Activation { relu, silu };

#if !defined(MESHSIM_AMX)
struct Tiles {  // no tile registers to set up
  explicit Tiles(bool) {}
};
#endif

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
  uint16_t* room;                 // for AMX: the left factor, and two more tiles backward
  int64_t ld() const { return width + 16; }
};

// Rows are asked for this many before they are read or written: the processor foresees those that
// lie in order by itself, but only to the end of a page.
static constexpr int64_t ahead = 24;

template <class T>
static inline void fetch_row(const T* row, int64_t width) {
  for (int64_t j = 0; j < width; j += 64 / static_cast<int64_t>(sizeof(T)))
    __builtin_prefetch(row + j);
}

// Copies rows; in vectors, as a call of memcpy costs more than a row.
template <class T>
static void copy_rows(const T* from, int64_t from_ld, T* to, int64_t to_ld, int64_t rows,
                      int64_t width) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t r = 0; r < rows; ++r) {
    if (r + ahead < rows) {
      fetch_row(from + (r + ahead) * from_ld, width);
      fetch_row(to + (r + ahead) * to_ld, width);
    }
    int64_t j = 0;
    for (; j + lanes <= width; j += lanes) store(to + r * to_ld + j, load(from + r * from_ld + j));
    for (; j < width; ++j) to[r * to_ld + j] = from[r * from_ld + j];
  }
}

// Numbers that a weight packed for AMX has.
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

// Makes a tile the left factor of the next product.
template <class T>
static void take_left(const Mlp<T>& net, const T* a, int64_t rows) {
#if defined(MESHSIM_AMX)
  if constexpr (sizeof(T) == 4)
    if (net.weights16[0]) to_left(a, net.ld(), rows, net.width, net.room);
#endif
}

// c = or += (`Add`) a · weightᵀ (`back` = 0) or a · weight (1), on a tile taken as left factor.
template <bool Add, class T>
static void multiply_taken(const Mlp<T>& net, int back, int64_t which, const T* a, T* c,
                           int64_t rows) {
  const int64_t h = net.width, ld = net.ld();
#if defined(MESHSIM_AMX)
  if constexpr (sizeof(T) == 4) {
    if (net.weights16[back]) {
      const uint16_t* weight = net.weights16[back] + which * weight16(h);
      tile_product16<Add>(net.room, weight, deep(h), c, ld, rows, h);
      return;
    }
  }
#endif
  tile_product<T, Add>(a, ld, net.weights[back] + which * h * h, c, ld, rows, h, h);
}

template <bool Add, class T>
static void multiply(const Mlp<T>& net, int back, int64_t which, const T* a, T* c, int64_t rows) {
  take_left(net, a, rows);
  multiply_taken<Add>(net, back, which, a, c, rows);
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
      tile_product16<true>(turned, right, deep(rows), weight, h, h, h);
      return;
    }
  }
#endif
  add_outer(g, ld, a, ld, weight, rows, h, h);
}

template <class T>
static inline Vec<T> sigmoid(Vec<T> x) {
  const Vec<T> low = splat<T>(-80);  // beyond, x · sigmoid(x) is 0 to rounding
  return inverse(T(1) + exp_of(-(x < low ? low : x)));
}

// after = activation(before + bias), which becomes the left factor of the next product. With
// `keep`, what `activate_backward` needs takes before's place; without it and with AMX nothing but
// the left factor is written.
template <class T>
static void activate(const Mlp<T>& net, const T* bias, T* before, T* after, int64_t rows,
                     bool keep) {
  const int64_t h = net.width, ld = net.ld();
  const bool relu = net.activation == Activation::relu;
  const Vec<T> zero = {};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> x = load(before + r * ld + j) + load(bias + j);
      const Vec<T> s = relu ? zero : sigmoid<T>(x), y = relu ? (x < zero ? zero : x) : x * s;
      if (keep && !relu) store(before + r * ld + j, s);
#if defined(MESHSIM_AMX)
      if constexpr (sizeof(T) == 4) {
        if (net.weights16[0]) {
          put_left(y, net.room + r * deep(h), j, h);
          if (!keep) continue;
        }
      }
#endif
      store(after + r * ld + j, y);
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
      const Vec<T> y = load(after + r * ld + j), g = load(grad + r * ld + j);
      if (net.activation == Activation::relu) {
        store(grad + r * ld + j, y <= zero ? zero : g);
      } else {  // (x s)' = s + x s (1 − s)
        const Vec<T> s = load(kept + r * ld + j);
        store(grad + r * ld + j, g * (s + y * (T(1) - s)));
      }
    }
}

// The last layer's result with its bias, before LayerNorm.
template <class T>
static inline Vec<T> biased(const Mlp<T>& net, const T* row, int64_t j) {
  return load(row + j) + load(net.bias + (net.layers - 1) * net.width + j);
}

// Mean and 1 / standard deviation of a row of the last layer's result.
template <class T>
static inline void moments(const Mlp<T>& net, const T* row, T& mean, T& scale) {
  const int64_t width = net.width;
  Vec<T> sum = {}, square = {};
  for (int64_t j = 0; j < width; j += Simd<T>::lanes) sum += biased(net, row, j);
  mean = total(sum) / T(width);
  for (int64_t j = 0; j < width; j += Simd<T>::lanes) {
    const Vec<T> d = biased(net, row, j) - mean;
    square += d * d;
  }
  const T variance = total(square) / T(width) + net.eps;
  scale = T(1) / T(sizeof(T) == 8 ? __builtin_sqrt(variance) : __builtin_sqrtf(variance));
}

// From the first layer's result in before(0) to the last layer's in before(layers − 1), each
// without its bias, in `tiles`: before and after of layer l at 2 l and 2 l + 1 tiles of `size`
// numbers. If `keep` is false all of them share the first two tiles; returns where the last is.
template <class T>
static T* run_layers(const Mlp<T>& net, T* tiles, int64_t size, int64_t rows, bool keep) {
  T* before = tiles;
  for (int64_t l = 1; l < net.layers; ++l) {
    T* after = before + size;
    activate(net, net.bias + (l - 1) * net.width, before, after, rows, keep);
    before = keep ? after + size : before;
    multiply_taken<false>(net, 0, l + net.shift, after, before, rows);
  }
  return before;
}

// out = residual + LayerNorm(x + bias), row by row; `take(r, j, value)` has it. No residual if that
// is null.
template <class T, class Take>
static inline void normalise(const Mlp<T>& net, const T* x, const T* residual, int64_t rows,
                             const Take& take) {
  for (int64_t r = 0; r < rows; ++r) {
    T mean, scale;
    const T* row = x + r * net.ld();
    moments(net, row, mean, scale);
    for (int64_t j = 0; j < net.width; j += Simd<T>::lanes) {
      const Vec<T> hat = (biased(net, row, j) - mean) * scale;
      const Vec<T> y = hat * load(net.gamma + j) + load(net.beta + j);
      take(r, j, residual ? load(residual + r * net.ld() + j) + y : y);
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

// Overwrites `grad`, of LayerNorm's result, by that of its argument; `spare` is another tile.
template <class T>
static void normalise_backward(const Mlp<T>& net, const T* x, T* grad, T* spare, int64_t rows,
                               const Grads<T>& out) {
  const int64_t h = net.width;
  T *gamma = spare, *beta = spare + h;  // this tile's sums
  __builtin_memset(spare, 0, 2 * h * sizeof(T));
  for (int64_t r = 0; r < rows; ++r) {
    T mean, scale;
    const T* row = x + r * net.ld();
    T* g = grad + r * net.ld();
    moments(net, row, mean, scale);
    Vec<T> sum = {}, dot = {};
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> hat = (biased(net, row, j) - mean) * scale, gy = load(g + j);
      store(beta + j, load(beta + j) + gy);
      store(gamma + j, load(gamma + j) + gy * hat);
      const Vec<T> gh = gy * load(net.gamma + j);
      sum += gh;
      dot += gh * hat;
    }
    const T a = total(sum) / T(h), b = total(dot) / T(h);
    for (int64_t j = 0; j < h; j += Simd<T>::lanes) {
      const Vec<T> hat = (biased(net, row, j) - mean) * scale;
      store(g + j, scale * (load(g + j) * load(net.gamma + j) - a - hat * b));
    }
  }
  add_rows(gamma, h, 1, h, out.gamma);
  add_rows(beta, h, 1, h, out.beta);
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
    multiply<false>(net, 1, l + net.shift, grad, spare, rows);
    activate_backward(net, before, before + size, spare, rows);
    T* old = grad;
    grad = spare;
    spare = old;
  }
  add_rows(grad, ld, rows, h, out.bias);
  return grad;
}
