// Products of bfloat16 tiles with float32 sums on AMX, for kernel files, after matmul.h.
//
// A left factor lies row by row, `deep(depth)` numbers apart and zero beyond `depth`. A right factor
// lies in panels of 16 columns, each a list of pairs of rows: 16 columns of (even row, odd row).

static inline int64_t deep(int64_t depth) { return (depth + 31) / 32 * 32; }

struct alignas(64) TileSetting {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Tile registers are this thread's as long as one of these lives.
struct Tiles {
  const bool used;
  explicit Tiles(bool used_) : used(used_) {
    static const TileSetting setting;
    if (used) _tile_loadconfig(&setting);
  }
  ~Tiles() {
    if (used) _tile_release();
  }
};

static inline uint16_t round16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if (x != x) return 0x7fc0;
  return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// A weight b (depth × width, entry (k, j) at b[k · down + j · across]) as a right factor.
static void pack16(const float* b, int64_t down, int64_t across, int64_t depth, int64_t width,
                   uint16_t* out) {
  for (int64_t j = 0; j < width; j += 16)
    for (int64_t k = 0; k < deep(depth); k += 2)
      for (int64_t i = j; i < j + 16; ++i) {
        *out++ = k < depth ? round16(b[k * down + i * across]) : 0;
        *out++ = k + 1 < depth ? round16(b[(k + 1) * down + i * across]) : 0;
      }
}

// 16 numbers of a left factor's row at column j, and the zeros after its last ones.
static inline void put_left(Vec<float> x, uint16_t* row, int64_t j, int64_t width) {
  _mm256_store_si256((__m256i*)(row + j), (__m256i)_mm512_cvtneps_pbh((__m512)x));
  if (j + 16 == width && width % 32) _mm256_store_si256((__m256i*)(row + width), __m256i{});
}

// A tile of float32 rows as a left factor.
static void to_left(const float* tile, int64_t ld, int64_t rows, int64_t width, uint16_t* out) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < width; j += 16)
      put_left(load(tile + r * ld + j), out + r * deep(width), j, width);
}

// Rows 2 i and 2 i + 1 of 16 columns as 16 pairs.
static inline __m512i pair_up(const float* even, const float* odd) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(odd), _mm512_loadu_ps(even));
  const __m512i order = _mm512_set_epi16(
      31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
      19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, both);
}

// A tile of float32 rows as a right factor whose depth is the rows, zero beyond them.
static void to_right(const float* tile, int64_t ld, int64_t rows, int64_t width, uint16_t* out) {
  alignas(64) const float zero[16] = {};
  for (int64_t j = 0; j < width; j += 16)
    for (int64_t r = 0; r < deep(rows); r += 2, out += 32) {
      const float* even = r < rows ? tile + r * ld + j : zero;
      const float* odd = r + 1 < rows ? tile + (r + 1) * ld + j : zero;
      _mm512_store_si512(out, pair_up(even, odd));
    }
}

// 16 × 16 pairs turned: a right factor's 16 rows of pairs into a left factor's 16 rows.
static inline void turn_pairs(const uint16_t* from, uint16_t* to, int64_t step) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_load_si512(from + 32 * i);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int k = 0; k < 2; ++k) {
      a[i + 2 * k] = _mm512_unpacklo_epi64(b[i + k], b[i + 2 + k]);
      a[i + 2 * k + 1] = _mm512_unpackhi_epi64(b[i + k], b[i + 2 + k]);
    }
  for (int k = 0; k < 4; ++k) {
    b[k] = _mm512_shuffle_i32x4(a[k], a[4 + k], 0x88);
    b[4 + k] = _mm512_shuffle_i32x4(a[k], a[4 + k], 0xdd);
    b[8 + k] = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0x88);
    b[12 + k] = _mm512_shuffle_i32x4(a[8 + k], a[12 + k], 0xdd);
  }
  for (int k = 0; k < 4; ++k) {
    _mm512_storeu_si512(to + k * step, _mm512_shuffle_i32x4(b[k], b[8 + k], 0x88));
    _mm512_storeu_si512(to + (8 + k) * step, _mm512_shuffle_i32x4(b[k], b[8 + k], 0xdd));
    _mm512_storeu_si512(to + (4 + k) * step, _mm512_shuffle_i32x4(b[4 + k], b[12 + k], 0x88));
    _mm512_storeu_si512(to + (12 + k) * step, _mm512_shuffle_i32x4(b[4 + k], b[12 + k], 0xdd));
  }
}

// A right factor made of a tile (depth the rows) turned into a left factor (its columns as rows).
static void turn(const uint16_t* right, int64_t rows, int64_t width, uint16_t* out) {
  const int64_t step = deep(rows), pairs = step / 2;
  for (int64_t j = 0; j < width; j += 16)
    for (int64_t p = 0; p < pairs; p += 16)
      turn_pairs(right + (j / 16 * pairs + p) * 32, out + j * step + 2 * p, step);
}

// One block of c, 16 · R rows and 16 · V columns: c = or += (`Add`) left · right.
template <int R, int V, bool Add>
static inline void amx_block(const uint16_t* left, const uint16_t* right, int64_t depth, float* c,
                             int64_t ldc) {
  const int64_t down = depth * 2, across = depth * 16, row = ldc * 4;
  if (Add) {
    _tile_loadd(0, c, row);
    if (V > 1) _tile_loadd(1, c + 16, row);
    if (R > 1) _tile_loadd(2, c + 16 * ldc, row);
    if (R > 1 && V > 1) _tile_loadd(3, c + 16 * ldc + 16, row);
  } else {
    _tile_zero(0);
    if (V > 1) _tile_zero(1);
    if (R > 1) _tile_zero(2);
    if (R > 1 && V > 1) _tile_zero(3);
  }
  for (int64_t k = 0; k < depth; k += 32) {
    _tile_loadd(4, left + k, down);
    _tile_loadd(6, right + k * 16, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (V > 1) {
      _tile_loadd(7, right + across + k * 16, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (R > 1) {
      _tile_loadd(5, left + 16 * depth + k, down);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (R > 1 && V > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, row);
  if (V > 1) _tile_stored(1, c + 16, row);
  if (R > 1) _tile_stored(2, c + 16 * ldc, row);
  if (R > 1 && V > 1) _tile_stored(3, c + 16 * ldc + 16, row);
}

// c (rows × width) = or += (`Add`) left · right, `depth` a multiple of 32, rows up to a multiple of
// 16 used.
template <bool Add>
static void tile_product16(const uint16_t* left, const uint16_t* right, int64_t depth, float* c,
                          int64_t ldc, int64_t rows, int64_t width) {
  for (int64_t j = 0; j < width; j += 32) {
    const bool two = j + 16 < width;
    for (int64_t r = 0; r < rows; r += 32) {
      const uint16_t *a = left + r * depth, *b = right + j * depth;
      float* at = c + r * ldc + j;
      if (r + 16 < rows) {
        if (two) amx_block<2, 2, Add>(a, b, depth, at, ldc);
        else amx_block<2, 1, Add>(a, b, depth, at, ldc);
      } else {
        if (two) amx_block<1, 2, Add>(a, b, depth, at, ldc);
        else amx_block<1, 1, Add>(a, b, depth, at, ldc);
      }
    }
  }
}
