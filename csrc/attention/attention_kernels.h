// Attention over the entries of CSR rows, for ranges of rows. Included once an instruction set.
//
// A row's numbers stay in cache: first all its logits, then their softmax, exact and in two steps,
// then the weighted sum. Heads are cut into packs of V lanes, V dividing their depth.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "segment/packs.h"

template <class A, int V>
static inline A total(Pack<A, V> x) {
  if constexpr (V == 1) {
    return x;
  } else {
    struct Halves { Pack<A, V / 2> low, high; };
    const Halves half = __builtin_bit_cast(Halves, x);
    return total<A, V / 2>(half.low + half.high);
  }
}

// The totals of four packs, into out[0] … out[3].
template <class A, int V>
static inline void totals(const Pack<A, V>* x, A* out) {
#if LANES == 16
  if constexpr (V == 16 && sizeof(A) == 4) {
    const auto pair = [](__m512 a, __m512 b) {  // eight lanes of either
      return _mm512_shuffle_f32x4(a, b, 0x44) + _mm512_shuffle_f32x4(a, b, 0xee);
    };
    const __m512 a = pair((__m512)x[0], (__m512)x[1]), b = pair((__m512)x[2], (__m512)x[3]);
    __m512 sum = _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
    sum += _mm512_permute_ps(sum, 0x4e);
    sum += _mm512_permute_ps(sum, 0xb1);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, sum)));
    return;
  }
#endif
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) out[i] = total<A, V>(x[i]);
}

// Calls work(v) with sizeof(v) the lanes of a pack: as many as divide `depth`.
template <class S, class Work>
static inline void with_pack(int64_t depth, const Work& work) {
  constexpr int lanes = Number<S>::lanes, quarter = lanes > 4 ? 4 : lanes;
  struct Whole { char size[lanes]; };
  struct Part { char size[quarter]; };
  struct One { char size[1]; };
  if (depth % lanes == 0) work(Whole{});
  else if (depth % quarter == 0) work(Part{});
  else work(One{});
}

template <class S>
static inline void fetch(const S* row, int64_t width) {
  const char* p = reinterpret_cast<const char*>(row);
  for (int64_t b = 0; b < width * int64_t(sizeof(S)); b += 64) __builtin_prefetch(p + b);
}

// out[h] = a · b over head h.
template <class S, int V>
__attribute__((always_inline)) static inline void dots(const S* a, const S* b, int64_t heads, int64_t depth, Held<S>* out) {
  typedef Pack<Held<S>, V> P;
  int64_t h = 0;
  for (; h + 4 <= heads; h += 4) {
    P sum[4] = {};
    for (int64_t c = 0; c < depth; c += V)
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const int64_t at = (h + i) * depth + c;
        sum[i] += get<V>(a + at) * get<V>(b + at);
      }
    totals<Held<S>, V>(sum, out + h);
  }
  for (; h < heads; ++h) {
    P sum = {};
    for (int64_t c = 0; c < depth; c += V)
      sum += get<V>(a + h * depth + c) * get<V>(b + h * depth + c);
    out[h] = total<Held<S>, V>(sum);
  }
}

template <class S, int V, int D>
static inline void add_packs(const Held<S>* weight, int64_t heads, const int64_t* pick, int64_t n,
                             const S* rows, int64_t stride, Held<S>* sum) {
  Pack<Held<S>, V> acc[D];
#pragma GCC unroll 4
  for (int c = 0; c < D; ++c) acc[c] = get<V>(sum + c * V);
  for (int64_t e = 0; e < n; ++e) {
    const S* row = rows + pick[e] * stride;
    const Held<S> w = weight[e * heads];
#pragma GCC unroll 4
    for (int c = 0; c < D; ++c) acc[c] += w * get<V>(row + c * V);
  }
#pragma GCC unroll 4
  for (int c = 0; c < D; ++c) put<V>(sum + c * V, acc[c]);
}

// sum[h] += Σ_e weight[e, h] rows[pick[e]] over head h.
template <class S, int V>
static inline void add_rows(const Held<S>* weight, int64_t heads, int64_t depth,
                            const int64_t* pick, int64_t n, const S* rows, int64_t stride,
                            Held<S>* sum) {
  constexpr int64_t tile = 32;  // rows that stay in the first cache from head to head
  for (int64_t e = 0; e < n; e += tile) {
    const int64_t here = n - e < tile ? n - e : tile;
    for (int64_t h = 0; h < heads; ++h) {
      const Held<S>* w = weight + e * heads + h;
      int64_t at = h * depth;
      const int64_t end = at + depth;
      for (; at + 4 * V <= end; at += 4 * V)
        add_packs<S, V, 4>(w, heads, pick + e, here, rows + at, stride, sum + at);
      for (; at + 2 * V <= end; at += 2 * V)
        add_packs<S, V, 2>(w, heads, pick + e, here, rows + at, stride, sum + at);
      for (; at < end; at += V)
        add_packs<S, V, 1>(w, heads, pick + e, here, rows + at, stride, sum + at);
    }
  }
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

// s = scale q · k + bias of row i, entry after entry; what is read next is fetched on the way.
template <class S, int V>
static inline void logits(const Attention<S>& in, int64_t i, Held<S>* s) {
  constexpr int64_t ahead = 16;
  typedef Held<S> A;
  const int64_t begin = in.rowptr[i], end = in.rowptr[i + 1], heads = in.heads;
  const int64_t width = heads * in.depth;
  const S* q = in.q + i * in.q_stride;
  for (int64_t e = begin; e < end; ++e) {
    fetch(in.v + in.col[e] * in.v_stride, width);
    if (e + ahead < in.entries) fetch(in.k + in.col[e + ahead] * in.k_stride, width);
    dots<S, V>(q, in.k + in.col[e] * in.k_stride, heads, in.depth, s + (e - begin) * heads);
  }
  const int64_t n = (end - begin) * heads;
  const A scale = A(in.scale);
  if (!in.bias) {
    for (int64_t j = 0; j < n; ++j) s[j] *= scale;
    return;
  }
  const S* bias = in.bias + begin * heads;
  for (int64_t j = 0; j < n; ++j) s[j] = s[j] * scale + get<1>(bias + j);
}

// Calls work(v, h) for heads h … h + sizeof(v) − 1, several at a time where that comes out even.
template <class A, class Work>
static inline void with_heads(int64_t heads, const Work& work) {
  constexpr int several = Number<A>::lanes > 4 ? 4 : Number<A>::lanes;
  struct Several { char size[several]; };
  struct One { char size[1]; };
  if (heads % several == 0)
    for (int64_t h = 0; h < heads; h += several) work(Several{}, h);
  else
    for (int64_t h = 0; h < heads; ++h) work(One{}, h);
}

// s to exp(s − top) of its head, their sums, and top + log of the sums: −∞ where nothing counts.
template <class A>
static inline void exponentials(A* s, int64_t rows, int64_t heads, A* sum, A* lse) {
  with_heads<A>(heads, [&](auto v, int64_t h) {
    constexpr int V = sizeof(v);
    typedef Pack<A, V> P;
    const P zero = {};
    P top = zero - A(__builtin_inff());
    for (A* at = s + h; at < s + rows * heads; at += heads) {
      const P x = get<V>(at);
      top = (x > top) | (x != x) ? x : top;
    }
    top = top - top == zero ? top : zero;
    put<V>(lse + h, top);
    for (A* at = s + h; at < s + rows * heads; at += heads) put<V>(at, P(get<V>(at) - top));
  });
  exp_run(s, rows * heads);
  with_heads<A>(heads, [&](auto v, int64_t h) {
    constexpr int V = sizeof(v);
    typedef Pack<A, V> P;
    P all = {};
    for (const A* at = s + h; at < s + rows * heads; at += heads) all += get<V>(at);
    put<V>(sum + h, all);
    put<V>(lse + h, P(get<V>(lse + h) + log_pack<V>(all)));
  });
}

// s to exp(s − lse) of its head, 0 where nothing counts.
template <class A>
static inline void weights(A* s, int64_t rows, int64_t heads, const A* lse) {
  with_heads<A>(heads, [&](auto v, int64_t h) {
    constexpr int V = sizeof(v);
    typedef Pack<A, V> P;
    const P zero = {}, least = zero - A(__builtin_inff()), from = get<V>(lse + h);
    for (A* at = s + h; at < s + rows * heads; at += heads) {
      const P x = get<V>(at) - from;
      put<V>(at, P(from == least ? least : x));
    }
  });
  exp_run(s, rows * heads);
}

// d, the gradients of the weights p, to those of the logits: p (d − Σ p d + g).
template <class A>
static inline void softmax_backward(const A* p, A* d, int64_t rows, int64_t heads, const A* g) {
  with_heads<A>(heads, [&](auto v, int64_t h) {
    constexpr int V = sizeof(v);
    typedef Pack<A, V> P;
    P dot = -get<V>(g + h);
    for (int64_t j = h; j < rows * heads; j += heads) dot += get<V>(p + j) * get<V>(d + j);
    for (int64_t j = h; j < rows * heads; j += heads)
      put<V>(d + j, P(get<V>(p + j) * (get<V>(d + j) - dot)));
  });
}

// `room` takes heads numbers for each entry of the longest row, then heads and width more.
template <class S>
void attention_rows(const Attention<S>& in, int64_t first, int64_t last, Held<S>* room, S* out,
                    Held<S>* lse) {
  typedef Held<S> A;
  const int64_t heads = in.heads, depth = in.depth, width = heads * depth;
  A *sum = room, *acc = sum + heads, *s = acc + width;
  with_pack<S>(depth, [&](auto v) {
    constexpr int V = sizeof(v);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = in.rowptr[i], n = in.rowptr[i + 1] - begin;
      logits<S, V>(in, i, s);
      exponentials(s, n, heads, sum, lse + i * heads);
      for (int64_t j = 0; j < width; ++j) acc[j] = 0;
      add_rows<S, V>(s, heads, depth, in.col + begin, n, in.v, in.v_stride, acc);
      for (int64_t h = 0; h < heads; ++h) {
        const A share = sum[h] == 0 ? A(0) : A(1) / sum[h];
        for (int64_t c = h * depth; c < (h + 1) * depth; c += V)
          put<V>(out + i * width + c, Pack<A, V>(get<V>(acc + c) * share));
      }
    }
  });
}

template <class S, int V>
static inline void put_row(const Held<S>* acc, int64_t width, Held<S> scale, S* out) {
  for (int64_t c = 0; c < width; c += V)
    put<V>(out + c, Pack<Held<S>, V>(get<V>(acc + c) * scale));
}

// p, the gradient of the logits and that of q; `room` takes width numbers.
template <class S>
void attention_rows_backward(const Attention<S>& in, const Gradient<S>& of, int64_t first,
                             int64_t last, Held<S>* room, Held<S>* p, Held<S>* ds, S* d_q,
                             S* d_bias) {
  typedef Held<S> A;
  const int64_t heads = in.heads, depth = in.depth, width = heads * depth;
  A* acc = room;
  with_pack<S>(depth, [&](auto v) {
    constexpr int V = sizeof(v);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = in.rowptr[i], n = in.rowptr[i + 1] - begin;
      A *pi = p + begin * heads, *di = ds + begin * heads;
      logits<S, V>(in, i, pi);
      weights(pi, n, heads, of.lse + i * heads);
      for (int64_t e = 0; e < n; ++e) {
        const S* row = in.v + in.col[begin + e] * in.v_stride;
        dots<S, V>(of.out + i * width, row, heads, depth, di + e * heads);
      }
      softmax_backward(pi, di, n, heads, of.lse_grad + i * heads);
      if (d_bias)
        for (int64_t j = 0; j < n * heads; ++j) put<1>(d_bias + begin * heads + j, di[j]);
      for (int64_t j = 0; j < width; ++j) acc[j] = 0;
      add_rows<S, V>(di, heads, depth, in.col + begin, n, in.k, in.k_stride, acc);
      put_row<S, V>(acc, width, A(in.scale), d_q + i * width);
    }
  });
}

// The gradients of k and v: for column j the entries eperm[colptr[j]] …, in that order.
// `room` takes 2 width numbers and 2 heads for each entry of a tile, `rows` a tile's rows.
template <class S>
void attention_columns_backward(const Attention<S>& in, const Gradient<S>& of, int64_t first,
                                int64_t last, Held<S>* room, int64_t* rows, const Held<S>* p,
                                const Held<S>* ds, S* d_k, S* d_v) {
  typedef Held<S> A;
  const int64_t heads = in.heads, depth = in.depth, width = heads * depth;
  A *acc_k = room, *acc_v = acc_k + width, *at_ds = acc_v + width, *at_p = at_ds + tile * heads;
  with_pack<S>(depth, [&](auto v) {
    constexpr int V = sizeof(v);
    for (int64_t j = first; j < last; ++j) {
      for (int64_t c = 0; c < 2 * width; ++c) acc_k[c] = 0;
      for (int64_t t = of.colptr[j]; t < of.colptr[j + 1]; t += tile) {
        const int64_t left = of.colptr[j + 1] - t, n = left < tile ? left : tile;
        for (int64_t e = 0; e < n; ++e) {
          const int64_t from = of.eperm[t + e];
          if (e + 8 < left) {
            __builtin_prefetch(ds + of.eperm[t + e + 8] * heads);
            __builtin_prefetch(p + of.eperm[t + e + 8] * heads);
          }
          rows[e] = of.row[from];
          fetch(in.q + rows[e] * in.q_stride, width);
          fetch(of.out + rows[e] * width, width);
          for (int64_t h = 0; h < heads; ++h) {
            at_ds[e * heads + h] = ds[from * heads + h];
            at_p[e * heads + h] = p[from * heads + h];
          }
        }
        add_rows<S, V>(at_ds, heads, depth, rows, n, in.q, in.q_stride, acc_k);
        add_rows<S, V>(at_p, heads, depth, rows, n, of.out, width, acc_v);
      }
      put_row<S, V>(acc_k, width, A(in.scale), d_k + j * width);
      put_row<S, V>(acc_v, width, A(1), d_v + j * width);
    }
  });
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
