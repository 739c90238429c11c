// The largest and smallest of the rows of lists on CUDA, see meshsim/ops/segment.py.
#include "segment/rows.h"

namespace meshsim {
namespace {

// A is what values are compared in. NaN counts as largest and smallest, the first of equals wins.
template <class S, class A, int V>
struct Best {
  typedef Columns Where;
  typedef Pack<S, V> Item;
  struct State {
    A at[V];
    int64_t entry[V];  // −1: none yet
  };
  static constexpr bool reduces = true, applies = false;
  static constexpr int resident = V > 4 ? 2 : 3, several = V > 1 ? 4 : 8;
  Layout in;
  int lanes;
  const S* x;
  S* out;
  int64_t* arg;
  bool least;

  __device__ Where where(int64_t list, int tile, int lane) const {
    return in.columns<V>(list, tile, lane, lanes);
  }
  __device__ State none() const {
    State state;
    for (int v = 0; v < V; ++v) state.at[v] = A(0), state.entry[v] = -1;
    return state;
  }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    if (where.inside) take_rows(*this, state, where, k, end, step);
  }
  __device__ Item item(int64_t at) const { return get<V>(x + at); }
  __device__ Item missing() const { return {}; }
  __device__ bool beats(A a, A b) const {
    return (least ? a < b : a > b) || (a != a && b == b);
  }
  __device__ void batch(State& state, const Where&, const Item (&items)[several],
                        const int64_t (&)[several], int64_t entry, int step, int left) const {
#pragma unroll
    for (int u = 0; u < several; ++u, advance(entry, step))
      if (u < left)
        for (int v = 0; v < V; ++v) {
          const A value = A(items[u].at[v]);
          if (state.entry[v] >= 0 && !beats(value, state.at[v])) continue;
          state.at[v] = value;
          state.entry[v] = entry;
        }
  }
  __device__ State joined(const State& a, const State& b) const {
    State both = a;
    for (int v = 0; v < V; ++v) {
      if (b.entry[v] < 0) continue;
      if (a.entry[v] >= 0 && !beats(b.at[v], a.at[v]))
        if (beats(a.at[v], b.at[v]) || a.entry[v] < b.entry[v]) continue;
      both.at[v] = b.at[v];
      both.entry[v] = b.entry[v];
    }
    return both;
  }
  __device__ void store(const State& state, const Where& where, int64_t) const {
    if (!where.inside) return;
    Pack<S, V> to;
    for (int v = 0; v < V; ++v) {
      to.at[v] = S(state.at[v]);
      arg[where.lists + v] = state.entry[v] < 0 ? in.rows : in.row(state.entry[v]);
    }
    put<V>(out + where.lists, to);
  }
};

template <class S, class A, int V>
void run(const Tensor& like, const RowLists& of, bool least, const void* from, void* out,
         int64_t* arg) {
  Best<S, A, V> op{};
  op.x = static_cast<const S*>(from);
  op.out = static_cast<S*>(out);
  op.arg = arg;
  op.least = least;
  over_rows<V>(like, of, op);
}

}  // namespace

void extreme(const Tensor& like, const RowLists& of, bool least, const void* from, void* out,
             int64_t* arg) {
  if (!is_float(of.block.dtype))
    return with_integer(of.block.dtype, [&](auto s) {
      run<decltype(s), decltype(s), 1>(like, of, least, from, out, arg);
    });
  with_float(of.block.dtype, [&](auto s) {
    typedef decltype(s) S;
    with_pack<S>(of.block.width, [&](auto pack) {
      run<S, computed<S>, decltype(pack)::value>(like, of, least, from, out, arg);
    });
  });
}

}  // namespace meshsim
