// Vectors of LANES numbers of type T, for kernel files (see each_isa.h). Included once an
// instruction set, within its namespace.

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int lanes = LANES;
  typedef float vec __attribute__((vector_size(LANES * sizeof(float))));
  typedef float loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
  typedef int32_t ints __attribute__((vector_size(LANES * sizeof(float))));
};

template <>
struct Simd<double> {
  static constexpr int lanes = LANES / 2;
  typedef double vec __attribute__((vector_size(LANES / 2 * sizeof(double))));
  typedef double loose
      __attribute__((vector_size(LANES / 2 * sizeof(double)), aligned(8), may_alias));
  typedef int64_t ints __attribute__((vector_size(LANES / 2 * sizeof(double))));
};

template <class T>
using Vec = typename Simd<T>::vec;

template <class T>
static inline Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename Simd<T>::loose*>(p);
}

template <class T>
static inline void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename Simd<T>::loose*>(p) = v;
}

// The same for stored bfloat16 (as its bits): exact on the way in, to the nearest even going out.
typedef uint16_t Bits16 __attribute__((vector_size(LANES * 2)));
typedef uint16_t LooseBits16 __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint32_t Bits32 __attribute__((vector_size(LANES * 4)));

static inline Vec<float> load(const uint16_t* p) {
  const Bits16 bits = *reinterpret_cast<const LooseBits16*>(p);
  return (Vec<float>)(__builtin_convertvector(bits, Bits32) << 16);
}

static inline void store(uint16_t* p, Vec<float> v) {
  const Bits32 bits = (Bits32)v;
  const Bits32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits32 kept = v == v ? rounded : (bits >> 16) | 0x40;
  *reinterpret_cast<LooseBits16*>(p) = __builtin_convertvector(kept, Bits16);
}

template <class T>
static inline Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// Sum of the lanes, halves onto halves.
static inline float total(Vec<float> v) {
#if LANES == 16
  return _mm512_reduce_add_ps((__m512)v);
#elif LANES == 8
  __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

static inline double total(Vec<double> v) {
  constexpr int lanes = Simd<double>::lanes;
  double sum[lanes];
  for (int i = 0; i < lanes; ++i) sum[i] = v[i];
  for (int half = lanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0];
}

template <class T>
static inline Vec<T> larger(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

// exp(x): x = n ln 2 + r, a polynomial in r and n put into the exponent. Within 2 units in the
// last place; x is held to where the result is a normal number.
static inline Vec<float> exp_of(Vec<float> x) {
  const Vec<float> top = splat<float>(88.3762589f), bottom = splat<float>(-87.3365479f);
  x = x > top ? top : x;
  x = x < bottom ? bottom : x;
  const Vec<float> magic = splat<float>(12582912.f);  // 1.5 · 2²³: rounds to whole numbers
  const Vec<float> shifted = x * 1.44269504f + magic;
  const Vec<float> n = shifted - magic;
  Vec<float> r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec<float> p = splat<float>(1.9875691500e-4f);  // Cephes, expf
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.f;
  typename Simd<float>::ints bits = (typename Simd<float>::ints)shifted;
  bits = (bits << 23) + (127 << 23);  // what lay in shifted's exponent is shifted out
  return p * (Vec<float>)bits;
}

// 1 / x for positive x far from the ends of the range, within 2 units in the last place.
static inline Vec<float> inverse(Vec<float> x) {
#if LANES == 16
  Vec<float> y = (Vec<float>)_mm512_rcp14_ps((__m512)x);
#elif LANES == 8
  Vec<float> y = (Vec<float>)_mm256_rcp_ps((__m256)x);
  y = y * (2.f - x * y);
#else
  return 1.f / x;
#endif
#if LANES > 4
  return y + y * (1.f - x * y);
#endif
}

static inline Vec<double> inverse(Vec<double> x) { return 1. / x; }

static inline Vec<double> exp_of(Vec<double> x) {
  Vec<double> out;
  for (int i = 0; i < Simd<double>::lanes; ++i) out[i] = __builtin_exp(x[i]);
  return out;
}
