// Softmax, log-sum-exp and their gradients over the rows of lists on CUDA, see
// meshsim/ops/segment.py.
#include "segment/rows.h"

namespace meshsim {
namespace {

// What the softmax and the log-sum-exp have in common: Σ exp(x − top) with the largest x so far.
template <class S, int V>
struct Exponentials {
  typedef computed<S> A;
  typedef Columns Where;
  typedef Pack<S, V> Item;
  struct State { A top[V], sum[V]; };
  static constexpr bool reduces = true;
  static constexpr int resident = V > 4 || sizeof(S) == 8 ? 2 : 3, several = 4;
  Layout in;
  int lanes;
  const S* x;
  S* out;

  __device__ Where where(int64_t list, int tile, int lane) const {
    return in.columns<V>(list, tile, lane, lanes);
  }
  __device__ State none() const {
    State state;
    for (int v = 0; v < V; ++v) state.top[v] = -A(INFINITY), state.sum[v] = A(0);
    return state;
  }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    if (where.inside) take_rows(*this, state, where, k, end, step);
  }
  __device__ Item item(int64_t at) const { return get<V>(x + at); }
  __device__ Item missing() const { return {}; }
  __device__ void batch(State& state, const Where&, const Item (&items)[several],
                        const int64_t (&)[several], int64_t, int, int left) const {
    for (int v = 0; v < V; ++v) {
      A top = state.top[v];  // NaN is in no top, but in the sum
#pragma unroll
      for (int u = 0; u < several; ++u)
        if (u < left && A(items[u].at[v]) > top) top = A(items[u].at[v]);
      A sum = state.sum[v] * share_of(state.top[v], top);
#pragma unroll
      for (int u = 0; u < several; ++u)
        if (u < left) sum += share_of(A(items[u].at[v]), top);
      state.top[v] = top;
      state.sum[v] = sum;
    }
  }
  __device__ State joined(const State& a, const State& b) const {
    State both;
    for (int v = 0; v < V; ++v) {
      both.top[v] = b.top[v] > a.top[v] ? b.top[v] : a.top[v];
      both.sum[v] = a.sum[v] * share_of(a.top[v], both.top[v]) +
                    b.sum[v] * share_of(b.top[v], both.top[v]);
    }
    return both;
  }
  // The same with 0 for a top that is not finite, as if exp(x) had been summed.
  __device__ static void settle(State& state) {
    for (int v = 0; v < V; ++v) {
      if (state.top[v] - state.top[v] == A(0)) continue;
      if (state.top[v] > A(0) && state.sum[v] == state.sum[v]) state.sum[v] = A(INFINITY);
      state.top[v] = A(0);
    }
  }
};

template <class S, int V>
struct LogSum : Exponentials<S, V> {
  typedef Exponentials<S, V> Base;
  static constexpr bool applies = false;
  __device__ void store(typename Base::State state, const Columns& where, int64_t) const {
    if (!where.inside) return;
    Base::settle(state);
    Pack<S, V> to;
    for (int v = 0; v < V; ++v) to.at[v] = S(log_of(state.sum[v]) + state.top[v]);
    put<V>(this->out + where.lists, to);
  }
};

// Calls op.write(where, item, at) for the entries, some at a time: loads before stores.
template <class Op>
struct Rewritten {
  typedef typename Op::Where Where;
  typedef typename Op::Item Item;
  static constexpr int several = 4;
  const Op& op;
  const Layout& in;
  __device__ Item item(int64_t at) const { return op.item(at); }
  __device__ Item missing() const { return {}; }
  __device__ void batch(const Nothing&, const Where& where, const Item (&items)[several],
                        const int64_t (&at)[several], int64_t, int, int left) const {
#pragma unroll
    for (int u = 0; u < several; ++u)
      if (u < left) op.write(where, items[u], at[u]);
  }
};

template <class Op>
__device__ void rewrite_rows(const Op& op, const typename Op::Where& where, int64_t k, int64_t end,
                             int step) {
  Nothing nothing;
  take_rows(Rewritten<Op>{op, op.in}, nothing, where, k, end, step);
}

template <class S, int V>
struct Softmax : Exponentials<S, V> {
  typedef Exponentials<S, V> Base;
  typedef typename Base::A A;
  static constexpr bool applies = true;
  struct Found {
    typedef Columns Where;
    typedef typename Base::Item Item;
    const Softmax& op;
    const Layout& in;
    A top[V], share[V];
    __device__ Item item(int64_t at) const { return op.item(at); }
    __device__ void write(const Where&, const Item& item, int64_t at) const {
      Pack<S, V> to;
      for (int v = 0; v < V; ++v) to.at[v] = S(exp_of(A(item.at[v]) - top[v]) * share[v]);
      put<V>(op.out + at, to);
    }
  };
  __device__ void apply(typename Base::State state, const Columns& where, int64_t k, int64_t end,
                        int step) const {
    if (!where.inside) return;
    Base::settle(state);
    Found found{*this, this->in};
    for (int v = 0; v < V; ++v) found.top[v] = state.top[v], found.share[v] = A(1) / state.sum[v];
    rewrite_rows(found, where, k, end, step);
  }
};

// y (g − Σ g y), the sum over the list.
template <class S, int V>
struct SoftmaxGradient {
  typedef computed<S> A;
  typedef Columns Where;
  struct Pair { Pack<S, V> g, y; };
  typedef Pair Item;
  struct State { A dot[V]; };
  static constexpr bool reduces = true, applies = true;
  static constexpr int resident = V > 4 ? 2 : 3, several = 4;
  Layout in;
  int lanes;
  const S *g, *y;
  S* out;

  __device__ Where where(int64_t list, int tile, int lane) const {
    return in.columns<V>(list, tile, lane, lanes);
  }
  __device__ State none() const {
    State state;
    for (int v = 0; v < V; ++v) state.dot[v] = A(0);
    return state;
  }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    if (where.inside) take_rows(*this, state, where, k, end, step);
  }
  __device__ Item item(int64_t at) const { return {get<V>(g + at), get<V>(y + at)}; }
  __device__ Item missing() const { return {}; }
  __device__ void batch(State& state, const Where&, const Item (&items)[several],
                        const int64_t (&)[several], int64_t, int, int left) const {
#pragma unroll
    for (int u = 0; u < several; ++u)
      if (u < left)
        for (int v = 0; v < V; ++v) state.dot[v] += A(items[u].g.at[v]) * A(items[u].y.at[v]);
  }
  __device__ State joined(const State& a, const State& b) const {
    State both;
    for (int v = 0; v < V; ++v) both.dot[v] = a.dot[v] + b.dot[v];
    return both;
  }
  struct Found {
    typedef Columns Where;
    typedef Pair Item;
    const SoftmaxGradient& op;
    const Layout& in;
    const State& state;
    __device__ Item item(int64_t at) const { return op.item(at); }
    __device__ void write(const Where&, const Item& item, int64_t at) const {
      Pack<S, V> to;
      for (int v = 0; v < V; ++v)
        to.at[v] = S(A(item.y.at[v]) * (A(item.g.at[v]) - state.dot[v]));
      put<V>(op.out + at, to);
    }
  };
  __device__ void apply(const State& state, const Where& where, int64_t k, int64_t end,
                        int step) const {
    if (where.inside) rewrite_rows(Found{*this, in, state}, where, k, end, step);
  }
};

// g exp(x − y), g and y the list's.
template <class S, int V>
struct LogSumGradient {
  typedef computed<S> A;
  struct Where {
    Columns at;
    Pack<S, V> g, y;
    __device__ operator const Columns&() const { return at; }
  };
  typedef Pack<S, V> Item;
  typedef Nothing State;
  static constexpr bool reduces = false, applies = true;
  static constexpr int resident = V > 4 || sizeof(S) == 8 ? 2 : 3;
  Layout in;
  int lanes;
  const S *g, *x, *y;
  S* out;

  __device__ Where where(int64_t list, int tile, int lane) const {
    Where where{in.columns<V>(list, tile, lane, lanes)};
    if (where.at.inside)
      where.g = get<V>(g + where.at.lists), where.y = get<V>(y + where.at.lists);
    return where;
  }
  __device__ State none() const { return {}; }
  __device__ Item item(int64_t at) const { return get<V>(x + at); }
  __device__ void write(const Where& where, const Item& item, int64_t at) const {
    Pack<S, V> to;
    for (int v = 0; v < V; ++v)
      to.at[v] = S(A(where.g.at[v]) * exp_of(A(item.at[v]) - A(where.y.at[v])));
    put<V>(out + at, to);
  }
  __device__ void apply(const State&, const Where& where, int64_t k, int64_t end, int step) const {
    if (where.at.inside) rewrite_rows(*this, where, k, end, step);
  }
};

// Calls work(S{}, pack) with the numbers' type and those in a pack.
template <class Work>
void typed(const RowLists& of, const Work& work) {
  with_float(of.block.dtype, [&](auto s) {
    with_pack<decltype(s)>(of.block.width, [&](auto pack) { work(s, pack); });
  });
}

}  // namespace

void softmax(const Tensor& like, const RowLists& of, const void* from, void* out) {
  typed(of, [&](auto s, auto pack) {
    typedef decltype(s) S;
    Softmax<S, decltype(pack)::value> op{};
    op.x = static_cast<const S*>(from);
    op.out = static_cast<S*>(out);
    over_rows<decltype(pack)::value>(like, of, op);
  });
}

void logsumexp(const Tensor& like, const RowLists& of, const void* from, void* out) {
  typed(of, [&](auto s, auto pack) {
    typedef decltype(s) S;
    LogSum<S, decltype(pack)::value> op{};
    op.x = static_cast<const S*>(from);
    op.out = static_cast<S*>(out);
    over_rows<decltype(pack)::value>(like, of, op);
  });
}

void softmax_backward(const Tensor& like, const RowLists& of, const void* grad, const void* y,
                      void* out) {
  typed(of, [&](auto s, auto pack) {
    typedef decltype(s) S;
    SoftmaxGradient<S, decltype(pack)::value> op{};
    op.g = static_cast<const S*>(grad);
    op.y = static_cast<const S*>(y);
    op.out = static_cast<S*>(out);
    over_rows<decltype(pack)::value>(like, of, op);
  });
}

void logsumexp_backward(const Tensor& like, const RowLists& of, const void* grad,
                        const void* from, const void* y, void* out) {
  typed(of, [&](auto s, auto pack) {
    typedef decltype(s) S;
    LogSumGradient<S, decltype(pack)::value> op{};
    op.g = static_cast<const S*>(grad);
    op.x = static_cast<const S*>(from);
    op.y = static_cast<const S*>(y);
    op.out = static_cast<S*>(out);
    over_rows<decltype(pack)::value>(like, of, op);
  });
}

}  // namespace meshsim
