// Softmax and log-sum-exp over groups of rows, for ranges of groups. Included once an
// instruction set.
//
// Narrow rows (a few attention heads) would leave most of a vector empty where exp is taken, so
// it is taken of the differences to the largest value as one run, whatever their rows.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "segment/packs.h"

// Work(V, column) for packs of V columns; the last may overlap the one before.
template <class S, class Work>
static inline void columns(int64_t width, const Work& work) {
  constexpr int lanes = Number<S>::lanes, quarter = lanes > 4 ? 4 : lanes;
  const auto packs = [&](auto v) {
    constexpr int V = sizeof(v);
    for (int64_t j = 0; j < width; j += V) work(v, j < width - V ? j : width - V);
  };
  struct Whole { char size[lanes]; };
  struct Part { char size[quarter]; };
  struct One { char size[1]; };
  if (width >= lanes) packs(Whole{});
  else if (width >= quarter) packs(Part{});
  else packs(One{});
}

template <class P>
static inline P greater(P a, P b) {
  return (a > b) | (a != a) ? a : b;
}

// The largest of each column, NaN if there is one.
template <class S, int V>
static inline Pack<Held<S>, V> top_of(const Groups& by, int64_t i, int64_t width, const S* x) {
  typedef Pack<Held<S>, V> P;
  int64_t k = by.rowptr[i];
  const int64_t end = by.rowptr[i + 1];
  P top = get<V>(x + by.row(k) * width);
  for (++k; k < end; ++k) top = greater<P>(top, get<V>(x + by.row(k) * width));
  return top;
}

// x − top of the rows of group i into `e`, row after row.
template <class S, int V>
static inline void subtract(const Groups& by, int64_t i, int64_t width, const S* x,
                            Pack<Held<S>, V> top, Held<S>* e) {
  const int64_t begin = by.rowptr[i];
  for (int64_t k = begin; k < by.rowptr[i + 1]; ++k)
    put<V>(e + (k - begin) * width, Pack<Held<S>, V>(get<V>(x + by.row(k) * width) - top));
}

// x − top of groups first … last − 1 into `e`, and the tops, 0 where they are not finite, to where
// they are asked for.
template <class S>
static inline void subtract_tops(const Groups& by, int64_t first, int64_t last, int64_t width,
                                 const S* x, Held<S>* e, Held<S>* tops) {
  const int64_t begin = by.rowptr[first];
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    typedef Pack<Held<S>, V> P;
    for (int64_t i = first; i < last; ++i) {
      if (by.rowptr[i] == by.rowptr[i + 1]) continue;
      const P zero = {};
      P top = top_of<S, V>(by, i, width, x + j);
      top = top - top == zero ? top : zero;
      if (tops) put<V>(tops + (i - first) * width + j, top);
      subtract<S, V>(by, i, width, x + j, top, e + (by.rowptr[i] - begin) * width + j);
    }
  });
}

template <class A>
static inline void exp_run(A* e, int64_t n) {
  constexpr int lanes = Number<A>::lanes;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) put<lanes>(e + i, exp_pack<lanes>(get<lanes>(e + i)));
  if (i == n) return;
  A rest[lanes] = {};
  for (int64_t j = i; j < n; ++j) rest[j - i] = e[j];
  put<lanes>(rest, exp_pack<lanes>(get<lanes>(rest)));
  for (int64_t j = i; j < n; ++j) e[j] = rest[j - i];
}

template <class A, int V>
static inline Pack<A, V> sum_of(const A* e, int64_t rows, int64_t width) {
  Pack<A, V> sum = {};
  for (int64_t k = 0; k < rows; ++k) sum += get<V>(e + k * width);
  return sum;
}

// `room` takes the numbers of the range's rows; it may be where the result goes.
template <class S>
void softmax_groups(const Groups& by, int64_t first, int64_t last, int64_t width, const S* x,
                    Held<S>* room, S* out) {
  typedef Held<S> A;
  const int64_t begin = by.rowptr[first];
  subtract_tops<S>(by, first, last, width, x, room, nullptr);
  exp_run<A>(room, (by.rowptr[last] - begin) * width);
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    for (int64_t i = first; i < last; ++i) {
      const int64_t rows = by.rowptr[i + 1] - by.rowptr[i];
      if (rows == 0) continue;
      A* e = room + (by.rowptr[i] - begin) * width + j;
      const Pack<A, V> share = A(1) / sum_of<A, V>(e, rows, width);
      for (int64_t k = 0; k < rows; ++k)
        put<V>(out + by.row(by.rowptr[i] + k) * width + j,
               Pack<A, V>(get<V>(e + k * width) * share));
    }
  });
}

template <class S>
void logsumexp_groups(const Groups& by, int64_t first, int64_t last, int64_t width, const S* x,
                      Held<S>* room, S* out) {
  typedef Held<S> A;
  const int64_t begin = by.rowptr[first], size = (by.rowptr[last] - begin) * width;
  A* tops = room + size;
  subtract_tops<S>(by, first, last, width, x, room, tops);
  exp_run<A>(room, size);
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    typedef Pack<A, V> P;
    for (int64_t i = first; i < last; ++i) {
      const int64_t rows = by.rowptr[i + 1] - by.rowptr[i];
      const P sum = sum_of<A, V>(room + (by.rowptr[i] - begin) * width + j, rows, width);
      P log = log_pack<V>(sum);
      if (rows) log = log + get<V>(tops + (i - first) * width + j);
      put<V>(out + i * width + j, log);
    }
  });
}

// Three steps of the above for pieces of a long group. The largest of group i, which has rows:
template <class S>
void top_group(const Groups& by, int64_t i, int64_t width, const S* x, Held<S>* top) {
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    put<V>(top + j, top_of<S, V>(by, i, width, x + j));
  });
}

// Σ exp(x − top), with room for the group's numbers.
template <class S>
void sum_group(const Groups& by, int64_t i, int64_t width, const S* x, const Held<S>* top,
               Held<S>* room, Held<S>* sum) {
  const int64_t rows = by.rowptr[i + 1] - by.rowptr[i];
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    subtract<S, V>(by, i, width, x + j, get<V>(top + j), room + j);
  });
  exp_run<Held<S>>(room, rows * width);
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    put<V>(sum + j, sum_of<Held<S>, V>(room + j, rows, width));
  });
}

// exp(x − top) · share.
template <class S>
void share_group(const Groups& by, int64_t i, int64_t width, const S* x, const Held<S>* top,
                 const Held<S>* share, Held<S>* room, S* out) {
  const int64_t begin = by.rowptr[i], rows = by.rowptr[i + 1] - begin;
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    subtract<S, V>(by, i, width, x + j, get<V>(top + j), room + j);
  });
  exp_run<Held<S>>(room, rows * width);
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    typedef Pack<Held<S>, V> P;
    for (int64_t k = 0; k < rows; ++k)
      put<V>(out + by.row(begin + k) * width + j,
             P(get<V>(room + k * width + j) * get<V>(share + j)));
  });
}

// Σ g y over group i.
template <class S, int V>
static inline Pack<Held<S>, V> dot_of(const Groups& by, int64_t i, int64_t width, const S* grad,
                                      const S* y) {
  Pack<Held<S>, V> dot = {};
  for (int64_t k = by.rowptr[i]; k < by.rowptr[i + 1]; ++k)
    dot += get<V>(grad + by.row(k) * width) * get<V>(y + by.row(k) * width);
  return dot;
}

template <class S>
void dot_group(const Groups& by, int64_t i, int64_t width, const S* grad, const S* y,
               Held<S>* dot) {
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    put<V>(dot + j, dot_of<S, V>(by, i, width, grad + j, y + j));
  });
}

// y (g − Σ g y), the sum over the group; it is reckoned here unless it is given.
template <class S>
void softmax_backward_groups(const Groups& by, int64_t first, int64_t last, int64_t width,
                             const Held<S>* dots, const S* grad, const S* y, S* out) {
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    typedef Pack<Held<S>, V> P;
    for (int64_t i = first; i < last; ++i) {
      P dot;
      if (dots) dot = get<V>(dots + j);
      else dot = dot_of<S, V>(by, i, width, grad + j, y + j);
      for (int64_t k = by.rowptr[i]; k < by.rowptr[i + 1]; ++k) {
        const int64_t at = by.row(k) * width + j;
        put<V>(out + at, P(get<V>(y + at) * (get<V>(grad + at) - dot)));
      }
    }
  });
}

// g exp(x − y), g and y the group's.
template <class S>
void logsumexp_backward_groups(const Groups& by, int64_t first, int64_t last, int64_t width,
                               const S* grad, const S* x, const S* y, S* out) {
  columns<S>(width, [&](auto v, int64_t j) {
    constexpr int V = sizeof(v);
    typedef Pack<Held<S>, V> P;
    for (int64_t i = first; i < last; ++i) {
      const P g = get<V>(grad + i * width + j), top = get<V>(y + i * width + j);
      for (int64_t k = by.rowptr[i]; k < by.rowptr[i + 1]; ++k) {
        const int64_t at = by.row(k) * width + j;
        put<V>(out + at, P(g * exp_pack<V>(P(get<V>(x + at) - top))));
      }
    }
  });
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
