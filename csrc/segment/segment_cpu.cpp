// Sums, means, products, extremes and spreads over groups of rows, see meshsim/ops/segment.py.
#include "segment/inputs.h"

#define MESHSIM_KERNELS "segment/segment_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

// Products, and everything of integers: rare, so plain loops that the compiler makes vectors of.
template <class A, class S, class O, class Add>
void fold_plain(const Groups& by, int64_t first, int64_t last, int64_t width, A start,
                const S* x, O* out, const Add& add) {
  A* sum = thread_scratch<A>(width);
  for (int64_t i = first; i < last; ++i) {
    std::fill_n(sum, width, start);
    for (int64_t k = by.rowptr[i]; k < by.rowptr[i + 1]; ++k) {
      const S* row = x + by.row(k) * width;
      for (int64_t j = 0; j < width; ++j) add(sum[j], row[j]);
    }
    std::copy_n(sum, width, out + i * width);
  }
}

template <class A>
A floor_divided(A sum, A count) {
  const A whole = sum / count;
  return whole - (sum % count != 0 && sum < 0);
}

// A sum as a number of type S, divided by the number of rows for the mean.
template <class S, class A>
S shared_out(A sum, bool mean, int64_t rows) {
  const A count = A(std::max<int64_t>(1, rows));
  if constexpr (std::is_integral_v<S>) return mean ? floor_divided<int64_t>(S(sum), rows) : S(sum);
  else return mean ? S(sum / count) : S(sum);
}

// Groups first … last − 1 into out, in numbers of type O: S, or what S is accumulated in.
template <class S, class O>
void fold_range(const Groups& by, int64_t first, int64_t last, int64_t width, Fold how,
                const S* x, O* out) {
  typedef std::conditional_t<std::is_integral_v<S>, uint64_t, Held<S>> Wide;  // integers wrap around
  if (how == Fold::mul)
    return fold_plain(by, first, last, width, Wide(1), x, out,
                      [](Wide& a, S b) { a *= Wide(b); });
  if constexpr (!std::is_integral_v<S>) {
    MESHSIM_DISPATCH(sum_groups<S>(by, first, last, width, how == Fold::mean, x, out));
  } else {
    fold_plain(by, first, last, width, Wide(0), x, out, [](Wide& a, S b) { a += Wide(b); });
    for (int64_t i = first; how == Fold::mean && i < last; ++i)
      for (int64_t j = i * width; j < (i + 1) * width; ++j)
        out[j] = shared_out<S>(out[j], true, std::max<int64_t>(1, by.rowptr[i + 1] - by.rowptr[i]));
  }
}

// The results of the `n` pieces of a group, one after the other, into out (K,).
template <class S, class A>
void fold_pieces(const A* parts, int64_t n, int64_t width, Fold how, int64_t rows, S* out) {
  typedef std::conditional_t<std::is_integral_v<S>, uint64_t, A> Wide;
  for (int64_t j = 0; j < width; ++j) {
    Wide sum = parts[j];
    for (int64_t p = 1; p < n; ++p)
      if (how == Fold::mul) sum *= Wide(parts[p * width + j]);
      else sum += Wide(parts[p * width + j]);
    out[j] = shared_out<S>(sum, how == Fold::mean, rows);
  }
}

template <class S>
void best_integers(const Groups& by, int64_t first, int64_t last, int64_t width, bool least,
                   const S* x, S* out, int64_t* arg) {
  for (int64_t i = first; i < last; ++i) {
    const int64_t begin = by.rowptr[i], end = by.rowptr[i + 1];
    S* best = out + i * width;
    int64_t* place = arg + i * width;
    std::fill_n(place, width, begin < end ? by.row(begin) : by.rows);
    if (begin == end) std::fill_n(best, width, S(0));
    else std::copy_n(x + by.row(begin) * width, width, best);
    for (int64_t k = begin + 1; k < end; ++k) {
      const int64_t from = by.row(k);
      const S* row = x + from * width;
      for (int64_t j = 0; j < width; ++j)
        if (least ? row[j] < best[j] : row[j] > best[j]) best[j] = row[j], place[j] = from;
    }
  }
}

template <class S>
void best_range(const Groups& by, int64_t first, int64_t last, int64_t width, bool least,
                const S* x, S* out, int64_t* arg) {
  if constexpr (std::is_integral_v<S>) best_integers(by, first, last, width, least, x, out, arg);
  else MESHSIM_DISPATCH(best_groups<S>(by, first, last, width, least, x, out, arg));
}

// The best of the bests of `n` pieces of a group; NaN is best of all, the first of equals wins.
template <class S>
void best_pieces(const S* parts, const int64_t* args, int64_t n, int64_t width, bool least,
                 S* out, int64_t* arg) {
  for (int64_t j = 0; j < width; ++j) {
    int64_t best = j;
    for (int64_t p = j + width; p < n * width; p += width) {
      const Held<S> a = parts[p], b = parts[best];
      if ((least ? a < b : a > b) || (a != a && b == b)) best = p;
    }
    out[j] = parts[best], arg[j] = args[best];
  }
}

template <class S>
void spread_range(const Groups& by, int64_t first, int64_t last, int64_t width, bool mean,
                  const S* x, S* out) {
  if constexpr (!std::is_integral_v<S>) {
    MESHSIM_DISPATCH(spread_groups<S>(by, first, last, width, mean, x, out));
  } else {
    for (int64_t i = first; i < last; ++i)
      for (int64_t k = by.rowptr[i]; k < by.rowptr[i + 1]; ++k)
        std::copy_n(x + i * width, width, out + by.row(k) * width);
  }
}

}  // namespace

void fold(const Block& x, const Groups& by, Fold how, const void* from, void* out) {
  const int64_t w = x.width;
  with_number(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto in = [&](int64_t b) { return static_cast<const S*>(from) + b * x.rows * w; };
    const auto to = [&](int64_t b) { return static_cast<S*>(out) + b * by.n * w; };
    each_group(
        x, by,
        [&](int64_t b, int64_t first, int64_t last) {
          fold_range(by, first, last, w, how, in(b), to(b));
        },
        [&](int64_t b, int64_t i, const Groups& pieces) {
          const Buffer<Held<S>> parts(pieces.n * w);
          const Fold part = how == Fold::mean ? Fold::sum : how;
          each(pieces.n, [&](int64_t p) {
            fold_range(pieces, p, p + 1, w, part, in(b), parts.data);
          });
          fold_pieces(parts.data, pieces.n, w, how, by.rowptr[i + 1] - by.rowptr[i], to(b) + i * w);
        });
  });
}

void extreme(const Block& x, const Groups& by, bool least, const void* from, void* out,
             int64_t* arg) {
  const int64_t w = x.width;
  with_number(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto in = [&](int64_t b) { return static_cast<const S*>(from) + b * x.rows * w; };
    const auto to = [&](int64_t b) { return static_cast<S*>(out) + b * by.n * w; };
    each_group(
        x, by,
        [&](int64_t b, int64_t first, int64_t last) {
          best_range(by, first, last, w, least, in(b), to(b), arg + b * by.n * w);
        },
        [&](int64_t b, int64_t i, const Groups& pieces) {
          const Buffer<S> parts(pieces.n * w);
          const Buffer<int64_t> args(pieces.n * w);
          each(pieces.n, [&](int64_t p) {
            best_range(pieces, p, p + 1, w, least, in(b), parts.data, args.data);
          });
          best_pieces(parts.data, args.data, pieces.n, w, least, to(b) + i * w,
                      arg + (b * by.n + i) * w);
        });
  });
}

void spread(const Block& x, const Groups& by, bool mean, const void* from, void* out) {
  const int64_t w = x.width;
  with_number(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto in = [&](int64_t b) { return static_cast<const S*>(from) + b * by.n * w; };
    const auto to = [&](int64_t b) { return static_cast<S*>(out) + b * x.rows * w; };
    each_group(
        x, by,
        [&](int64_t b, int64_t first, int64_t last) {
          spread_range(by, first, last, w, mean, in(b), to(b));
        },
        [&](int64_t b, int64_t i, const Groups& pieces) {
          const Buffer<S> row(w);
          const int64_t rows = by.rowptr[i + 1] - by.rowptr[i];
          for (int64_t j = 0; j < w; ++j)
            row.data[j] = shared_out<S>(Held<S>(in(b)[i * w + j]), mean, rows);
          each(pieces.n, [&](int64_t p) {
            const Groups piece{1, by.rows, pieces.rowptr + p, by.pick};
            spread_range(piece, 0, 1, w, false, row.data, to(b));
          });
        });
  });
}

namespace {

struct Given : SegmentInputs {
  Groups by;

  Given(const Tensor& x_, const Tensor& rowptr_, const char* name = "x")
      : SegmentInputs(dense(x_), rowptr_, name) {
    by = {n, block.rows, rowptr.const_data_ptr<int64_t>(), nullptr};
  }

  Tensor empty() const { return fresh(x, shape_with(x, by.n)); }
};

Tensor segment_sum(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  Given in(x, rowptr);
  Tensor out = in.empty();
  if (in.block.dtype == ScalarType::Bool) {
    in.block.dtype = ScalarType::Byte;
    Buffer<int64_t> arg(in.by.n * in.block.width);
    extreme(in.block, in.by, false, in.x.const_data_ptr(), out.mutable_data_ptr(), arg.data);
    return out;
  }
  in.as_reals();
  fold(in.block, in.by, Fold::sum, in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor segment_mean(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = in.empty();
  fold(in.block, in.by, Fold::mean, in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> segment_extreme(const Tensor& x, const Tensor& rowptr, bool least) {
  Given in(x, rowptr);
  if (in.block.dtype == ScalarType::Bool) in.block.dtype = ScalarType::Byte;
  Tensor out = in.empty();
  Tensor arg = torch::stable::new_empty(in.x, shape_with(in.x, in.by.n), ScalarType::Long);
  extreme(in.block, in.by, least, in.x.const_data_ptr(), out.mutable_data_ptr(),
          arg.mutable_data_ptr<int64_t>());
  return {out, arg};
}

std::tuple<Tensor, Tensor> segment_max(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  return segment_extreme(x, rowptr, false);
}

std::tuple<Tensor, Tensor> segment_min(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  return segment_extreme(x, rowptr, true);
}

Tensor segment_softmax(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = fresh(in.x, shape_with(in.x, in.block.rows));
  softmax(in.block, in.by, in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor segment_logsumexp(Tensor x, Tensor rowptr, std::optional<Tensor>) {
  const Given in(x, rowptr);
  check_float(in.x, "x");
  Tensor out = in.empty();
  logsumexp(in.block, in.by, in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor segment_softmax_backward(Tensor grad, Tensor y, Tensor rowptr) {
  const Given in(y, rowptr, "y");
  const Tensor g = dense(grad);
  check_float(in.x, "y");
  check_alike(g, in.x, in.block.rows, "grad");
  Tensor out = fresh(in.x, shape_with(in.x, in.block.rows));
  softmax_backward(in.block, in.by, g.const_data_ptr(), in.x.const_data_ptr(),
                   out.mutable_data_ptr());
  return out;
}

Tensor segment_logsumexp_backward(Tensor grad, Tensor x, Tensor y, Tensor rowptr) {
  const Given in(x, rowptr);
  const Tensor g = dense(grad), top = dense(y);
  check_float(in.x, "x");
  check_alike(g, in.x, in.by.n, "grad");
  check_alike(top, in.x, in.by.n, "y");
  Tensor out = fresh(in.x, shape_with(in.x, in.block.rows));
  logsumexp_backward(in.block, in.by, g.const_data_ptr(), in.x.const_data_ptr(),
                     top.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor segment_spread(Tensor x, Tensor rowptr, int64_t rows, bool mean) {
  SpreadInputs in(dense(x), rowptr, rows);
  if (mean) check_float(in.x, "x");
  in.as_words();
  Tensor out = fresh(in.x, shape_with(in.x, rows));
  spread(in.block, {in.n, rows, in.rowptr.const_data_ptr<int64_t>(), nullptr}, mean,
         in.x.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

template <class S>
void place_rows(const int64_t* rowptr, int64_t first, int64_t last, int64_t width, int64_t rows,
                bool clear, const S* grad, const int64_t* arg, S* out) {
  for (int64_t i = first; i < last; ++i) {
    if (clear) std::fill(out + rowptr[i] * width, out + rowptr[i + 1] * width, S(0));
    for (int64_t j = 0; j < width; ++j) {
      const int64_t k = arg[i * width + j];
      if (k >= rowptr[i] && k < rowptr[i + 1]) out[k * width + j] = grad[i * width + j];
      else if (k != rows)
        bad_input("`arg`: row ", k, " of segment ", i, " is outside ", rowptr[i], "..",
                  rowptr[i + 1] - 1);
    }
  }
}

Tensor segment_place(Tensor x, Tensor arg, Tensor rowptr, int64_t rows) {
  const SpreadInputs in(dense(x), rowptr, rows);
  const Tensor &from = in.x, to = dense(arg);
  in.check_places(to);
  const Block& block = in.block;
  const Groups by{in.n, rows, in.rowptr.const_data_ptr<int64_t>(), nullptr};
  Tensor out = fresh(from, shape_with(from, rows));
  const auto* places = to.const_data_ptr<int64_t>();
  with_float(block.dtype, [&](auto s) {
    typedef decltype(s) S;
    const S* values = static_cast<const S*>(from.const_data_ptr());
    S* result = static_cast<S*>(out.mutable_data_ptr());
    const int64_t w = block.width;
    each_group(
        block, by,
        [&](int64_t, int64_t first, int64_t last) {
          place_rows(by.rowptr, first, last, w, rows, true, values, places, result);
        },
        [&](int64_t, int64_t i, const Groups& pieces) {
          each(pieces.n, [&](int64_t p) {
            std::fill(result + pieces.rowptr[p] * w, result + pieces.rowptr[p + 1] * w, S(0));
          });
          place_rows(by.rowptr, i, i + 1, w, rows, false, values, places, result);
        });
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("segment_sum", TORCH_BOX(&segment_sum));
  m.impl("segment_mean", TORCH_BOX(&segment_mean));
  m.impl("segment_max", TORCH_BOX(&segment_max));
  m.impl("segment_min", TORCH_BOX(&segment_min));
  m.impl("segment_softmax", TORCH_BOX(&segment_softmax));
  m.impl("segment_logsumexp", TORCH_BOX(&segment_logsumexp));
  m.impl("segment_softmax_backward", TORCH_BOX(&segment_softmax_backward));
  m.impl("segment_logsumexp_backward", TORCH_BOX(&segment_logsumexp_backward));
  m.impl("segment_spread", TORCH_BOX(&segment_spread));
  m.impl("segment_place", TORCH_BOX(&segment_place));
}

}  // namespace meshsim
