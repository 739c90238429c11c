// The nearest so far of a query, leaf by leaf of a tree. Included once an instruction set.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "neighbors/distances.h"

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
    const unsigned hit = at_most(d, splat(best.limit));
    if (!hit) continue;
    pack<wide>(id + j, hit, best.id + best.count);
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
