// Points within a radius, by the cells of a grid or the leaves of a tree. Included once an
// instruction set.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "neighbors/distances.h"

typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef int32_t LooseInts __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

typedef Simd<double>::ints Longs;
typedef int64_t LooseLongs __attribute__((vector_size(LANES * 4), aligned(8), may_alias));
typedef int32_t HalfInts __attribute__((vector_size(LANES * 2), aligned(4), may_alias));

// Adds one in the lanes where x < y.
static inline Ints count_less(Ints x, Ints y, Ints sum) {
#if defined(__x86_64__) && LANES == 16
  const __mmask16 less = _mm512_cmplt_epi32_mask((__m512i)x, (__m512i)y);
  return (Ints)_mm512_mask_add_epi32((__m512i)sum, less, (__m512i)sum, _mm512_set1_epi32(1));
#else
  return sum - (x < y);
#endif
}

// Puts different numbers in rising order, for not too many: each counts those before it. Two
// vectors after the last of `row` are written.
static inline void sort_few(int32_t* row, int64_t n, int32_t* to) {
  *(LooseInts*)(row + n) = *(LooseInts*)(row + n + LANES) = 0x7fffffff - Ints{};
  for (int64_t i = 0; i < n; i += 2 * LANES) {
    const Ints a = *(const LooseInts*)(row + i), b = *(const LooseInts*)(row + i + LANES);
    Ints before[2] = {};
    for (int64_t j = 0; j < n; ++j) {
      const Ints other = row[j] - Ints{};
      before[0] = count_less(other, a, before[0]);
      before[1] = count_less(other, b, before[1]);
    }
    const int32_t* place = (const int32_t*)before;
    const int64_t some = n - i < 2 * LANES ? n - i : 2 * LANES;
    for (int64_t j = 0; j < some; ++j) to[place[j]] = row[i + j];
  }
}

static inline void relative(const float* from, float centre, float scale, float* to) {
  store(to, (load(from) - splat(centre)) * splat(scale));
}

static inline void relative(const double* from, double centre, double scale, float* to) {
  typedef float Half __attribute__((vector_size(wide * sizeof(float)), aligned(4), may_alias));
  for (int j = 0; j < LANES; j += wide)
    *(Half*)(to + j) =
        __builtin_convertvector((load(from + j) - splat(centre)) * splat(scale), Half);
}

// Points of some runs relative to a centre, in units of the radius; a vector of points far away
// follows.
template <int D, class T>
void gather_runs(const T* at, const int32_t* id, int64_t stride, const Run* runs, int n_runs,
                 const T* centre, T scale, const Close& to) {
  T middle[D];  // compilers would read it again after every store
  for (int d = 0; d < D; ++d) middle[d] = centre[d];
  float* const to_at = to.at;
  int32_t* const to_id = to.id;
  const int64_t to_stride = to.stride;
  int64_t n = 0;
  for (int r = 0; r < n_runs; ++r) {
    const int64_t size = runs[r].last - runs[r].first;
    int64_t j = 0;
    do {  // most runs end here, so that their ends are seldom guessed wrong
      for (const int64_t some = j + at_once; j < some; j += LANES) {
        const int64_t from = runs[r].first + j;
        for (int d = 0; d < D; ++d)
          relative(at + d * stride + from, middle[d], scale, to_at + d * to_stride + n + j);
        *(LooseInts*)(to_id + n + j) = *(const LooseInts*)(id + from);
      }
    } while (j < size);
    n += size;
  }
  for (int d = 0; d < D; ++d) store(to_at + d * to_stride + n, splat(1e30f));
}

// Those of some points, one a bit, that are not within the radius of query i.
template <int D, class T>
[[gnu::noinline]] unsigned outside(const int32_t* id, unsigned bits, const Asked<T>& asked,
                                   int64_t i) {
  unsigned out = 0;
  for (; bits; bits &= bits - 1) {
    const int64_t point = id[__builtin_ctz(bits)];
    double exact = 0.0;
    for (int d = 0; d < D; ++d) {
      const double a = asked.points[point * D + d], b = asked.at[d * asked.stride + i];
      exact += (a - b) * (a - b);
    }
    if (!(exact <= asked.limit)) out |= bits & -bits;
  }
  return out;
}

// Rows of some queries one after another, rising where `near` is or they are short. In float32:
// all that are not within a few roundings of the radius are decided there, the rest in float64.
template <int D, class T>
void scan_close(const Close& near, const Asked<T>& asked, int64_t m, int32_t* room, int32_t* out,
                int64_t* counts) {
  const Vec<float> sure = splat(1.f - 4e-6f), maybe = splat(1.f + 4e-6f);
  const float* at[D];
  for (int d = 0; d < D; ++d) at[d] = near.at + d * near.stride;
  const int32_t* const id = near.id;
  const int64_t count = near.count;
  for (int64_t i = 0; i < m; ++i) {
    Vec<float> q[D];
    for (int d = 0; d < D; ++d)
      q[d] = splat(float((asked.at[d * asked.stride + i] - asked.centre[d]) * asked.scale));
    int32_t* row = near.rising ? out : room;
    int64_t n = 0;
    for (int64_t j = 0; j < count; j += LANES) {
      Vec<float> side = load(at[0] + j) - q[0], sum = side * side;
      for (int d = 1; d < D; ++d) {
        side = load(at[d] + j) - q[d];
        sum = sum + side * side;
      }
      unsigned hit = at_most(sum, maybe);
      if (const unsigned edge = hit ^ at_most(sum, sure); __builtin_expect(edge, 0))
        hit &= ~outside<D>(id + j, edge, asked, i);
      n += pack<LANES>(id + j, hit, row + n);
    }
    counts[i] = n;
    if (!near.rising && n <= few)
      sort_few(row, n, out);
    else if (!near.rising)
      __builtin_memcpy(out, row, n * sizeof(int32_t));
    out += n;
  }
}

// Rows of queries first..last-1 one after another, short ones rising. `out` has room for all points
// of the candidates and 16 more, `list` for `near.count` + 8.
template <int D>
void scan_within(const Candidates& near, const double* queries, int64_t first, int64_t last,
                 double limit, int32_t* list, int32_t* out, int64_t* counts) {
  for (int64_t i = first; i < last; ++i) {
    Wide q[D];
    spread<D>(queries, i, q);
    int64_t close = 0, n = 0;
    for (int64_t b = 0; b < near.count; b += wide)
      close += pack<wide>(near.leaves + b, close_boxes<D>(near, b, q, limit), list + close);
    for (int64_t l = 0; l < close; ++l) {
      const double* at = near.at + list[l] * int64_t(D) * leaf_size;
      const int32_t* id = near.id + list[l] * int64_t(leaf_size);
      for (int64_t j = 0; j < leaf_size; j += wide)
        n += pack<wide>(id + j, at_most(square<D>(at + j, q), splat(limit)), out + n);
    }
    counts[i] = n;
    if (n <= few) {
      int32_t row[few + 2 * LANES];
      __builtin_memcpy(row, out, n * sizeof(int32_t));
      sort_few(row, n, out);
    }
    out += n;
  }
}

// Writes rows first..last - 1 as int64, in the order of their queries: reading here and there costs
// less than writing there. 16 more of each may be read.
void widen_rows(const Found* rows, const int64_t* rowptr, int64_t first, int64_t last,
                int64_t* out) {
  const int64_t end = rowptr[last];
  for (int64_t i = first; i < last; ++i) {
    if (i + 8 < last) {  // they lie anywhere
      __builtin_prefetch(rows[i + 8].at);
      __builtin_prefetch(rows[i + 8].at + 16);
    }
    const int32_t* from = rows[i].at;
    const int64_t at = rowptr[i], n = rows[i].count;
    int64_t j = 0;
    if (at + n + wide <= end)  // what is written too far is written again
      for (; j < n; j += wide)
        *(LooseLongs*)(out + at + j) = __builtin_convertvector(*(const HalfInts*)(from + j), Longs);
    for (; j < n; ++j) out[at + j] = from[j];
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
