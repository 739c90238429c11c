// Sums, means and products of the rows of lists on CUDA, see meshsim/ops/segment.py.
#include "segment/rows.h"

namespace meshsim {
namespace {

template <class S>
__device__ S not_there() {
  if constexpr (std::is_integral_v<S>) return S(0);
  else return S(NAN);
}

// A sum in A, of integers one that wraps around as their type would, divided for the mean and
// stored as S.
template <class S, class A>
__device__ S mean_of(A sum, int64_t rows) {
  if constexpr (std::is_integral_v<S>) {
    const int64_t total = S(sum), whole = total / rows;
    return S(whole - (total % rows != 0 && total < 0));
  } else {
    return S(sum / A(rows));
  }
}

template <class S, class A, int V, bool product>
struct Folded {
  typedef Columns Where;
  typedef Pack<S, V> Item;
  struct State { A at[V]; };
  static constexpr bool reduces = true, applies = false;
  static constexpr int resident = 3, several = V > 4 ? 4 : 8;
  Layout in;
  int lanes;
  const S* x;
  S* out;
  bool mean;

  __device__ Where where(int64_t list, int tile, int lane) const {
    return in.columns<V>(list, tile, lane, lanes);
  }
  __device__ State none() const {
    State state;
    for (int v = 0; v < V; ++v) state.at[v] = A(product ? 1 : 0);
    return state;
  }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    if (where.inside) take_rows(*this, state, where, k, end, step);
  }
  __device__ Item item(int64_t at) const { return get<V>(x + at); }
  __device__ Item missing() const {
    Item none;
    for (int v = 0; v < V; ++v) none.at[v] = not_there<S>();
    return none;
  }
  __device__ void batch(State& state, const Where&, const Item (&items)[several],
                        const int64_t (&)[several], int64_t, int, int left) const {
#pragma unroll
    for (int u = 0; u < several; ++u)
      if (u < left)
        for (int v = 0; v < V; ++v) state.at[v] = folded(state.at[v], A(items[u].at[v]));
  }
  __device__ static A folded(A a, A b) { return product ? a * b : a + b; }
  __device__ State joined(const State& a, const State& b) const {
    State both;
    for (int v = 0; v < V; ++v) both.at[v] = folded(a.at[v], b.at[v]);
    return both;
  }
  __device__ void store(const State& state, const Where& where, int64_t rows) const {
    if (!where.inside) return;
    Pack<S, V> to;
    for (int v = 0; v < V; ++v)
      to.at[v] = mean && rows > 1 ? mean_of<S>(state.at[v], rows) : S(state.at[v]);
    put<V>(out + where.lists, to);
  }
};

template <class S, class A, int V, bool product>
void run(const Tensor& like, const RowLists& of, bool mean, const void* from, void* out) {
  Folded<S, A, V, product> op{};
  op.x = static_cast<const S*>(from);
  op.out = static_cast<S*>(out);
  op.mean = mean;
  over_rows<V>(like, of, op);
}

}  // namespace

void fold(const Tensor& like, const RowLists& of, Fold how, const void* from, void* out) {
  const bool mean = how == Fold::mean;
  if (!is_float(of.block.dtype))
    return with_integer(of.block.dtype, [&](auto s) {
      typedef decltype(s) S;
      if (how == Fold::mul) run<S, uint64_t, 1, true>(like, of, false, from, out);
      else run<S, uint64_t, 1, false>(like, of, mean, from, out);
    });
  with_float(of.block.dtype, [&](auto s) {
    typedef decltype(s) S;
    if (how == Fold::mul) return run<S, computed<S>, 1, true>(like, of, false, from, out);
    with_pack<S>(of.block.width, [&](auto pack) {
      run<S, computed<S>, decltype(pack)::value, false>(like, of, mean, from, out);
    });
  });
}

}  // namespace meshsim
