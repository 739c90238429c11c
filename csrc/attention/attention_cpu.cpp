// Attention over the entries of CSR rows, see meshsim/ops/attention.py.
#include "attention/inputs.h"

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

struct Given : AttentionInputs {
  using AttentionInputs::AttentionInputs;

  template <class S>
  Attention<S> as() const {
    return {rows, columns, entries, heads, width / heads, scale, q.const_data_ptr<S>(),
            k.const_data_ptr<S>(), v.const_data_ptr<S>(),
            bias ? bias->const_data_ptr<S>() : nullptr, q.stride(0), k.stride(0), v.stride(0),
            rowptr.const_data_ptr<int64_t>(), col.const_data_ptr<int64_t>()};
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

template <class S>
std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Given& in,
                                                    const AttentionGradients& grads) {
  typedef Wide<S> A;
  Tensor d_q = torch::stable::new_empty(in.q, {in.rows, in.width});
  Tensor d_k = torch::stable::new_empty(in.q, {in.columns, in.width});
  Tensor d_v = torch::stable::new_empty(in.q, {in.columns, in.width});
  Tensor d_bias = torch::stable::new_empty(in.q, {in.bias ? in.entries : 0, in.heads});
  const Attention<S> given = in.as<S>();
  const Buffer<int64_t> row(in.entries);
  for (int64_t i = 0; i < in.rows; ++i)
    for (int64_t e = given.rowptr[i]; e < given.rowptr[i + 1]; ++e) row.data[e] = i;
  const Gradient<S> of{grads.out.const_data_ptr<S>(),
                       grads.lse_grad.const_data_ptr<A>(),
                       grads.lse.const_data_ptr<A>(),
                       grads.colptr.const_data_ptr<int64_t>(),
                       grads.eperm.const_data_ptr<int64_t>(),
                       row.data};
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
  const AttentionGradients grads(in, grad_out, grad_lse, lse, colptr, eperm);
  return in.typed([&](auto s) { return backward<decltype(s)>(in, grads); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("csr_attention", TORCH_BOX(&csr_attention));
  m.impl("csr_attention_backward", TORCH_BOX(&csr_attention_backward));
}

}  // namespace meshsim
