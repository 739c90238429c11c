// Distances from queries to leaves of points, see tree.h. Included once an instruction set.
//
// Squares of distances are (dx² + dy²) + dz², each step rounded to float64: no fused
// multiply-add, or processors would disagree about points on the boundary.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "simd.h"

typedef Vec<double> Wide;
static constexpr int wide = Simd<double>::lanes;

// One bit a lane of a comparison's result.
static inline unsigned bits_of(Simd<double>::ints v) {
#if defined(__x86_64__) && LANES == 16
  return _mm512_movepi64_mask((__m512i)v);
#elif defined(__x86_64__) && LANES == 8
  return _mm256_movemask_pd((__m256d)v);
#elif defined(__x86_64__)
  return _mm_movemask_pd((__m128d)v);
#else
  unsigned out = 0;
  for (int i = 0; i < wide; ++i) out |= (v[i] ? 1u : 0u) << i;
  return out;
#endif
}

// Those numbers whose bit is set, one after another; may write `wide` numbers. Returns how many.
static inline int64_t pack(const int32_t* from, unsigned bits, int32_t* to) {
#if defined(__x86_64__) && LANES == 16
  const __m256i all = _mm256_loadu_si256((const __m256i*)from);
  _mm256_storeu_si256((__m256i*)to, _mm256_maskz_compress_epi32(bits, all));
  return __builtin_popcount(bits);
#else
  int64_t n = 0;
  for (; bits; bits &= bits - 1) to[n++] = from[__builtin_ctz(bits)];
  return n;
#endif
}

static inline int64_t pack(Wide from, unsigned bits, double* to) {
#if defined(__x86_64__) && LANES == 16
  _mm512_storeu_pd(to, _mm512_maskz_compress_pd(bits, (__m512d)from));
  return __builtin_popcount(bits);
#else
  int64_t n = 0;
  for (; bits; bits &= bits - 1) to[n++] = from[__builtin_ctz(bits)];
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
  return bits_of(sum <= splat(limit)) & real;
}

template <int D>
static inline void spread(const double* queries, int64_t i, Wide* q) {
  for (int d = 0; d < D; ++d) q[d] = splat(queries[d * leaf_size + i]);
}

// Puts different numbers in rising order, for few: each counts those before it.
static inline void sort_few(const int32_t* row, int64_t n, int32_t* to) {
  typedef int32_t ints __attribute__((vector_size(LANES * 4)));
  typedef int32_t loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
  for (int64_t i = 0; i < n; ++i) {
    const int32_t mine = row[i];
    int rank = 0;
#if defined(__x86_64__) && LANES == 16
    for (int64_t j = 0; j < n; j += 16)
      rank += __builtin_popcount(
          _mm512_cmplt_epi32_mask(_mm512_loadu_si512(row + j), _mm512_set1_epi32(mine)));
#else
    ints less = {};
    for (int64_t j = 0; j < n; j += LANES) less -= *(const loose*)(row + j) < mine - ints{};
    for (int l = 0; l < LANES; ++l) rank += less[l];
#endif
    to[rank] = mine;
  }
}

// Rows of queries first..last-1 one after another, short ones (up to 64) in rising order. `out`
// has room for all points of the candidates and 32 more, and room for `near.count` + 8 in `list`.
template <int D>
void scan_within(const Candidates& near, const double* queries, int64_t first, int64_t last,
                 double limit, int32_t* list, int32_t* out, int64_t* counts) {
  for (int64_t i = first; i < last; ++i) {
    Wide q[D];
    spread<D>(queries, i, q);
    int64_t close = 0, n = 0;
    for (int64_t b = 0; b < near.count; b += wide)
      close += pack(near.leaves + b, close_boxes<D>(near, b, q, limit), list + close);
    for (int64_t l = 0; l < close; ++l) {
      const double* at = near.at + list[l] * int64_t(D) * leaf_size;
      const int32_t* id = near.id + list[l] * int64_t(leaf_size);
      for (int64_t j = 0; j < leaf_size; j += wide)
        n += pack(id + j, bits_of(square<D>(at + j, q) <= splat(limit)), out + n);
    }
    counts[i] = n;
    if (n <= 64) {
      int32_t row[64 + LANES];
      __builtin_memcpy(row, out, n * sizeof(int32_t));
      for (int64_t j = n; j < n + LANES; ++j) row[j] = 0x7fffffff;
      sort_few(row, n, out);
    }
    out += n;
  }
}

static inline int64_t count_within(const double* square, int64_t n, double limit) {
  const Wide t = splat(limit);
  Simd<double>::ints sum = {};
  int64_t i = 0;
  for (; i + wide <= n; i += wide) sum -= load(square + i) <= t;
  int64_t out = 0;
  for (int l = 0; l < wide; ++l) out += sum[l];
  for (; i < n; ++i) out += square[i] <= limit;
  return out;
}

// Drops far ones until not many more than k are left; what is kept lies within `limit`.
static inline void tighten(Nearest& best, int64_t k) {
  if (best.count <= k) return;
  double *square = best.square, low = 0.0, high = best.limit;
  if (!(high < __builtin_huge_val())) {
    high = square[0];
    for (int64_t i = 1; i < best.count; ++i) high = square[i] > high ? square[i] : high;
  }
  const int64_t enough = k + k / 8 + 2;
  int64_t left = best.count;
  for (int step = 0; left > enough && step < 12; ++step) {
    const double middle = low + (high - low) * 0.5;
    const int64_t n = count_within(square, best.count, middle);
    if (n < k) {
      low = middle;
    } else {
      high = middle;
      left = n;
    }
  }
  if (left > k + k / 2 + 8) {  // distances of very different size, or many equal ones
    keep_nearest(best, k);
    return;
  }
  int64_t n = 0;
  for (int64_t i = 0; i < best.count; ++i) {
    square[n] = square[i];
    best.id[n] = best.id[i];
    n += square[i] <= high;
  }
  best.count = n;
  best.limit = high;
}

template <int D>
static inline void scan_leaf(const double* at, const int32_t* id, const Wide* q, int64_t k,
                             Nearest& best) {
  if (best.count + leaf_size + wide > best.room) tighten(best, k);
  for (int64_t j = 0; j < leaf_size; j += wide) {
    const Wide d = square<D>(at + j, q);
    const unsigned hit = bits_of(d <= splat(best.limit));
    if (!hit) continue;
    pack(id + j, hit, best.id + best.count);
    best.count += pack(d, hit, best.square + best.count);
  }
}

// Looks through leaves first..last-1, then draws the limit.
template <int D>
void scan_leaves(const double* at, const int32_t* id, int64_t first, int64_t last,
                 const double* queries, int64_t i, int64_t k, Nearest& best) {
  Wide q[D];
  spread<D>(queries, i, q);
  for (int64_t leaf = first; leaf < last; ++leaf)
    scan_leaf<D>(at + leaf * D * leaf_size, id + leaf * leaf_size, q, k, best);
  tighten(best, k);
}

template <int D>
void scan_nearest(const Candidates& near, const double* queries, int64_t i, int64_t k,
                  Nearest& best) {
  Wide q[D];
  spread<D>(queries, i, q);
  for (int64_t b = 0; b < near.count; b += wide)
    for (unsigned some = close_boxes<D>(near, b, q, best.limit); some;
         some &= some - 1) {
      const int64_t leaf = near.leaves[b + __builtin_ctz(some)];
      scan_leaf<D>(near.at + leaf * D * leaf_size, near.id + leaf * leaf_size, q, k, best);
    }
  tighten(best, k);
}

// Places the k nearest in rising order of (square, id), for few: each counts those before it.
void order_few(const Nearest& best, int64_t k, double* square, int64_t* id) {
  const int64_t n = best.count;
  for (int64_t i = n; i < n + wide; ++i) best.square[i] = __builtin_huge_val();
  for (int64_t i = 0; i < n; ++i) {
    const double mine = best.square[i];
    Simd<double>::ints less = {}, same = {};
    for (int64_t j = 0; j < n; j += wide) {
      const Wide other = load(best.square + j);
      less -= other < splat(mine);
      same -= other == splat(mine);
    }
    int64_t rank = 0, equal = 0;
    for (int l = 0; l < wide; ++l) rank += less[l], equal += same[l];
    if (equal > 1)
      for (int64_t j = 0; j < n; ++j) rank += best.square[j] == mine && best.id[j] < best.id[i];
    if (rank >= k) continue;
    square[rank] = mine;
    id[rank] = best.id[i];
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
