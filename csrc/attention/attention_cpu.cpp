// Attention over the entries of CSR rows, see meshsim/ops/attention.py.
#include "common.h"

namespace meshsim {

// Numbers are stored as S and held as float or double; rows of q, k and v lie a stride apart.
template <class S>
struct Attention {
  int64_t rows, columns, entries, heads, depth;
  double scale;
  const S *q, *k, *v, *bias;  // bias: (E, heads) or none
  int64_t q_stride, k_stride, v_stride;
  const int64_t *rowptr, *col;
};

template <class S>
using Wide = std::conditional_t<sizeof(S) == 8, double, float>;

template <class S>
struct Gradient {
  const S* out;                      // (N, heads · depth)
  const Wide<S>*lse_grad, *lse;      // (N, heads)
  const int64_t *colptr, *eperm, *row;  // entries by column; the row of each entry
};

constexpr int64_t tile = 256;  // entries of a column taken together

}  // namespace meshsim

#define MESHSIM_KERNELS "attention/attention_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

// Checks every argument; nothing is read out of bounds after it.
struct Given {
  Tensor q, k, v, rowptr, col;
  std::optional<Tensor> bias;
  int64_t rows, columns, entries, heads, width;
  double scale;

  Given(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& rowptr_,
        const Tensor& col_, const std::optional<Tensor>& bias_, int64_t heads_, double scale_)
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
    check_cpu(x, name);
    check_dtype(x, q.scalar_type(), name);
  }

  static Tensor lined(const Tensor& x, const char* name) {
    check_cpu(x, name);
    check_shape(x, -1, -1, name);
    return x.stride(1) == 1 && x.stride(0) >= x.size(1) ? x : dense(x);
  }

  template <class S>
  Attention<S> as() const {
    return {rows, columns, entries, heads, width / heads, scale, q.const_data_ptr<S>(),
            k.const_data_ptr<S>(), v.const_data_ptr<S>(),
            bias ? bias->const_data_ptr<S>() : nullptr, q.stride(0), k.stride(0), v.stride(0),
            rowptr.const_data_ptr<int64_t>(), col.const_data_ptr<int64_t>()};
  }

  // Calls work(S{}) with S the type of the numbers.
  template <class Work>
  auto typed(const Work& work) const {
    switch (q.scalar_type()) {
      case ScalarType::Float: return work(float{});
      case ScalarType::Double: return work(double{});
      case ScalarType::BFloat16: return work(BFloat16{});
      default: bad_input("`q`: expected float32, float64 or bfloat16, got ",
                         torch::headeronly::toString(q.scalar_type()));
    }
  }
};

// Ranges of lists with about 1024 entries each, the same whatever the number of threads.
std::vector<int64_t> ranges(const int64_t* ptr, int64_t n) {
  std::vector<int64_t> out{0};
  for (int64_t i = 1; i < n; ++i)
    if (ptr[i] + i - ptr[out.back()] - out.back() >= 1024) out.push_back(i);
  if (n) out.push_back(n);
  return out;
}

// Calls work(room) with room for n numbers; much of it is not kept.
template <class A, class Work>
void with_room(int64_t n, const Work& work) {
  if (n <= 1 << 18) return work(thread_scratch<A>(n));
  const Buffer<A> room(n);
  work(room.data);
}

int64_t longest(const int64_t* ptr, int64_t first, int64_t last) {
  int64_t most = 0;
  for (int64_t i = first; i < last; ++i) most = std::max(most, ptr[i + 1] - ptr[i]);
  return most;
}

template <class S>
ScalarType wide_dtype() {
  return sizeof(S) == 8 ? ScalarType::Double : ScalarType::Float;
}

template <class S>
S* data_of(Tensor& x) {
  return x.mutable_data_ptr<S>();
}

template <class S>
std::tuple<Tensor, Tensor> forward(const Given& in) {
  typedef Wide<S> A;
  Tensor out = torch::stable::new_empty(in.q, {in.rows, in.width});
  Tensor lse = torch::stable::new_empty(in.q, {in.rows, in.heads}, wide_dtype<S>());
  const Attention<S> given = in.as<S>();
  S* to = data_of<S>(out);
  A* to_lse = data_of<A>(lse);
  const auto parts = ranges(given.rowptr, in.rows);
  each(static_cast<int64_t>(parts.size()) - 1, [&](int64_t i) {
    const int64_t first = parts[i], last = parts[i + 1];
    const int64_t most = longest(given.rowptr, first, last);
    with_room<A>(in.heads * (most + 1) + in.width, [&](A* room) {
      MESHSIM_DISPATCH(attention_rows<S>(given, first, last, room, to, to_lse));
    });
  });
  return {out, lse};
}

// That colptr and eperm list every entry once, by column.
void check_columns(const Given& in, const Tensor& colptr, const Tensor& eperm) {
  check_rowptr(colptr, in.entries, "colptr");
  if (colptr.size(0) != in.columns + 1)
    bad_input("`colptr`: expected shape (", in.columns + 1, "), got ", shape_of(colptr));
  check_shape(eperm, in.entries, 0, "eperm");
  check_index(eperm, in.entries, "eperm");
  const auto *p = colptr.const_data_ptr<int64_t>(), *e = eperm.const_data_ptr<int64_t>();
  const auto* col = in.col.const_data_ptr<int64_t>();
  for (int64_t j = 0; j < in.columns; ++j)
    for (int64_t t = p[j]; t < p[j + 1]; ++t)
      if (col[e[t]] != j || (t > p[j] && e[t] <= e[t - 1]))
        bad_input("`eperm`: expected the entries of column ", j, ", rising, got ", e[t],
                  " at place ", t);
}

template <class S>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Given& in, const Tensor& grad_out,
                                                    const Tensor& grad_lse, const Tensor& lse,
                                                    const Tensor& colptr, const Tensor& eperm) {
  typedef Wide<S> A;
  in.same(grad_out, "grad_out");
  check_shape(grad_out, in.rows, in.width, "grad_out");
  for (const auto& [x, name] : {std::pair{&grad_lse, "grad_lse"}, std::pair{&lse, "lse"}}) {
    check_cpu(*x, name);
    check_dtype(*x, wide_dtype<S>(), name);
    check_shape(*x, in.rows, in.heads, name);
  }
  Tensor d_q = torch::stable::new_empty(in.q, {in.rows, in.width});
  Tensor d_k = torch::stable::new_empty(in.q, {in.columns, in.width});
  Tensor d_v = torch::stable::new_empty(in.q, {in.columns, in.width});
  Tensor d_bias = torch::stable::new_empty(in.q, {in.bias ? in.entries : 0, in.heads});
  const Attention<S> given = in.as<S>();
  const Buffer<int64_t> row(in.entries);
  for (int64_t i = 0; i < in.rows; ++i)
    for (int64_t e = given.rowptr[i]; e < given.rowptr[i + 1]; ++e) row.data[e] = i;
  const Gradient<S> of{grad_out.const_data_ptr<S>(),     grad_lse.const_data_ptr<A>(),
                       lse.const_data_ptr<A>(),          colptr.const_data_ptr<int64_t>(),
                       eperm.const_data_ptr<int64_t>(), row.data};
  const Buffer<A> p(in.entries * in.heads), ds(in.entries * in.heads);
  S *to_q = data_of<S>(d_q), *to_bias = in.bias ? data_of<S>(d_bias) : nullptr;
  const auto parts = ranges(given.rowptr, in.rows);
  each(static_cast<int64_t>(parts.size()) - 1, [&](int64_t i) {
    A* room = thread_scratch<A>(in.width);
    MESHSIM_DISPATCH(attention_rows_backward<S>(given, of, parts[i], parts[i + 1], room, p.data,
                                                ds.data, to_q, to_bias));
  });
  S *to_k = data_of<S>(d_k), *to_v = data_of<S>(d_v);
  const auto columns = ranges(of.colptr, in.columns);
  each(static_cast<int64_t>(columns.size()) - 1, [&](int64_t j) {
    const int64_t size = 2 * in.width + 2 * tile * in.heads;
    A* room = thread_scratch<A>(size + tile * sizeof(int64_t) / sizeof(A) + 2);
    auto* rows = reinterpret_cast<int64_t*>(room + (size + 1) / 2 * 2);
    MESHSIM_DISPATCH(attention_columns_backward<S>(given, of, columns[j], columns[j + 1], room,
                                                   rows, p.data, ds.data, to_k, to_v));
  });
  return {d_q, d_k, d_v, d_bias};
}

// colptr and eperm are for the gradient alone.
std::tuple<Tensor, Tensor> csr_attention(Tensor q, Tensor k, Tensor v, Tensor rowptr, Tensor col,
                                         Tensor, Tensor, std::optional<Tensor> bias, int64_t heads,
                                         double scale) {
  const Given in(q, k, v, rowptr, col, bias, heads, scale);
  return in.typed([&](auto s) { return forward<decltype(s)>(in); });
}

std::tuple<Tensor, Tensor, Tensor, Tensor> csr_attention_backward(
    Tensor grad_out, Tensor grad_lse, Tensor q, Tensor k, Tensor v, Tensor rowptr, Tensor col,
    Tensor colptr, Tensor eperm, std::optional<Tensor> bias, Tensor lse, int64_t heads,
    double scale) {
  const Given in(q, k, v, rowptr, col, bias, heads, scale);
  const Tensor by_column = dense(colptr), entries = dense(eperm);
  check_columns(in, by_column, entries);
  return in.typed([&](auto s) {
    return backward<decltype(s)>(in, dense(grad_out), dense(grad_lse), dense(lse), by_column,
                                 entries);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("csr_attention", TORCH_BOX(&csr_attention));
  m.impl("csr_attention_backward", TORCH_BOX(&csr_attention_backward));
}

}  // namespace meshsim
