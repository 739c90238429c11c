// What the kernels of attention on the device share.
#pragma once

#include "attention/inputs.h"
#include "segment/rows.h"

namespace meshsim {

// Numbers are stored as S and held as float or double; rows of q, k and v lie a stride apart.
template <class S>
struct Attention {
  int64_t rows, columns, entries;
  int heads, depth;
  computed<S> scale;
  const S *q, *k, *v, *bias;  // bias: (E, heads) or none
  int64_t q_stride, k_stride, v_stride;
  const int64_t *rowptr, *col;
};

// The arguments, with copies of those of q, k and v whose rows cannot be read in packs.
struct HeadInputs : AttentionInputs {
  template <class... Arguments>
  explicit HeadInputs(const Arguments&... arguments) : AttentionInputs(arguments...) {
    for (Tensor* x : {&q, &k, &v})
      if (!fits(*x)) *x = packed(*x);
  }

  template <class S>
  Attention<S> as() const {
    return {rows, columns, entries, static_cast<int>(heads), static_cast<int>(width / heads),
            static_cast<computed<S>>(scale), q.const_data_ptr<S>(), k.const_data_ptr<S>(),
            v.const_data_ptr<S>(), bias ? bias->const_data_ptr<S>() : nullptr, q.stride(0),
            k.stride(0), v.stride(0), rowptr.const_data_ptr<int64_t>(),
            col.const_data_ptr<int64_t>()};
  }

  // Calls work(S{}, pack) with S the type of the numbers and pack::value those in a pack.
  template <class Work>
  auto packs(const Work& work) const {
    return typed([&](auto s) {
      constexpr int most = 16 / sizeof(s);
      if (width / heads % most == 0) return work(s, std::integral_constant<int, most>{});
      return work(s, std::integral_constant<int, 1>{});
    });
  }

 private:
  static bool fits(const Tensor& x) {
    const bool even = x.stride(0) * int64_t(x.element_size()) % 16 == 0 || x.size(0) < 2;
    return even && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  }
};

// How the channels of a head are cut: as columns are, but no tile without all the threads that
// its dot products take.
inline Jobs jobs_of_head(int64_t packs) {
  int lanes = 1;
  while (lanes < packs && lanes < 32) lanes *= 2;
  return {static_cast<int>((packs + lanes - 1) / lanes), lanes};
}

// What the Ops of attention have in common: job `tile` of a list is a head and a tile of its
// channels.
template <class S, int V>
struct HeadPart {
  typedef S Stored;
  typedef computed<S> A;
  static constexpr int pack = V;
  Attention<S> in;
  Jobs cut;  // of a head

  struct Part {
    int64_t list;
    int head, column;  // of the head's
    bool first;        // of the head's threads
    bool inside;
  };
  __device__ Part part(int64_t list, int tile, int lane) const {
    const int head = tile / cut.tiles, column = ((tile - head * cut.tiles) * cut.lanes + lane) * V;
    return {list, head, column, column == 0, column < in.depth};
  }
  // Head `head` of row `i` of `x`; nothing if there is no such row.
  __device__ const S* row(const S* x, int64_t stride, int64_t rows, int64_t i, int head) const {
    return uint64_t(i) < uint64_t(rows) ? x + i * stride + int64_t(head) * in.depth : nullptr;
  }
  // Head `head` of the rows of k and v that entries from `entry` on, a step apart, meet, the first
  // `left` of them; nothing for the others.
  template <int U>
  __device__ void meet(int64_t entry, int step, int left, int head, const S* (&keys)[U],
                       const S* (&values)[U]) const {
#pragma unroll
    for (int u = 0; u < U; ++u, advance(entry, step)) {
      const int64_t j = u < left ? in.col[entry] : -1;
      keys[u] = row(in.k, in.k_stride, in.columns, j, head);
      values[u] = row(in.v, in.v_stride, in.columns, j, head);
    }
  }
  // out[u] = a · b[u] over a head, by all threads of the job; 0 where there is no b.
  template <int U>
  __device__ void dots(const S* a, const S* const (&b)[U], int lane, A (&out)[U]) const {
#pragma unroll
    for (int u = 0; u < U; ++u) out[u] = A(0);
#pragma unroll 1
    for (int c = lane * V; c < in.depth; c += cut.lanes * V) {
      const Pack<S, V> left = get<V>(a + c);
      Pack<S, V> right[U];
#pragma unroll
      for (int u = 0; u < U; ++u)
        if (b[u]) right[u] = get<V>(b[u] + c);
#pragma unroll
      for (int u = 0; u < U; ++u)
        if (b[u])
          for (int v = 0; v < V; ++v) out[u] += A(left.at[v]) * A(right[u].at[v]);
    }
    for (int by = 1; by < cut.lanes; by *= 2)
#pragma unroll
      for (int u = 0; u < U; ++u) out[u] += __shfl_xor_sync(all_lanes, out[u], by);
  }
  // The logit of entry e of a head from q · k, NaN if there is no such k.
  __device__ A logit(A dot, int64_t e, int head, bool there) const {
    if (!there) return A(NAN);
    const A bias = in.bias ? A(in.bias[e * in.heads + head]) : A(0);
    return dot * in.scale + bias;
  }
};

// An Op with what all of them have set.
template <class Op>
Op prepared(const HeadInputs& in) {
  Op op{};
  op.in = in.as<typename Op::Stored>();
  op.cut = jobs_of_head((op.in.depth + Op::pack - 1) / Op::pack);
  return op;
}

// Runs op for all heads of the lists.
template <class Op>
void over_heads(const Tensor& like, const Op& op, Lists by) {
  over_lists(like, op, by, {op.in.heads * op.cut.tiles, op.cut.lanes});
}

}  // namespace meshsim
