// Attention over the entries of CSR rows on CUDA, see meshsim/ops/attention.py. The gradient is in
// attention_backward.cu.
#include "attention/heads.h"

namespace meshsim {
namespace {

// Of each row and head: the softmax is computed on the way, with the largest logit so far.
template <class S, int V>
struct Attend : HeadPart<S, V> {
  typedef HeadPart<S, V> Base;
  typedef typename Base::A A;
  typedef typename Base::Part Part;
  struct Where {
    Part at;
    int lane;
    const S* q;
  };
  struct State { A top, sum, at[V]; };
  static constexpr bool reduces = true, applies = false;
  static constexpr int resident = 2, several = V > 4 ? 2 : 4;
  S* out;
  A* lse;

  __device__ Where where(int64_t list, int tile, int lane) const {
    const auto& in = this->in;
    const Part at = this->part(list, tile, lane);
    return {at, lane, in.q + list * in.q_stride + int64_t(at.head) * in.depth};
  }
  __device__ State none() const {
    State state;
    state.top = -A(INFINITY), state.sum = A(0);
    for (int v = 0; v < V; ++v) state.at[v] = A(0);
    return state;
  }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    const auto& in = this->in;
    const Part& at = where.at;
#pragma unroll 1
    for (int left = count_of(k, end, step); __any_sync(all_lanes, left > 0); left -= several) {
      const S *keys[several], *values[several];
      this->meet(k, step, left, at.head, keys, values);
      Pack<S, V> value[several];
#pragma unroll
      for (int u = 0; u < several; ++u)
        if (values[u] && at.inside) value[u] = get<V>(values[u] + at.column);
      A s[several];
      this->dots(where.q, keys, where.lane, s);
      A top = state.top;
#pragma unroll
      for (int u = 0; u < several; ++u, advance(k, step)) {
        s[u] = u < left ? this->logit(s[u], k, at.head, keys[u]) : -A(INFINITY);
        top = s[u] > top ? s[u] : top;  // NaN is in no top, but in the sum
      }
      const A scale = share_of(state.top, top);
      state.top = top;
      state.sum *= scale;
      for (int v = 0; v < V; ++v) state.at[v] *= scale;
#pragma unroll
      for (int u = 0; u < several; ++u) {
        if (u >= left) continue;
        const A p = share_of(s[u], top);
        state.sum += p;
        if (values[u] && at.inside)
          for (int v = 0; v < V; ++v) state.at[v] += p * A(value[u].at[v]);
      }
    }
  }
  __device__ State joined(const State& a, const State& b) const {
    State both;
    both.top = b.top > a.top ? b.top : a.top;
    const A of_a = share_of(a.top, both.top), of_b = share_of(b.top, both.top);
    both.sum = a.sum * of_a + b.sum * of_b;
    for (int v = 0; v < V; ++v) both.at[v] = a.at[v] * of_a + b.at[v] * of_b;
    return both;
  }
  __device__ void store(const State& state, const Where& where, int64_t) const {
    const Part& at = where.at;
    const A top = state.top - state.top == A(0) ? state.top : A(0);
    const bool endless = state.top == A(INFINITY);
    if (at.first)
      lse[at.list * this->in.heads + at.head] =
          endless && state.sum == state.sum ? state.top : log_of(state.sum) + top;
    if (!at.inside) return;
    const A share = endless ? A(NAN) : state.sum == A(0) ? A(0) : A(1) / state.sum;
    Pack<S, V> to;
    for (int v = 0; v < V; ++v)
      // without a row there is no value that could have been NaN
      to.at[v] = S(state.sum == state.sum ? state.at[v] * share : A(NAN));
    put<V>(out + (at.list * this->in.heads + at.head) * this->in.depth + at.column, to);
  }
};

std::tuple<Tensor, Tensor> csr_attention(Tensor q, Tensor k, Tensor v, Tensor rowptr, Tensor col,
                                         Tensor, Tensor, std::optional<Tensor> bias, int64_t heads,
                                         double scale) {
  const HeadInputs in(q, k, v, rowptr, col, bias, heads, scale);
  return in.packs([&](auto s, auto pack) {
    typedef decltype(s) S;
    typedef computed<S> A;
    constexpr int V = decltype(pack)::value;
    Tensor out = torch::stable::new_empty(in.q, {in.rows, in.width});
    Tensor lse = torch::stable::new_empty(in.q, {in.rows, in.heads}, wide_dtype<S>());
    auto op = prepared<Attend<S, V>>(in);
    op.out = out.mutable_data_ptr<S>();
    op.lse = lse.mutable_data_ptr<A>();
    over_heads(in.q, op, {op.in.rowptr, in.rows, in.entries});
    return std::tuple{out, lse};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("csr_attention", TORCH_BOX(&csr_attention));
}

}  // namespace meshsim
