// Reductions of rows by an index that need not be sorted, see meshsim/ops/scatter.py.
#include "segment/inputs.h"

namespace meshsim {
namespace {

struct Given : ScatterInputs {
  const int64_t* to;
  bool sorted;

  Given(const Tensor& src_, const Tensor& index_, int64_t n_, const char* name = "src")
      : ScatterInputs(dense(src_), index_, n_, name), to(index.const_data_ptr<int64_t>()),
        sorted(true) {
    for (int64_t e = 1; e < block.rows; ++e) sorted &= to[e - 1] <= to[e];
    if (!sorted || (block.rows && (to[0] < 0 || to[block.rows - 1] >= n)))
      check_index(index, n, "index");
  }

  Tensor groups() const { return fresh(src, {block.batch, n, block.width}); }
  Tensor rows() const { return fresh(src, {block.batch, block.rows, block.width}); }

  // Data of `x`, which must look like `src` with `length` rows.
  const void* alike(const Tensor& x, int64_t length, const char* name) const {
    check_alike(x, length, name);
    return x.const_data_ptr();
  }
};

// The rows by group: a counting sort, which keeps their order within a group.
struct Sorted {
  Buffer<int64_t> rowptr, pick;
  Groups by;

  explicit Sorted(const Given& in) : rowptr(in.n + 1), pick(in.sorted ? 0 : in.block.rows) {
    int64_t* start = rowptr.data;
    std::fill_n(start, in.n + 1, 0);
    if (in.sorted) {
      int64_t next = 0;
      for (int64_t e = 0; e < in.block.rows; ++e)
        while (next <= in.to[e]) start[next++] = e;
      while (next <= in.n) start[next++] = in.block.rows;
    } else {
      for (int64_t e = 0; e < in.block.rows; ++e) ++start[in.to[e]];
      int64_t sum = 0;
      for (int64_t i = 0; i <= in.n; ++i) {
        const int64_t count = start[i];
        start[i] = sum;
        sum += count;
      }
      for (int64_t e = 0; e < in.block.rows; ++e) pick.data[start[in.to[e]]++] = e;
      for (int64_t i = in.n; i > 0; --i) start[i] = start[i - 1];  // each had moved to its end
      start[0] = 0;
    }
    by = {in.n, in.block.rows, start, in.sorted ? nullptr : pick.data};
  }
};

// Adds rows where they belong, one after the other: for few or narrow rows quicker than sorting,
// with the same order of additions.
template <int fixed, class A, class S>
void add_rows(const Given& in, int64_t width, const S* src, A* out) {
  const int64_t w = fixed ? fixed : width;
  for (int64_t e = 0; e < in.block.rows; ++e) {
    A* sum = out + in.to[e] * w;
    for (int64_t j = 0; j < w; ++j) sum[j] += A(src[e * w + j]);
  }
}

template <class S>
void add_directly(const Given& in, bool mean, const S* src, S* out) {
  typedef std::conditional_t<sizeof(S) == 2, float, S> A;
  const int64_t width = in.block.width, size = in.n * width;
  std::vector<int64_t> count(mean ? in.n : 0);
  if (mean)
    for (int64_t e = 0; e < in.block.rows; ++e) ++count[in.to[e]];
  each(in.block.batch, [&](int64_t b) {
    const S* from = src + b * in.block.rows * width;
    S* to = out + b * size;
    const bool apart = sizeof(A) != sizeof(S);
    const Buffer<A> room(apart ? size : 0);
    A* sum = apart ? room.data : reinterpret_cast<A*>(to);
    std::fill_n(sum, size, A(0));
    switch (width) {
      case 1: add_rows<1>(in, width, from, sum); break;
      case 2: add_rows<2>(in, width, from, sum); break;
      case 3: add_rows<3>(in, width, from, sum); break;
      case 4: add_rows<4>(in, width, from, sum); break;
      case 8: add_rows<8>(in, width, from, sum); break;
      default: add_rows<0>(in, width, from, sum);
    }
    for (int64_t i = 0; mean && i < in.n; ++i)
      if (count[i] > 1)
        for (int64_t j = i * width; j < (i + 1) * width; ++j) sum[j] /= A(count[i]);
    if (apart) std::copy_n(sum, size, to);
  });
}

bool better_directly(const Given& in) {
  return is_float(in.block.dtype) && (in.block.rows * in.block.width <= 4096 ||
                                      in.block.width <= (in.sorted ? 1 : 8));
}

Tensor scatter_fold(const Given& in, Fold how) {
  Tensor out = in.groups();
  if (how != Fold::mul && better_directly(in)) {
    with_float(in.block.dtype, [&](auto s) {
      typedef decltype(s) S;
      add_directly(in, how == Fold::mean, static_cast<const S*>(in.src.const_data_ptr()),
                   static_cast<S*>(out.mutable_data_ptr()));
    });
    return out;
  }
  fold(in.block, Sorted(in).by, how, in.src.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> scatter_extreme(const Given& in, bool least) {
  Tensor out = in.groups();
  Tensor arg = torch::stable::new_empty(
      in.src, {in.block.batch, in.n, in.block.width}, ScalarType::Long);
  extreme(in.block, Sorted(in).by, least, in.src.const_data_ptr(), out.mutable_data_ptr(),
          arg.mutable_data_ptr<int64_t>());
  return {out, arg};
}

Tensor scatter_sum(Tensor src, Tensor index, int64_t n) {
  return scatter_fold({src, index, n}, Fold::sum);
}

Tensor scatter_mean(Tensor src, Tensor index, int64_t n) {
  return scatter_fold({src, index, n}, Fold::mean);
}

Tensor scatter_mul(Tensor src, Tensor index, int64_t n) {
  return scatter_fold({src, index, n}, Fold::mul);
}

std::tuple<Tensor, Tensor> scatter_max(Tensor src, Tensor index, int64_t n) {
  return scatter_extreme({src, index, n}, false);
}

std::tuple<Tensor, Tensor> scatter_min(Tensor src, Tensor index, int64_t n) {
  return scatter_extreme({src, index, n}, true);
}

Tensor scatter_softmax(Tensor src, Tensor index, int64_t n) {
  const Given in(src, index, n);
  check_float(in.src, "src");
  Tensor out = in.rows();
  softmax(in.block, Sorted(in).by, in.src.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor scatter_softmax_backward(Tensor grad, Tensor y, Tensor index, int64_t n) {
  const Given in(y, index, n, "y");
  const Tensor g = dense(grad);
  check_float(in.src, "y");
  Tensor out = in.rows();
  softmax_backward(in.block, Sorted(in).by, in.alike(g, in.block.rows, "grad"),
                   in.src.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor scatter_logsumexp(Tensor src, Tensor index, int64_t n) {
  const Given in(src, index, n);
  check_float(in.src, "src");
  Tensor out = in.groups();
  logsumexp(in.block, Sorted(in).by, in.src.const_data_ptr(), out.mutable_data_ptr());
  return out;
}

Tensor scatter_logsumexp_backward(Tensor grad, Tensor src, Tensor y, Tensor index) {
  const Tensor g = dense(grad), top = dense(y);
  const Given in(src, index, y.dim() == 3 ? y.size(1) : 0);
  check_float(in.src, "src");
  Tensor out = in.rows();
  logsumexp_backward(in.block, Sorted(in).by, in.alike(g, in.n, "grad"), in.src.const_data_ptr(),
                     in.alike(top, in.n, "y"), out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("scatter_sum", TORCH_BOX(&scatter_sum));
  m.impl("scatter_mean", TORCH_BOX(&scatter_mean));
  m.impl("scatter_mul", TORCH_BOX(&scatter_mul));
  m.impl("scatter_max", TORCH_BOX(&scatter_max));
  m.impl("scatter_min", TORCH_BOX(&scatter_min));
  m.impl("scatter_softmax", TORCH_BOX(&scatter_softmax));
  m.impl("scatter_logsumexp", TORCH_BOX(&scatter_logsumexp));
  m.impl("scatter_softmax_backward", TORCH_BOX(&scatter_softmax_backward));
  m.impl("scatter_logsumexp_backward", TORCH_BOX(&scatter_logsumexp_backward));
}

}  // namespace meshsim
