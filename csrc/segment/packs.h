// Packs of V numbers, any V: what segments of narrow rows need beside simd.h. Included once an
// instruction set, within its namespace. 16-bit numbers are held as float32.

template <class A, int V>
struct Packs {
  typedef A pack __attribute__((vector_size(V * sizeof(A))));
  typedef A loose __attribute__((vector_size(V * sizeof(A)), aligned(sizeof(A)), may_alias));
};
template <class A>
struct Packs<A, 1> {
  typedef A pack;
  typedef A loose __attribute__((may_alias));
};
template <class A, int V>
using Pack = typename Packs<A, V>::pack;

template <class S>
struct Number {  // stored, and accumulated in `held`
  typedef float held;
  typedef int32_t place;
  static constexpr int lanes = LANES;
};
template <>
struct Number<double> {
  typedef double held;
  typedef int64_t place;
  static constexpr int lanes = LANES / 2;
};
template <class S>
using Held = typename Number<S>::held;
template <class S>
using Place = typename Number<S>::place;

template <class A, int V>
static inline Pack<A, V> all(A x) {
  return x - Pack<A, V>{};
}

template <int V>
static inline Pack<float, V> widened(Pack<uint32_t, V> bits, const BFloat16*) {
  return __builtin_bit_cast(Pack<float, V>, Pack<uint32_t, V>(bits << 16));
}

template <int V>
static inline Pack<float, V> widened(Pack<uint32_t, V> bits, const Half*) {
  const Pack<uint32_t, V> rest = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
  const Pack<float, V> value = __builtin_bit_cast(Pack<float, V>, rest) * 0x1p112f;
  const Pack<uint32_t, V> small = __builtin_bit_cast(Pack<uint32_t, V>, value);
  const Pack<uint32_t, V> last = all<uint32_t, V>(0x0f800000u);  // infinity or NaN
  return __builtin_bit_cast(Pack<float, V>, sign | (rest >= last ? (rest | 0x7f800000u) : small));
}

// To the nearest, ties to even.
template <int V>
static inline Pack<uint32_t, V> narrowed(Pack<float, V> x, BFloat16*) {
  const Pack<uint32_t, V> bits = __builtin_bit_cast(Pack<uint32_t, V>, x);
  const Pack<uint32_t, V> none = all<uint32_t, V>(0x7fc0u);
  const Pack<uint32_t, V> near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return x != x ? none : near;
}

template <int V>
static inline Pack<uint32_t, V> narrowed(Pack<float, V> x, Half*) {
  const Pack<uint32_t, V> bits = __builtin_bit_cast(Pack<uint32_t, V>, x);
  const Pack<uint32_t, V> sign = bits & 0x80000000u, size = bits ^ sign;
  const Pack<float, V> half = all<float, V>(0.5f);
  const Pack<uint32_t, V> tiny =
      __builtin_bit_cast(Pack<uint32_t, V>,
                         Pack<float, V>(__builtin_bit_cast(Pack<float, V>, size) + half)) -
      0x3f000000u;
  const Pack<uint32_t, V> normal = (size - 0x38000000u + 0xfffu + ((size >> 13) & 1u)) >> 13;
  const Pack<uint32_t, V> huge = all<uint32_t, V>(0x7c00u), none = all<uint32_t, V>(0x7e00u);
  Pack<uint32_t, V> out = size < all<uint32_t, V>(0x38800000u) ? tiny : normal;
  out = size >= all<uint32_t, V>(0x47800000u) ? huge : out;
  out = size > all<uint32_t, V>(0x7f800000u) ? none : out;
  return out | (sign >> 16);
}

template <int V, class S>
static inline Pack<Held<S>, V> get(const S* p) {
  if constexpr (sizeof(S) > 2) {
    return *reinterpret_cast<const typename Packs<S, V>::loose*>(p);
  } else if constexpr (V == 1) {
    return widened<1>(*reinterpret_cast<const typename Packs<uint16_t, 1>::loose*>(p), p);
  } else {
    const Pack<uint16_t, V> raw = *reinterpret_cast<const typename Packs<uint16_t, V>::loose*>(p);
    return widened<V>(__builtin_convertvector(raw, Pack<uint32_t, V>), p);
  }
}

template <int V, class S>
static inline void put(S* p, Pack<Held<S>, V> x) {
  if constexpr (sizeof(S) > 2)
    *reinterpret_cast<typename Packs<S, V>::loose*>(p) = x;
  else if constexpr (V == 1)
    *reinterpret_cast<typename Packs<uint16_t, 1>::loose*>(p) = narrowed<1>(x, p);
  else
    *reinterpret_cast<typename Packs<uint16_t, V>::loose*>(p) =
        __builtin_convertvector(narrowed<V>(x, p), Pack<uint16_t, V>);
}

// 2ⁿ for n in the range of normal numbers, n held as n + 1.5 · 2²³ or 2⁵²; outside of it any number.
template <int V>
static inline Pack<float, V> power_of_two(Pack<float, V> n) {
  const Pack<uint32_t, V> bits = __builtin_bit_cast(Pack<uint32_t, V>, n);
  return __builtin_bit_cast(Pack<float, V>, Pack<uint32_t, V>((bits << 23) + (127u << 23)));
}

template <int V>
static inline Pack<double, V> power_of_two(Pack<double, V> n) {
  const Pack<uint64_t, V> bits = __builtin_bit_cast(Pack<uint64_t, V>, n);
  return __builtin_bit_cast(Pack<double, V>, Pack<uint64_t, V>((bits << 52) + (1023ULL << 52)));
}

// exp(x), as in Cephes; 0 below the smallest normal number, +∞ above the largest.
template <int V>
static inline Pack<float, V> exp_pack(Pack<float, V> x) {
  const Pack<float, V> top = all<float, V>(88.3762589f), bottom = all<float, V>(-87.3365479f);
  const Pack<float, V> shifted = x * 1.44269504f + 12582912.f;
  const Pack<float, V> n = shifted - 12582912.f;
  const Pack<float, V> r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Pack<float, V> p = all<float, V>(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r + 1.f) * power_of_two<V>(shifted);
  const Pack<float, V> nothing = all<float, V>(0.f), endless = all<float, V>(__builtin_inff());
  p = x < bottom ? nothing : p;
  p = x > top ? endless : p;
  return x != x ? x : p;
}

template <int V>
static inline Pack<double, V> exp_pack(Pack<double, V> x) {
  const Pack<double, V> top = all<double, V>(709.43), bottom = all<double, V>(-708.39);
  const Pack<double, V> shifted = x * 1.4426950408889634074 + 6755399441055744.;
  const Pack<double, V> n = shifted - 6755399441055744.;
  const Pack<double, V> r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6;
  const Pack<double, V> rr = r * r;
  Pack<double, V> p = rr * 1.26177193074810590878e-4 + 3.02994407707441961300e-2;
  p = (p * rr + 9.99999999999999999910e-1) * r;
  Pack<double, V> q = rr * 3.00198505138664455042e-6 + 2.52448340349684104192e-3;
  q = q * rr + 2.27265548208155028766e-1;
  q = q * rr + 2.00000000000000000005e0;
  p = (2. * p / (q - p) + 1.) * power_of_two<V>(shifted);
  const Pack<double, V> nothing = all<double, V>(0.), endless = all<double, V>(__builtin_inf());
  p = x < bottom ? nothing : p;
  p = x > top ? endless : p;
  return x != x ? x : p;
}

// log(x) of x ≥ 0, as in Cephes.
template <int V>
static inline Pack<float, V> log_pack(Pack<float, V> x) {
  const Pack<int32_t, V> bits = __builtin_bit_cast(Pack<int32_t, V>, x);
  const Pack<int32_t, V> raised = bits - 0x3f3504f3;  // the mantissa into √½ … √2
  const Pack<int32_t, V> exponent = raised >> 23;
  Pack<float, V> n;
  if constexpr (V == 1) n = float(exponent);
  else n = __builtin_convertvector(exponent, Pack<float, V>);
  const Pack<float, V> m = __builtin_bit_cast(
      Pack<float, V>, Pack<int32_t, V>((raised & 0x007fffff) + 0x3f3504f3));
  const Pack<float, V> r = m - 1.f, rr = r * r;
  Pack<float, V> p = all<float, V>(7.0376836292e-2f);
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  p = p * r * rr + n * -2.12194440e-4f - 0.5f * rr + r + n * 0.693359375f;
  const Pack<float, V> zero = all<float, V>(0.f), none = all<float, V>(-__builtin_inff());
  const Pack<float, V> endless = all<float, V>(__builtin_inff());
  p = x == zero ? none : p;
  p = x == endless ? endless : p;
  return x != x ? x : p;
}

template <int V>
static inline Pack<double, V> log_pack(Pack<double, V> x) {
  if constexpr (V == 1) {
    return __builtin_log(x);
  } else {
    Pack<double, V> out;
    for (int i = 0; i < V; ++i) out[i] = __builtin_log(x[i]);
    return out;
  }
}
