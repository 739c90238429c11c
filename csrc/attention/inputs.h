// What attention on the device is given, and what its kernels share.
#pragma once

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

template <class S>
ScalarType wide_dtype() {
  return sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
}

// Checks every argument but the values of indices.
struct AttentionInputs {
  Tensor q, k, v, rowptr, col;
  std::optional<Tensor> bias;
  int64_t rows, columns, entries, heads, width;
  double scale;

  AttentionInputs(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& rowptr_,
                  const Tensor& col_, const std::optional<Tensor>& bias_, int64_t heads_,
                  double scale_)
      : q(lined(q_, "q")), k(lined(k_, "k")), v(lined(v_, "v")), rowptr(dense(rowptr_)),
        col(dense(col_)), heads(heads_), scale(scale_) {
    rows = q.size(0), width = q.size(1), columns = k.size(0);
    if (heads < 1 || width % heads || width == 0)
      bad_input("`heads`: expected a number that divides the width ", width, ", got ", heads);
    check_shape(k, -1, width, "k");
    check_shape(v, columns, width, "v");
    same(k, "k");
    same(v, "v");
    check_shape(col, -1, 0, "col");
    entries = col.size(0);
    check_rowptr(rowptr, entries);
    if (rowptr.size(0) != rows + 1)
      bad_input("`rowptr`: expected shape (", rows + 1, "), got ", shape_of(rowptr));
    check_index(col, columns, "col");
    if (!bias_) return;
    check_shape(*bias_, entries, heads, "bias");
    same(*bias_, "bias");
    bias = dense(*bias_);
  }

  void same(const Tensor& x, const char* name) const {
    check_device(x, name);
    check_dtype(x, q.scalar_type(), name);
  }

  // As it is if its rows can be read in packs, else a copy of it that can.
  static Tensor lined(const Tensor& x, const char* name) {
    check_device(x, name);
    check_shape(x, -1, -1, name);
    const bool even = x.stride(0) * int64_t(x.element_size()) % 16 == 0 || x.size(0) < 2;
    const bool fits = x.stride(1) == 1 && x.stride(0) >= x.size(1) &&
                      reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
    return even && fits ? x : packed(x);
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
  auto typed(const Work& work) const {
    switch (q.scalar_type()) {
      case ScalarType::Float: return packs(float{}, work);
      case ScalarType::Double: return packs(double{}, work);
      case ScalarType::BFloat16: return packs(BFloat16{}, work);
      default: bad_input("`q`: expected float32, float64 or bfloat16, got ",
                         torch::headeronly::toString(q.scalar_type()));
    }
  }

 private:
  template <class S, class Work>
  auto packs(S s, const Work& work) const {
    constexpr int most = 16 / sizeof(S);
    if (width / heads % most == 0) return work(s, std::integral_constant<int, most>{});
    return work(s, std::integral_constant<int, 1>{});
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
  typedef computed<S> A;
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

// Runs op for all heads of the lists.
template <class Op>
void over_heads(const Tensor& like, const Op& op, Lists by) {
  over_lists(like, op, by, {op.in.heads * op.cut.tiles, op.cut.lanes});
}

}  // namespace meshsim
