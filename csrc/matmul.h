// Small matrix products on tiles in cache, for kernel files: needs simd.h before it.

// Vectors and rows that the registers hold at once.
static constexpr int wide = LANES == 16 ? 4 : 2;
static constexpr int tall = 6;   // rows of a product; tiles have a multiple of it
static constexpr int grown = 4;  // rows of a weight's gradient; divides every width

// c[R × V] = or += (`Add`) a[R × depth] · b[depth × V], sums in order of depth whatever R and V
// are. a(r, k) lies at a[r · lda + k], or at a[k · lda + r] if `Turned`.
template <class T, int R, int V, bool Turned, bool Add>
static inline void product(const T* a, int64_t lda, const T* b, int64_t ldb, T* c, int64_t ldc,
                           int64_t depth) {
  constexpr int lanes = Simd<T>::lanes;
  Vec<T> sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      sum[r][v] = Vec<T>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) row[v] = load(b + k * ldb + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> x = splat(Turned ? a[k * lda + r] : a[r * lda + k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] += x * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if (Add) sum[r][v] += load(c + r * ldc + v * lanes);  // last: fewer roundings of it
      store(c + r * ldc + v * lanes, sum[r][v]);
    }
}

// Copies b (depth × width, entry (k, j) at b[k · down + j · across]) into panels as wide as the
// registers, each with its rows one after the other.
template <class T>
static void pack(const T* b, int64_t down, int64_t across, int64_t depth, int64_t width, T* out) {
  for (int64_t j = 0; j < width;) {
    const int64_t left = width - j, full = wide * Simd<T>::lanes;
    const int64_t step = left < full ? left : full;
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t i = 0; i < step; ++i) *out++ = b[k * down + (j + i) * across];
    j += step;
  }
}

template <class T, int V, bool Add>
static inline void panel(const T* a, int64_t lda, const T* b, T* c, int64_t ldc, int64_t rows,
                         int64_t depth) {
  for (int64_t r = 0; r < rows; r += tall)
    product<T, tall, V, false, Add>(a + r * lda, lda, b, V * Simd<T>::lanes, c + r * ldc, ldc,
                                    depth);
}

// c (rows × width) = or += (`Add`) a (rows × depth) · packed b; rows up to the next multiple of
// `tall` are read and written too.
template <class T, bool Add>
static void tile_product(const T* a, int64_t lda, const T* packed, T* c, int64_t ldc, int64_t rows,
                        int64_t depth, int64_t width) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t j = 0; j < width;) {
    const int64_t v = (width - j) / lanes < wide ? (width - j) / lanes : wide;
    if (v == 4) panel<T, 4, Add>(a, lda, packed, c + j, ldc, rows, depth);
    if (v == 3) panel<T, 3, Add>(a, lda, packed, c + j, ldc, rows, depth);
    if (v == 2) panel<T, 2, Add>(a, lda, packed, c + j, ldc, rows, depth);
    if (v == 1) panel<T, 1, Add>(a, lda, packed, c + j, ldc, rows, depth);
    packed += v * lanes * depth;
    j += v * lanes;
  }
}

// c (height × width, rows of `width`) += gᵀ (height × rows) · a (rows × width); height a multiple
// of `grown`.
template <class T>
static void add_outer(const T* g, int64_t ldg, const T* a, int64_t lda, T* c, int64_t rows,
                      int64_t height, int64_t width) {
  constexpr int lanes = Simd<T>::lanes;
  for (int64_t j = 0; j < width;) {
    const int64_t v = (width - j) / lanes < wide ? (width - j) / lanes : wide;
    for (int64_t i = 0; i < height; i += grown) {
      T* at = c + i * width + j;
      if (v == 4) product<T, grown, 4, true, true>(g + i, ldg, a + j, lda, at, width, rows);
      if (v == 3) product<T, grown, 3, true, true>(g + i, ldg, a + j, lda, at, width, rows);
      if (v == 2) product<T, grown, 2, true, true>(g + i, ldg, a + j, lda, at, width, rows);
      if (v == 1) product<T, grown, 1, true, true>(g + i, ldg, a + j, lda, at, width, rows);
    }
    j += v * lanes;
  }
}
