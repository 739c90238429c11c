// Vectors of numbers and the masks of comparisons, for the kernels of both searches. Included once
// an instruction set.
//
// Squares of distances are (dx² + dy²) + dz², each step rounded to float64: no fused
// multiply-add, or processors would disagree about points on the boundary.

#include "simd.h"

typedef Vec<double> Wide;
static constexpr int wide = Simd<double>::lanes;

// One bit a lane where a <= b.
static inline unsigned at_most(Wide a, Wide b) {
#if defined(__x86_64__) && LANES == 16
  return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ);
#elif defined(__x86_64__) && LANES == 8
  return _mm256_movemask_pd((__m256d)(a <= b));
#elif defined(__x86_64__)
  return _mm_movemask_pd((__m128d)(a <= b));
#else
  unsigned out = 0;
  for (int i = 0; i < wide; ++i) out |= (a[i] <= b[i] ? 1u : 0u) << i;
  return out;
#endif
}

static inline unsigned at_most(Vec<float> a, Vec<float> b) {
#if defined(__x86_64__) && LANES == 16
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ);
#elif defined(__x86_64__) && LANES == 8
  return _mm256_movemask_ps((__m256)(a <= b));
#elif defined(__x86_64__)
  return _mm_movemask_ps((__m128)(a <= b));
#else
  unsigned out = 0;
  for (int i = 0; i < LANES; ++i) out |= (a[i] <= b[i] ? 1u : 0u) << i;
  return out;
#endif
}

// For each byte, the places of its bits, one after another.
struct Places {
  alignas(8) uint8_t of[256][8];
};

static constexpr Places places = [] {
  Places out{};
  for (int byte = 0; byte < 256; ++byte)
    for (int bit = 0, n = 0; bit < 8; ++bit)
      if (byte >> bit & 1) out.of[byte][n++] = bit;
  return out;
}();

// Those numbers whose bit is set, one after another; may write as many as there are bits. Returns
// how many. Without a branch: which are set is what no processor can guess.
template <int bits_wide>
static inline int64_t pack(const int32_t* from, unsigned bits, int32_t* to) {
#if defined(__x86_64__) && LANES == 16
  if constexpr (bits_wide == 16) {
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(bits, _mm512_loadu_si512(from)));
  } else {
    const __m256i all = _mm256_loadu_si256((const __m256i*)from);
    _mm256_storeu_si256((__m256i*)to, _mm256_maskz_compress_epi32(bits, all));
  }
  return __builtin_popcount(bits);
#elif defined(__x86_64__) && LANES == 8
  const __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)places.of[bits]));
  if constexpr (bits_wide == 8) {
    const __m256i all = _mm256_loadu_si256((const __m256i*)from);
    _mm256_storeu_si256((__m256i*)to, _mm256_permutevar8x32_epi32(all, order));
  } else {
    const __m128 all = _mm_loadu_ps((const float*)from);
    _mm_storeu_ps((float*)to, _mm_permutevar_ps(all, _mm256_castsi256_si128(order)));
  }
  return __builtin_popcount(bits);
#else
  int64_t n = 0;
  for (int i = 0; i < bits_wide; ++i) {
    to[n] = from[i];
    n += bits >> i & 1;
  }
  return n;
#endif
}

template <int D>
static inline Wide square(const double* at, const Wide* q) {
  Wide d = load(at) - q[0];
  Wide sum = d * d;
  for (int i = 1; i < D; ++i) {
    d = load(at + i * leaf_size) - q[i];
    sum = sum + d * d;
  }
  return sum;
}

// Which of the boxes first..first + wide - 1 come within √limit of a query.
template <int D>
static inline unsigned close_boxes(const Candidates& near, int64_t first, const Wide* q,
                                   double limit) {
  const double* boxes = near.boxes + first;
  const int64_t stride = near.stride, left = near.count - first;
  Wide sum = splat(0.0);
  for (int i = 0; i < D; ++i) {
    const Wide below = load(boxes + 2 * i * stride) - q[i];
    const Wide above = q[i] - load(boxes + (2 * i + 1) * stride);
    const Wide side = larger<double>(larger<double>(below, above), splat(0.0));
    sum = sum + side * side;
  }
  const unsigned real = left < wide ? (1u << left) - 1 : ~0u;
  return at_most(sum, splat(limit)) & real;
}

template <int D>
static inline void spread(const double* queries, int64_t i, Wide* q) {
  for (int d = 0; d < D; ++d) q[d] = splat(queries[d * leaf_size + i]);
}
