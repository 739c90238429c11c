// Reductions over groups of rows, for ranges of groups. Included once an instruction set.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "segment/packs.h"

// Rows are asked for this many before they are read: what lies in order the processor foresees by
// itself, but only to the end of a page. What lies beyond the last row is asked for in vain.
static constexpr int64_t ahead = 32;

// Asks for the cache line of a pack; single numbers would ask for each line too often.
template <int V, class S>
static inline void ask(const S* p) {
  if constexpr (V * sizeof(S) >= 16) __builtin_prefetch(p);
}

template <int U>
struct Count {
  static constexpr int value = U;
};

// Calls work(Count<U>, at) for blocks of U packs of V columns, at[u] their first ones. The last
// packs overlap where V does not divide the width: a column comes twice, with the same result.
template <int V, int most, class Work>
static inline void by_blocks(int64_t width, const Work& work) {
  const int64_t packs = (width + V - 1) / V;
  int64_t at[16];
  for (int64_t first = 0; first < packs; first += most) {
    const int64_t left = packs - first < most ? packs - first : most;
    for (int64_t u = 0; u < most; ++u) {
      const int64_t column = (first + (u < left ? u : left - 1)) * V;
      at[u] = column < width - V ? column : width - V;
    }
    if constexpr (most > 8)
      if (left > 8) {
        work(Count<most>{}, at);
        continue;
      }
    if constexpr (most > 4)
      if (left > 4) {
        work(Count<8>{}, at);
        continue;
      }
    if (left > 2) work(Count<4>{}, at);
    else if (left > 1) work(Count<2>{}, at);
    else work(Count<1>{}, at);
  }
}

// The same with V chosen by the width: whole vectors, quarters for narrow rows, single numbers.
template <class S, int most, class Work>
static inline void by_columns(int64_t width, const Work& work) {
  constexpr int lanes = Number<S>::lanes, quarter = lanes > 4 ? 4 : lanes;
  if (width >= lanes)
    by_blocks<lanes, most>(width, [&](auto u, const int64_t* at) { work(Count<lanes>{}, u, at); });
  else if (width >= quarter)
    by_blocks<quarter, 4>(width, [&](auto u, const int64_t* at) { work(Count<quarter>{}, u, at); });
  else
    by_blocks<1, 4>(width, [&](auto u, const int64_t* at) { work(Count<1>{}, u, at); });
}

// Σ of `n` numbers in a run whose columns repeat every `width` ≤ lanes: for long groups of narrow
// rows, many at a time. The last columns of a pack are those of the next row.
template <class S>
static inline void sum_run(const S* x, int64_t n, int64_t width, Held<S>* out) {
  constexpr int lanes = Number<S>::lanes;
  Pack<Held<S>, lanes> a[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    for (int u = 0; u < 4; ++u) a[u] += get<lanes>(x + i + u * lanes);
  const Pack<Held<S>, lanes> sum = (a[0] + a[1]) + (a[2] + a[3]);
  for (int64_t j = 0; j < width; ++j) out[j] = sum[j];
  for (int64_t j = width; j < lanes; ++j) out[j % width] += sum[j];
  for (; i < n; ++i) out[i % width] += get<1>(x + i);
}

template <class S, int V, int U, class O>
static inline void sum_rows(const Groups& by, int64_t first, int64_t last, int64_t width,
                            const int64_t* places, bool mean, const S* x, O* out) {
  typedef Pack<Held<S>, V> P;
  constexpr int lanes = Number<S>::lanes;
  const bool runs = width < lanes && lanes % width == 0 && !by.pick;
  int64_t at[U];
  for (int u = 0; u < U; ++u) at[u] = places[u];
  for (int64_t i = first; i < last; ++i) {
    const int64_t begin = by.rowptr[i], end = by.rowptr[i + 1];
    P sum[U] = {};
    if (runs && (end - begin) * width >= 16 * lanes) {
      Held<S> run[lanes + 8];
      sum_run(x + begin * width, (end - begin) * width, width, run);
      for (int u = 0; u < U; ++u) sum[u] = get<V>(run + at[u]);
    } else if (by.pick) {
      for (int64_t k = begin; k < end; ++k)
        for (int u = 0; u < U; ++u) sum[u] += get<V>(x + by.pick[k] * width + at[u]);
    } else {
      for (int64_t k = begin; k < end; ++k)
        for (int u = 0; u < U; ++u) {
          ask<V>(x + (k + ahead) * width + at[u]);
          sum[u] += get<V>(x + k * width + at[u]);
        }
    }
    if (mean && end - begin > 1) {
      const Held<S> count = end - begin;
      for (int u = 0; u < U; ++u) sum[u] = sum[u] / count;
    }
    for (int u = 0; u < U; ++u) put<V>(out + i * width + at[u], sum[u]);
  }
}

// Calls work(first, last) for all of the groups where the registers hold whole rows of `columns`,
// else group by group: memory is then read in order, the next columns of a row out of the cache.
template <class Work>
static inline void in_order(int64_t first, int64_t last, int64_t width, int64_t columns,
                            const Work& work) {
  if (width <= columns) return work(first, last);
  for (int64_t i = first; i < last; ++i) work(i, i + 1);
}

// Sums as numbers of type O: S, or what S is accumulated in.
template <class S, class O>
void sum_groups(const Groups& by, int64_t first, int64_t last, int64_t width, bool mean,
                const S* x, O* out) {
  constexpr int most = sizeof(S) == 2 ? 4 : sizeof(S) == 4 && LANES == 8 ? 16 : 8;
  in_order(first, last, width, most * Number<S>::lanes, [&](int64_t i, int64_t end) {
    by_columns<S, most>(width, [&](auto v, auto u, const int64_t* at) {
      sum_rows<S, v.value, u.value>(by, i, end, width, at, mean, x, out);
    });
  });
}

// The best of rows begin … end − 1 and their places. True if NaN or ∞ may be among them: only
// with `nans` do NaN take part, as they are rare and looking out for them lengthens every step.
// Of single numbers the best changes often in a short group, where a jump costs more than masks,
// and seldom in a long one.
template <bool nans, bool least, bool jumps, class S, int V, int U>
__attribute__((always_inline)) static inline bool best_of(
    const Groups& by, int64_t begin, int64_t end, int64_t width, const int64_t* at, const S* x,
    Pack<Held<S>, V>* values, Pack<Place<S>, V>* places) {
  typedef Pack<Held<S>, V> P;
  typedef Pack<Place<S>, V> Q;
  P best[U], sum[U];  // best is its own, so that it stays in registers; a sum with NaN is NaN
  Q place[U];
  for (int u = 0; u < U; ++u) {
    best[u] = sum[u] = get<V>(x + by.row(begin) * width + at[u]);
    place[u] = Q{};
  }
  for (int64_t k = begin + 1; k < end; ++k) {
    const S* row = x + by.row(k) * width;
    if (!by.pick)
      for (int u = 0; u < U; ++u) ask<V>(row + ahead * width + at[u]);
    const Q here = all<Place<S>, V>(Place<S>(k - begin));
    for (int u = 0; u < U; ++u) {
      const P value = get<V>(row + at[u]);
      const auto better = least ? value < best[u] : value > best[u];
      if constexpr (nans) {
        const auto take = better | ((value != value) & (best[u] == best[u]));
        best[u] = take ? value : best[u];
        place[u] = take ? here : place[u];
      } else {
        if constexpr (V == 1 && !jumps) place[u] ^= (place[u] ^ here) & -Q(better);
        else place[u] = better ? here : place[u];
        best[u] = better ? value : best[u];
        sum[u] += value;
      }
    }
  }
  for (int u = 0; u < U; ++u) values[u] = best[u], places[u] = place[u];
  if constexpr (nans) return true;
  for (int u = 1; u < U; ++u) sum[0] += sum[u];
  if constexpr (V == 1) {
    return sum[0] != sum[0];
  } else {
    Held<S> total = 0;
    for (int v = 0; v < V; ++v) total += sum[0][v];
    return total != total;
  }
}

// The rows that stand at `place` in a group that begins at `begin`.
template <class S, int V>
static inline void put_rows(const Groups& by, int64_t begin, Pack<Place<S>, V> place,
                            int64_t* out) {
  if constexpr (V == 1) {
    *out = by.row(begin + place);
  } else {
    typedef typename Packs<int64_t, V>::loose Rows;
    Rows rows = __builtin_convertvector(place, Pack<int64_t, V>) + begin;
    if (by.pick)
      for (int v = 0; v < V; ++v) rows[v] = by.pick[rows[v]];
    *reinterpret_cast<Rows*>(out) = rows;
  }
}

template <bool least, class S, int V, int U>
static inline void best_rows(const Groups& by, int64_t first, int64_t last, int64_t width,
                             const int64_t* places, const S* x, S* out, int64_t* arg) {
  typedef Pack<Held<S>, V> P;
  typedef Pack<Place<S>, V> Q;
  int64_t at[U];
  for (int u = 0; u < U; ++u) at[u] = places[u];
  for (int64_t i = first; i < last; ++i) {
    const int64_t begin = by.rowptr[i], end = by.rowptr[i + 1];
    S* value = out + i * width;
    int64_t* from = arg + i * width;
    if (begin == end) {
      for (int u = 0; u < U; ++u)
        for (int v = 0; v < V; ++v) put<1>(value + at[u] + v, Held<S>(0)), from[at[u] + v] = by.rows;
      continue;
    }
    P best[U];
    Q place[U];
    bool odd;
    if (V > 1 || end - begin > 64)
      odd = best_of<false, least, true, S, V, U>(by, begin, end, width, at, x, best, place);
    else
      odd = best_of<false, least, false, S, V, U>(by, begin, end, width, at, x, best, place);
    if (odd) best_of<true, least, true, S, V, U>(by, begin, end, width, at, x, best, place);
    for (int u = 0; u < U; ++u) {
      put<V>(value + at[u], best[u]);
      put_rows<S, V>(by, begin, place[u], from + at[u]);
    }
  }
}

template <class S>
void best_groups(const Groups& by, int64_t first, int64_t last, int64_t width, bool least,
                 const S* x, S* out, int64_t* arg) {
  constexpr int most = LANES == 16 && sizeof(S) > 2 ? 8 : 4;  // as many as there are registers for
  in_order(first, last, width, most * Number<S>::lanes, [&](int64_t i, int64_t end) {
    by_columns<S, most>(width, [&](auto v, auto u, const int64_t* at) {
      if (least) best_rows<true, S, v.value, u.value>(by, i, end, width, at, x, out, arg);
      else best_rows<false, S, v.value, u.value>(by, i, end, width, at, x, out, arg);
    });
  });
}

// The row of each group, divided by the number of its rows for the mean, to each of them.
template <class S, int V>
static inline void spread_rows(const Groups& by, int64_t first, int64_t last, int64_t width,
                               bool mean, const S* x, S* out) {
  for (int64_t i = first; i < last; ++i) {
    const int64_t begin = by.rowptr[i], end = by.rowptr[i + 1];
    const Held<S> share = mean ? end - begin : 1;
    for (int64_t k = begin; k < end; ++k)
      for (int64_t c = 0; c < width; c += V) {
        const int64_t j = c < width - V ? c : width - V;
        Pack<Held<S>, V> value = get<V>(x + i * width + j);
        if (mean) value = value / share;
        put<V>(out + by.row(k) * width + j, value);
      }
  }
}

template <class S>
void spread_groups(const Groups& by, int64_t first, int64_t last, int64_t width, bool mean,
                   const S* x, S* out) {
  constexpr int lanes = Number<S>::lanes, quarter = lanes > 4 ? 4 : lanes;
  if (width >= lanes) spread_rows<S, lanes>(by, first, last, width, mean, x, out);
  else if (width >= quarter) spread_rows<S, quarter>(by, first, last, width, mean, x, out);
  else if (width > 0) spread_rows<S, 1>(by, first, last, width, mean, x, out);
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
