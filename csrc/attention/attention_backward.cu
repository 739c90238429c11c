// The gradient of attention on CUDA, see meshsim/ops/attention.py.
//
// By rows the weights p = exp(s − lse), anew, and their gradients d = grad · v, with Σ p d; by rows
// again those of the logits, p (d − Σ p d + g), for q; by columns the same for k and v. p and d, a
// number for each entry and head, are kept in between.
#include "attention/heads.h"

namespace meshsim {
namespace {

template <class S>
struct Gradient {
  typedef computed<S> A;
  const S* out;           // (N, heads · depth)
  const A *lse_grad, *lse;  // (N, heads)
  A *p, *d;               // (E, heads)
  A* dots;                // (N, heads): Σ p d − g
  int64_t* row;           // (E,) of each entry
};

template <class S, int V>
struct Weights : HeadPart<S, V> {
  typedef HeadPart<S, V> Base;
  typedef typename Base::A A;
  typedef typename Base::Part Part;
  struct Where {
    Part at;
    int lane;
    const S *q, *grad;
    A lse;
  };
  struct State { A dot; };
  static constexpr bool reduces = true, applies = false;
  static constexpr int resident = 2, several = V > 4 ? 2 : 4;
  Gradient<S> of;

  __device__ Where where(int64_t list, int tile, int lane) const {
    const auto& in = this->in;
    const Part at = this->part(list, tile, lane);
    const int64_t begin = int64_t(at.head) * in.depth, head = list * in.heads + at.head;
    return {at, lane, in.q + list * in.q_stride + begin,
            of.out + list * in.heads * in.depth + begin, of.lse[head]};
  }
  __device__ State none() const { return {A(0)}; }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    const auto& in = this->in;
    const Part& at = where.at;
#pragma unroll 1
    for (int left = count_of(k, end, step); __any_sync(all_lanes, left > 0); left -= several) {
      const S *keys[several], *values[several];
      this->meet(k, step, left, at.head, keys, values);
      A s[several], d[several];
      this->dots(where.q, keys, where.lane, s);
      this->dots(where.grad, values, where.lane, d);
#pragma unroll
      for (int u = 0; u < several; ++u, advance(k, step)) {
        if (u >= left) continue;
        const A logit = this->logit(s[u], k, at.head, keys[u]);
        const A p = where.lse == -A(INFINITY) ? A(0) : exp_of(logit - where.lse);
        state.dot += p * d[u];
        if (where.lane) continue;
        of.p[k * in.heads + at.head] = p;
        of.d[k * in.heads + at.head] = d[u];
        if (at.head == 0) of.row[k] = at.list;
      }
    }
  }
  __device__ State joined(const State& a, const State& b) const { return {a.dot + b.dot}; }
  __device__ void store(const State& state, const Where& where, int64_t) const {
    const int64_t head = where.at.list * this->in.heads + where.at.head;
    if (where.lane == 0) of.dots[head] = state.dot - of.lse_grad[head];
  }
};

// Σ over the entries of a list of weights times rows.
template <class S, int V>
struct Queries : HeadPart<S, V> {
  typedef HeadPart<S, V> Base;
  typedef typename Base::A A;
  typedef typename Base::Part Part;
  struct Where {
    Part at;
    A dot;
  };
  struct State { A at[V]; };
  static constexpr bool reduces = true, applies = false;
  static constexpr int resident = 2, several = V > 4 ? 2 : 4;
  Gradient<S> of;
  S *d_q, *d_bias;

  __device__ Where where(int64_t list, int tile, int lane) const {
    const Part at = this->part(list, tile, lane);
    return {at, of.dots[list * this->in.heads + at.head]};
  }
  __device__ State none() const {
    State state;
    for (int v = 0; v < V; ++v) state.at[v] = A(0);
    return state;
  }
  __device__ void reduce(State& state, const Where& where, int64_t k, int64_t end,
                         int step) const {
    const auto& in = this->in;
    const Part& at = where.at;
#pragma unroll 1
    for (int left = at.inside ? count_of(k, end, step) : 0; left > 0; left -= several) {
      Pack<S, V> key[several];
      A weight[several];
      int64_t entry = k;
#pragma unroll
      for (int u = 0; u < several; ++u, advance(entry, step)) {
        if (u >= left) continue;
        const S* from = this->row(in.k, in.k_stride, in.columns, in.col[entry], at.head);
        const int64_t head = entry * in.heads + at.head;
        weight[u] = of.p[head] * (of.d[head] - where.dot);
        if (from) key[u] = get<V>(from + at.column);
        else key[u] = {};  // the weight is NaN
      }
#pragma unroll
      for (int u = 0; u < several; ++u, advance(k, step)) {
        if (u >= left) continue;
        if (d_bias && at.first) d_bias[k * in.heads + at.head] = S(weight[u]);
        for (int v = 0; v < V; ++v) state.at[v] += weight[u] * A(key[u].at[v]);
      }
    }
  }
  __device__ State joined(const State& a, const State& b) const {
    State both;
    for (int v = 0; v < V; ++v) both.at[v] = a.at[v] + b.at[v];
    return both;
  }
  __device__ void store(const State& state, const Where& where, int64_t) const {
    const auto& in = this->in;
    const Part& at = where.at;
    if (!at.inside) return;
    Pack<S, V> to;
    for (int v = 0; v < V; ++v) to.at[v] = S(state.at[v] * in.scale);
    put<V>(d_q + (at.list * in.heads + at.head) * in.depth + at.column, to);
  }
};

// The lists are the columns', of places in eperm.
template <class S, int V>
struct KeysAndValues : HeadPart<S, V> {
  typedef HeadPart<S, V> Base;
  typedef typename Base::A A;
  typedef typename Base::Part Where;
  struct State { A k[V], v[V]; };
  static constexpr bool reduces = true, applies = false;
  static constexpr int resident = 2, several = V > 4 ? 2 : 4;
  Gradient<S> of;
  const int64_t* eperm;
  S *d_k, *d_v;

  __device__ Where where(int64_t list, int tile, int lane) const {
    return this->part(list, tile, lane);
  }
  __device__ State none() const {
    State state;
    for (int v = 0; v < V; ++v) state.k[v] = state.v[v] = A(0);
    return state;
  }
  __device__ void reduce(State& state, const Where& at, int64_t k, int64_t end, int step) const {
    const auto& in = this->in;
#pragma unroll 1
    for (int left = at.inside ? count_of(k, end, step) : 0; left > 0; left -= several) {
      int64_t entry[several], row[several];
#pragma unroll
      for (int u = 0; u < several; ++u, advance(k, step)) {
        entry[u] = u < left ? eperm[k] : -1;
        row[u] = uint64_t(entry[u]) < uint64_t(in.entries) ? of.row[entry[u]] : -1;
        if (uint64_t(row[u]) >= uint64_t(in.rows)) row[u] = -1;  // an entry that is not there
      }
      Pack<S, V> q[several], grad[several];
      A p[several], d[several];
#pragma unroll
      for (int u = 0; u < several; ++u) {
        if (row[u] < 0) continue;
        const int64_t head = entry[u] * in.heads + at.head, list = row[u] * in.heads + at.head;
        const int64_t column = int64_t(at.head) * in.depth + at.column;
        q[u] = get<V>(in.q + row[u] * in.q_stride + column);
        grad[u] = get<V>(of.out + row[u] * in.heads * in.depth + column);
        p[u] = of.p[head];
        d[u] = p[u] * (of.d[head] - of.dots[list]);
      }
#pragma unroll
      for (int u = 0; u < several; ++u)
        if (row[u] >= 0)
          for (int v = 0; v < V; ++v) {
            state.k[v] += d[u] * A(q[u].at[v]);
            state.v[v] += p[u] * A(grad[u].at[v]);
          }
    }
  }
  __device__ State joined(const State& a, const State& b) const {
    State both;
    for (int v = 0; v < V; ++v) both.k[v] = a.k[v] + b.k[v], both.v[v] = a.v[v] + b.v[v];
    return both;
  }
  __device__ void store(const State& state, const Where& at, int64_t) const {
    const auto& in = this->in;
    if (!at.inside) return;
    Pack<S, V> k, v;
    for (int i = 0; i < V; ++i) k.at[i] = S(state.k[i] * in.scale), v.at[i] = S(state.v[i]);
    const int64_t to = (at.list * in.heads + at.head) * in.depth + at.column;
    put<V>(d_k + to, k);
    put<V>(d_v + to, v);
  }
};

template <class S, int V>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const HeadInputs& in,
                                                    const AttentionGradients& grads) {
  typedef computed<S> A;
  Tensor d_q = torch::stable::new_empty(in.q, {in.rows, in.width});
  Tensor d_k = torch::stable::new_empty(in.q, {in.columns, in.width});
  Tensor d_v = torch::stable::new_empty(in.q, {in.columns, in.width});
  Tensor d_bias = torch::stable::new_empty(in.q, {in.bias ? in.entries : 0, in.heads});
  const Room<A> p(in.q, in.entries * in.heads), d(in.q, in.entries * in.heads);
  const Room<A> dots(in.q, in.rows * in.heads);
  const Room<int64_t> row(in.q, in.entries);
  const Gradient<S> of{grads.out.const_data_ptr<S>(), grads.lse_grad.const_data_ptr<A>(),
                       grads.lse.const_data_ptr<A>(), p.data, d.data, dots.data, row.data};
  const Lists rows{in.rowptr.const_data_ptr<int64_t>(), in.rows, in.entries};

  auto weights = prepared<Weights<S, V>>(in);
  weights.of = of;
  weights.cut.tiles = 1;  // nothing of it is a head's channels
  over_heads(in.q, weights, rows);
  auto queries = prepared<Queries<S, V>>(in);
  queries.of = of;
  queries.d_q = d_q.mutable_data_ptr<S>();
  queries.d_bias = in.bias ? d_bias.mutable_data_ptr<S>() : nullptr;
  over_heads(in.q, queries, rows);
  auto keys = prepared<KeysAndValues<S, V>>(in);
  keys.of = of;
  keys.eperm = grads.eperm.const_data_ptr<int64_t>();
  keys.d_k = d_k.mutable_data_ptr<S>();
  keys.d_v = d_v.mutable_data_ptr<S>();
  over_heads(in.q, keys, {grads.colptr.const_data_ptr<int64_t>(), in.columns, in.entries});
  return {d_q, d_k, d_v, d_bias};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> csr_attention_backward(
    Tensor grad_out, Tensor grad_lse, Tensor q, Tensor k, Tensor v, Tensor rowptr, Tensor col,
    Tensor colptr, Tensor eperm, std::optional<Tensor> bias, Tensor lse, int64_t heads,
    double scale) {
  const HeadInputs in(q, k, v, rowptr, col, bias, heads, scale);
  AttentionGradients grads(in, grad_out, grad_lse, lse, colptr, eperm);
  grads.out = packed(grads.out);
  return in.packs([&](auto s, auto pack) {
    return backward<decltype(s), decltype(pack)::value>(in, grads);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("csr_attention_backward", TORCH_BOX(&csr_attention_backward));
}

}  // namespace meshsim
