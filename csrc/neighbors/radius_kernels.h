// Points within a radius, by the cells of a grid or the leaves of a tree. Included once an
// instruction set.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "neighbors/distances.h"

typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef int32_t LooseInts __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

// How many of some vectors of numbers are less than x.
static inline int count_less(const Ints* row, int64_t vectors, int32_t x) {
  int n = 0;
#if defined(__x86_64__) && LANES == 16
  for (int64_t j = 0; j < vectors; ++j)
    n += __builtin_popcount(_mm512_cmplt_epi32_mask((__m512i)row[j], _mm512_set1_epi32(x)));
#else
  Ints less = {};
  for (int64_t j = 0; j < vectors; ++j) less -= row[j] < x - Ints{};
  for (int l = 0; l < LANES; ++l) n += less[l];
#endif
  return n;
}

// Puts different numbers in rising order, for not too many: each counts those before it. The last
// vector of `row` is made full.
static inline void sort_few(int32_t* row, int64_t n, int32_t* to) {
  for (int64_t j = n; j < n + LANES; ++j) row[j] = 0x7fffffff;
  if (n <= 2 * LANES) {
    const Ints all[2] = {*(const LooseInts*)row, *(const LooseInts*)(row + LANES)};
    if (n <= LANES)
      for (int64_t i = 0; i < n; ++i) to[count_less(all, 1, row[i])] = row[i];
    else
      for (int64_t i = 0; i < n; ++i) to[count_less(all, 2, row[i])] = row[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i)
    to[count_less((const Ints*)row, (n + LANES - 1) / LANES, row[i])] = row[i];
}

static inline int64_t relative(const float* from, float centre, float scale, float* to) {
  store(to, (load(from) - splat(centre)) * splat(scale));
  return LANES;
}

static inline int64_t relative(const double* from, double centre, double scale, float* to) {
  typedef float Half __attribute__((vector_size(wide * sizeof(float)), aligned(4), may_alias));
  *(Half*)to = __builtin_convertvector((load(from) - splat(centre)) * splat(scale), Half);
  return wide;
}

// Points of some runs relative to a centre, in units of the radius; a vector of points far away
// follows. Returns how many.
template <int D, class T>
int64_t gather_runs(const T* at, const int32_t* id, int64_t stride, const Run* runs, int n_runs,
                    const T* centre, T scale, const Close& to) {
  int64_t n = 0;
  for (int r = 0; r < n_runs; ++r) {
    const int64_t size = runs[r].last - runs[r].first;
    const T* from = at + runs[r].first;
    for (int d = 0; d < D; ++d)
      for (int64_t j = 0; j < size;)
        j += relative(from + d * stride + j, centre[d], scale, to.at + d * to.stride + n + j);
    for (int64_t j = 0; j < size; j += LANES)
      *(LooseInts*)(to.id + n + j) = *(const LooseInts*)(id + runs[r].first + j);
    n += size;
  }
  for (int d = 0; d < D; ++d) store(to.at + d * to.stride + n, splat(1e30f));
  return n;
}

// Rows of some queries one after another, rising where `near` is or they are short. In float32:
// all that are not within a few roundings of the radius are decided there, the rest in float64.
template <int D, class T>
void scan_close(const Close& near, const Asked<T>& asked, int64_t m, int32_t* room, int32_t* out,
                int64_t* counts) {
  const Vec<float> sure = splat(1.f - 4e-6f), maybe = splat(1.f + 4e-6f);
  for (int64_t i = 0; i < m; ++i) {
    Vec<float> q[D];
    for (int d = 0; d < D; ++d)
      q[d] = splat(float((asked.at[d * asked.stride + i] - asked.centre[d]) * asked.scale));
    int32_t* row = near.rising ? out : room;
    int64_t n = 0;
    for (int64_t j = 0; j < near.count; j += LANES) {
      Vec<float> side = load(near.at + j) - q[0], sum = side * side;
      for (int d = 1; d < D; ++d) {
        side = load(near.at + d * near.stride + j) - q[d];
        sum = sum + side * side;
      }
      unsigned hit = at_most(sum, maybe);
      for (unsigned edge = hit & ~at_most(sum, sure); edge; edge &= edge - 1) {
        const int64_t point = near.id[j + __builtin_ctz(edge)];
        double exact = 0.0;
        for (int d = 0; d < D; ++d) {
          const double a = asked.points[point * D + d], b = asked.at[d * asked.stride + i];
          exact += (a - b) * (a - b);
        }
        if (!(exact <= asked.limit)) hit ^= edge & -edge;
      }
      n += pack<LANES>(near.id + j, hit, row + n);
    }
    counts[i] = n;
    if (!near.rising && n <= few)
      sort_few(row, n, out);
    else if (!near.rising)
      __builtin_memcpy(out, row, n * sizeof(int32_t));
    out += n;
  }
}

// Rows of queries first..last-1 one after another, short ones rising. `out` has room for all points of
// the candidates and 16 more, `list` for `near.count` + 8.
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
      int32_t row[few + LANES];
      __builtin_memcpy(row, out, n * sizeof(int32_t));
      sort_few(row, n, out);
    }
    out += n;
  }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
