// 2ˣ and GELU: for kernel files, after simd.h.

// Logits up to this, either way, are exponentiated as they are.
template <class T>
static constexpr T reach = sizeof(T) == 8 ? 500 : 60;

// 2ˣ = 2ⁿ 2ʳ, a polynomial in r within 2 units in the last place. `Calm` takes |x| ≤ 2 `reach`;
// without it x is held where the result is a normal number, and NaN stays NaN.
template <bool Calm>
static inline Vec<float> power(Vec<float> x) {
  typedef typename Simd<float>::ints Ints;
  const Vec<float> bottom = splat<float>(-125), magic = splat<float>(12582912.f);  // 1.5 · 2²³
  if constexpr (!Calm) x = x < bottom ? bottom : x;
  const Vec<float> shifted = x + magic;  // rounds to whole numbers
  const Vec<float> r = x - (shifted - magic);
  Vec<float> p = splat<float>(0.00132350298f);  // minimax in units in the last place
  p = p * r + 0.00967124384f;
  p = p * r + 0.0555084497f;
  p = p * r + 0.240222484f;
  p = p * r + 0.693146884f;
  p = p * r + 1.f;
  const Ints bits = (Ints)shifted << 23;
  if constexpr (Calm) return (Vec<float>)((Ints)p + bits);
  return p * (Vec<float>)(bits + (127 << 23));  // the same bits
}

// The same with exp(r ln 2) as a Taylor series.
template <bool Calm>
static inline Vec<double> power(Vec<double> x) {
  typedef typename Simd<double>::ints Ints;
  const Vec<double> bottom = splat<double>(-1020), magic = splat<double>(0x1.8p52);
  if constexpr (!Calm) x = x < bottom ? bottom : x;
  const Vec<double> shifted = x + magic;
  const Vec<double> r = (x - (shifted - magic)) * 0.69314718055994531;
  constexpr double factorials[] = {479001600, 39916800, 3628800, 362880, 40320, 5040, 720,
                                   120,       24,       6,       2,      1,     1};
  Vec<double> p = splat<double>(1. / 6227020800);
#pragma GCC unroll 13
  for (int i = 0; i < 13; ++i) p = p * r + 1. / factorials[i];
  const Ints bits = (Ints)shifted << 52;
  if constexpr (Calm) return (Vec<double>)((Ints)p + bits);
  return p * (Vec<double>)(bits + (int64_t(1023) << 52));
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

template <class T>
static inline Vec<T> gelu(Vec<T> x) {
  return x * (T(0.5) + T(0.5) * erf_of(x * T(0.70710678118654752)));
}
