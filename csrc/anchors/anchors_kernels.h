// The blocks of an anchored transformer on a tile of queries that stays in cache through all of
// them. Included once an instruction set.
//
// What the tile meets is packed in the order in which it is read, and asked for a step ahead. Sums
// run in the same order for every row, whatever rows are beside it. Logits are powers of two: the
// queries' scale has log₂ e in it.
namespace meshsim {
namespace ISA_NAMESPACE {

#include "simd.h"
#include "matmul.h"
#include "anchors/exponential.h"

template <class T>
static constexpr int64_t lanes = Simd<T>::lanes;

template <class T>
static constexpr int64_t broad = wide * lanes<T>;  // columns of a panel

static inline int64_t upto(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// sum = a (R × depth) · b (depth × V vectors), in order of depth. a(r, k) lies at a[r · lda + k],
// or at a[k · R + r] if `Turned`.
template <class T, int R, int V, bool Turned>
__attribute__((always_inline)) static inline void sums(const T* a, int64_t lda, const T* b,
                                                       int64_t depth, Vec<T> (&sum)[R][V]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[r][v] = Vec<T>{};
  for (int64_t k = 0; k < depth; ++k) {
    Vec<T> row[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) row[v] = load(b + (k * V + v) * lanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<T> x = splat(Turned ? a[k * R + r] : a[r * lda + k]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] += x * row[v];
    }
  }
}

// Asks for part `i` of `parts` of what lies behind the next `n` numbers and is as long as they.
template <class T>
static inline void foresee(const T* from, int64_t n, int64_t i, int64_t parts) {
  constexpr int64_t line = 64 / sizeof(T);
  const int64_t slice = upto((n + parts - 1) / parts, line);
  for (int64_t j = i * slice; j < (i + 1) * slice; j += line) __builtin_prefetch(from + n + j);
}

// Not inlined, else what `finish` needs takes registers from the sums.
template <class T, int V, class Finish>
__attribute__((noinline)) static void linear_panel(const T* a, int64_t lda, const T* b,
                                                   int64_t rows, int64_t depth, int64_t column,
                                                   const Finish& finish) {
  for (int64_t r = 0; r < rows; r += tall) {
    foresee(b, V * lanes<T> * depth, r / tall, rows / tall);
    Vec<T> sum[tall][V];
    sums<T, tall, V, false>(a + r * lda, lda, b, depth, sum);
#pragma GCC unroll 8
    for (int i = 0; i < tall; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) finish(r + i, column + v * lanes<T>, sum[i][v]);
  }
}

// Calls finish(row, column, vector from there) for all of a (rows × depth) · packed b.
template <class T, class Finish>
static inline void linear(const T* a, int64_t lda, const T* packed, int64_t rows, int64_t depth,
                          int64_t width, const Finish& finish) {
  for (int64_t j = 0; j < width;) {
    const int64_t left = (width - j) / lanes<T>, v = left < wide ? left : wide;
    if constexpr (wide == 4) {
      if (v == 4) linear_panel<T, 4>(a, lda, packed, rows, depth, j, finish);
      if (v == 3) linear_panel<T, 3>(a, lda, packed, rows, depth, j, finish);
    }
    if (v == 2) linear_panel<T, 2>(a, lda, packed, rows, depth, j, finish);
    if (v == 1) linear_panel<T, 1>(a, lda, packed, rows, depth, j, finish);
    packed += v * lanes<T> * depth;
    j += v * lanes<T>;
  }
}

// `tall` queries of one head, and what they have gathered.
template <class T>
struct Group {
  T* q;      // (depth, tall)
  T* acc;    // (tall, depth in whole vectors)
  T* sum;    // (tall, lanes)
  T* shift;  // (tall,)
  bool calm;  // nothing is to be shifted
};

// x where the lane is below n, else `other`.
template <class T>
static inline Vec<T> below(Vec<T> x, int64_t n, T other) {
  typedef typename Simd<T>::ints Ints;
  Ints at;
  for (int i = 0; i < lanes<T>; ++i) at[i] = i - n;
  return at < Ints{} ? x : splat(other);
}

template <class T>
static inline T square_of(const T* x, int64_t n) {
  Vec<T> sum = {};
  int64_t j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) sum += load(x + j) * load(x + j);
  T out = total(sum);
  for (; j < n; ++j) out += x[j] * x[j];
  return out;
}

// Takes a head of `tall` rows of q. As |q · k| ≤ |q| |k|, with `square` the largest |k|², most
// exponentials cannot leave the range: then there is no need for the largest logit.
template <class T>
static inline void take_queries(const T* q, int64_t ld, int64_t depth, int64_t full, T square,
                                Group<T>& to) {
  for (int64_t k = 0; k < depth; ++k)
#pragma GCC unroll 8
    for (int r = 0; r < tall; ++r) to.q[k * tall + r] = q[r * ld + k];
  for (int64_t i = 0; i < tall * full; ++i) to.acc[i] = 0;
  for (int64_t i = 0; i < tall * lanes<T>; ++i) to.sum[i] = 0;
  to.calm = true;
  for (int r = 0; r < tall; ++r) {
    const bool calm = square_of(q + r * ld, depth) * square <= reach<T> * reach<T>;
    to.shift[r] = calm ? T(0) : -T(__builtin_inff());
    to.calm &= calm;
  }
}

// The largest logit of those rows that have to be shifted.
template <class T>
static void find_shifts(const Group<T>& of, const T* spans, int64_t depth, int64_t full,
                        int64_t count) {
  const T least = -T(__builtin_inff());
  Vec<T> most[tall];
  for (int r = 0; r < tall; ++r) most[r] = splat(least);
  for (int64_t i = 0; i < count; i += broad<T>) {
    const int64_t s = i / span<T> * span<T>;
    Vec<T> logits[tall][wide];
    sums<T, tall, wide, true>(of.q, 0, spans + s * (depth + full) + (i - s) * depth, depth, logits);
    for (int r = 0; r < tall; ++r)
      for (int v = 0; v < wide; ++v)
        most[r] = larger<T>(below<T>(logits[r][v], count - i - v * lanes<T>, least), most[r]);
  }
  for (int r = 0; r < tall; ++r) {
    if (of.shift[r] == 0) continue;
    for (int i = 0; i < lanes<T>; ++i)
      of.shift[r] = most[r][i] > of.shift[r] ? most[r][i] : of.shift[r];
  }
}

// p (tall, span) = 2 to the logits less `shift`, and their sums; `Whole` panels of keys or the
// last, which has `count`.
template <class T, bool Calm, bool Whole>
static void weigh(const Group<T>& of, const T* keys, int64_t depth, int64_t count, T* p) {
  for (int64_t j = 0; j < count; j += broad<T>) {
    Vec<T> s[tall][wide];
    sums<T, tall, wide, true>(of.q, 0, keys + j * depth, depth, s);
#pragma GCC unroll 8
    for (int r = 0; r < tall; ++r) {
      Vec<T> all = load(of.sum + r * lanes<T>);
#pragma GCC unroll 8
      for (int v = 0; v < wide; ++v) {
        Vec<T> e = power<Calm>(Calm ? s[r][v] : s[r][v] - of.shift[r]);
        if (!Whole) e = below<T>(e, count - j - v * lanes<T>, 0);
        store(p + r * span<T> + j + v * lanes<T>, e);
        all += e;
      }
      store(of.sum + r * lanes<T>, all);
    }
  }
}

template <class T, bool Calm>
static inline void weigh_all(const Group<T>& of, const T* keys, int64_t depth, int64_t count,
                             T* p) {
  const int64_t whole = count / broad<T> * broad<T>;
  weigh<T, Calm, true>(of, keys, depth, whole, p);
  if (whole < count)
    weigh<T, Calm, false>(of, keys + whole * depth, depth, count - whole, p + whole);
}

// acc (tall × full) += p (tall × count) · values.
template <class T>
static void gather(const T* p, const T* values, int64_t count, int64_t full, T* acc) {
  for (int64_t c = 0; c < full;) {
    const int64_t left = (full - c) / lanes<T>, v = left < wide ? left : wide, n = v * lanes<T>;
    if constexpr (wide == 4) {
      if (v == 4) product<T, tall, 4, false, true>(p, span<T>, values, n, acc + c, full, count);
      if (v == 3) product<T, tall, 3, false, true>(p, span<T>, values, n, acc + c, full, count);
    }
    if (v == 2) product<T, tall, 2, false, true>(p, span<T>, values, n, acc + c, full, count);
    if (v == 1) product<T, tall, 1, false, true>(p, span<T>, values, n, acc + c, full, count);
    values += n * count;
    c += n;
  }
}

// y = softmax(q kᵀ) v of every head for a tile of rows; `spans` as packed by `pack_head`.
template <class T>
static void attend(const Anchors<T>& in, int64_t l, const T* spans, const T* q, T* y,
                   int64_t rows, T* room) {
  const int64_t depth = in.depth, full = upto(depth, lanes<T>), ld = in.width + 16;
  const int64_t groups = rows / tall, count = in.ptr[l + 1] - in.ptr[l];
  Group<T> group[tile_rows / tall];
  T* p = room;
  room += tall * span<T>;
  for (int64_t g = 0; g < groups; ++g, room += tall * (depth + full + lanes<T> + 1)) {
    T *acc = room + tall * depth, *sum = acc + tall * full;
    group[g] = {room, acc, sum, sum + tall * lanes<T>, true};
  }
  for (int64_t h = 0; h < in.heads; ++h) {
    for (int64_t g = 0; g < groups; ++g) {
      const T square = in.squares[l * in.heads + h];
      take_queries(q + g * tall * ld + h * depth, ld, depth, full, square, group[g]);
      if (!group[g].calm) find_shifts(group[g], spans, depth, full, count);
    }
    for (int64_t s = 0; s < count; s += span<T>) {
      const int64_t some = count - s < span<T> ? count - s : span<T>, whole = upto(some, broad<T>);
      const T *keys = spans, *values = keys + whole * depth;
      for (int64_t g = 0; g < groups; ++g) {
        foresee(spans, whole * (depth + full), g, groups);
        if (group[g].calm) weigh_all<T, true>(group[g], keys, depth, some, p);
        else weigh_all<T, false>(group[g], keys, depth, some, p);
        gather(p, values, whole, full, group[g].acc);
      }
      spans += whole * (depth + full);
    }
    for (int64_t g = 0; g < groups; ++g)
      for (int r = 0; r < tall; ++r) {
        const T share = count ? T(1) / total(load(group[g].sum + r * lanes<T>)) : T(0);
        T* to = y + (g * tall + r) * ld + h * depth;
        for (int64_t k = 0; k < depth; ++k) to[k] = group[g].acc[r * full + k] * share;
      }
  }
}

// out = RMSNorm(x).
template <class T>
static void normalise(const Anchors<T>& in, const T* weight, const T* x, T* out, int64_t rows) {
  const int64_t h = in.width, ld = h + 16;
  for (int64_t r = 0; r < rows; ++r) {
    const T* row = x + r * ld;
    Vec<T> sum = {};
    for (int64_t j = 0; j < h; j += lanes<T>) sum += load(row + j) * load(row + j);
    const T mean = total(sum) / T(h) + in.eps;
    const T s = T(1) / T(sizeof(T) == 8 ? __builtin_sqrt(mean) : __builtin_sqrtf(mean));
    for (int64_t j = 0; j < h; j += lanes<T>)
      store(out + r * ld + j, load(row + j) * s * load(weight + j));
  }
}

// Turns pair t of each head, (t, t + R), by the query's angle.
template <class T>
static void turn_rows(const Anchors<T>& in, int64_t first, T* tile, int64_t rows) {
  const int64_t n = in.turns, ld = in.width + 16;
  for (int64_t r = 0; r < rows; ++r) {
    const T *cos = in.cos + (first + r) * n, *sin = in.sin + (first + r) * n;
    for (T* a = tile + r * ld; a < tile + r * ld + in.width; a += in.depth) {
      T* b = a + n;
      int64_t t = 0;
      for (; t + lanes<T> <= n; t += lanes<T>) {
        const Vec<T> x = load(a + t), y = load(b + t), c = load(cos + t), s = load(sin + t);
        store(a + t, x * c - y * s);
        store(b + t, x * s + y * c);
      }
      for (; t < n; ++t) {
        const T x = a[t], y = b[t];
        a[t] = x * cos[t] - y * sin[t];
        b[t] = x * sin[t] + y * cos[t];
      }
    }
  }
}

// to = a · packed weight.
template <class T>
static inline void set_linear(const T* a, int64_t lda, const T* packed, T* to, int64_t ldt,
                              int64_t rows, int64_t h) {
  linear<T>(a, lda, packed, rows, h, h, [=](int64_t r, int64_t j, Vec<T> sum) {
    store(to + r * ldt + j, sum);
  });
}

// x += a · packed weight + bias.
template <class T>
static inline void add_linear(const T* a, int64_t lda, const T* packed, const T* bias, T* x,
                              int64_t rows, int64_t depth, int64_t h) {
  linear<T>(a, lda, packed, rows, depth, h, [=](int64_t r, int64_t j, Vec<T> sum) {
    T* at = x + r * (h + 16) + j;
    store(at, load(at) + (sum + load(bias + j)));
  });
}

// x += the gated MLP of its RMSNorm, which goes to m; its weights follow each other from `packed`.
template <class T>
static void add_mlp(const Anchors<T>& in, const T* packed, const T* bias, const T* norm, T* x,
                    T* m, T* up, T* hidden, int64_t rows) {
  const int64_t h = in.width, ld = h + 16, deep = in.parts * h + 16;
  normalise(in, norm, x, m, rows);
  for (int64_t c = 0; c < in.parts; ++c, packed += 2 * h * h, bias += 2 * h) {
    T* gate = hidden + c * h;
    set_linear(m, ld, packed, gate, deep, rows, h);
    set_linear(m, ld, packed + h * h, up, ld, rows, h);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < h; j += lanes<T>) {
        T* at = gate + r * deep + j;
        const Vec<T> g = load(at) + load(bias + j), u = load(up + r * ld + j) + load(bias + h + j);
        store(at, gelu<T>(g) * u);
      }
  }
  add_linear(hidden, deep, packed, bias, x, rows, in.parts * h, h);
}

template <class T>
void anchors_tile(const Anchors<T>& in, int64_t first, int64_t last, T* scratch, T* out) {
  const int64_t h = in.width, hh = h * h, ld = h + 16, rows = last - first;
  const int64_t padded = upto(rows, tall), size = tile_rows * ld;
  T *x = scratch, *m = x + size, *q = m + size, *hidden = q + size;
  T* room = hidden + tile_rows * (in.parts * h + 16);
  for (int64_t r = 0; r < padded; ++r)
    for (int64_t j = 0; j < h; j += lanes<T>)
      store(x + r * ld + j, r < rows ? load(in.x + (first + r) * h + j) : Vec<T>{});
  const T* packed = in.packed;
  for (int64_t l = 0; l < in.blocks; ++l) {
    const T *norm = in.norm + 2 * l * h, *b = in.bias + l * (3 + 2 * in.parts) * h;
    normalise(in, norm, x, m, padded);
    linear<T>(m, ld, packed, padded, h, h, [=, &in](int64_t r, int64_t j, Vec<T> sum) {
      store(q + r * ld + j, (sum + load(b + j)) * in.scale);
    });
    if (in.turns) turn_rows(in, first, q, rows);
    attend(in, l, packed + hh, q, m, padded, room);
    packed += hh + in.room(l);
    add_linear(m, ld, packed, b + h, x, padded, h, h);
    add_mlp(in, packed + hh, b + 2 * h, norm + h, x, m, q, hidden, padded);
    packed += (1 + 3 * in.parts) * hh;
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t j = 0; j < h; j += lanes<T>)
      store(out + (first + r) * h + j, load(x + r * ld + j));
}

// Keys and values of a head (count rows, `stride` apart), span after span, each with zeros to the
// end of its last panel.
template <class T>
static T* pack_head(const T* k, const T* v, int64_t stride, int64_t count, int64_t depth, T* to) {
  const int64_t full = upto(depth, lanes<T>);
  for (int64_t s = 0; s < count; s += span<T>) {
    const int64_t last = s + upto(count - s < span<T> ? count - s : span<T>, broad<T>);
    for (int64_t j = s; j < last; j += broad<T>)
      for (int64_t c = 0; c < depth; ++c)
        for (int64_t i = j; i < j + broad<T>; ++i) *to++ = i < count ? k[i * stride + c] : T(0);
    for (int64_t c = 0; c < full; c += broad<T>)
      for (int64_t j = s; j < last; ++j)
        for (int64_t i = c; i < full && i < c + broad<T>; ++i)
          *to++ = j < count && i < depth ? v[j * stride + i] : T(0);
  }
  return to;
}

// The largest |k|² of a head; NaN if there is one.
template <class T>
static T largest_square(const T* k, int64_t stride, int64_t count, int64_t depth) {
  T most = 0;
  for (int64_t j = 0; j < count; ++j) {
    T own = 0;
    for (int64_t c = 0; c < depth; ++c) own += k[j * stride + c] * k[j * stride + c];
    if (most == most && !(own <= most)) most = own;
  }
  return most;
}

// What a block reads, in the order in which it does: W_q, keys and values of each head, W_o, gate
// and up of each part, then all parts' downs as one matrix.
template <class T>
void anchors_pack(const Anchors<T>& in, int64_t l, const T* weight, const T* k, const T* v,
                  T* squares, T* to) {
  const int64_t h = in.width, hh = h * h, first = in.ptr[l] * h, count = in.ptr[l + 1] - in.ptr[l];
  const T* w = weight + l * (2 + 3 * in.parts) * hh;
  T* const end = to + hh + in.room(l);
  pack(w, 1, h, h, h, to);
  to += hh;
  for (int64_t i = 0; i < in.heads; ++i) {
    const int64_t from = first + i * in.depth;
    to = pack_head(k + from, v + from, h, count, in.depth, to);
    squares[i] = largest_square(k + from, h, count, in.depth);
  }
  to = end;
  for (int64_t i = 1; i < 2 + 3 * in.parts; ++i) {
    if (i > 1 && i % 3 == 1) continue;
    pack(w + i * hh, 1, h, h, h, to);
    to += hh;
  }
  for (int64_t j = 0; j < h; j += broad<T>)
    for (int64_t c = 0; c < in.parts; ++c) {
      const int64_t n = h - j < broad<T> ? h - j : broad<T>;
      pack(w + (4 + 3 * c) * hh + j * h, 1, h, h, n, to);
      to += n * h;
    }
}

}  // namespace ISA_NAMESPACE
}  // namespace meshsim
