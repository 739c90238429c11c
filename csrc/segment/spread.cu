// The rows of lists to their entries on CUDA, see meshsim/ops/segment.py.
#include "segment/rows.h"

namespace meshsim {
namespace {

template <class S, int V, bool mean>
struct Spread {
  struct Where {
    Columns at;
    Pack<S, V> value;
  };
  typedef Nothing State;
  static constexpr bool reduces = false, applies = true;
  static constexpr int resident = 3;
  Layout in;
  int lanes;
  const int64_t* ptr;
  const S* x;
  S* out;

  __device__ Where where(int64_t list, int tile, int lane) const {
    Where where{in.columns<V>(list, tile, lane, lanes)};
    if (where.at.inside) where.value = get<V>(x + where.at.lists);
    if constexpr (mean) {
      typedef computed<S> A;
      const A rows = A(ptr[list + 1] - ptr[list]);
      for (int v = 0; v < V; ++v) where.value.at[v] = S(A(where.value.at[v]) / rows);
    }
    return where;
  }
  __device__ State none() const { return {}; }
  __device__ void apply(const State&, const Where& where, int64_t k, int64_t end, int step) const {
    if (!where.at.inside) return;
    for (; k < end; k += step) put<V>(out + where.at.rows + in.row(k) * in.width, where.value);
  }
};

template <class S>
struct Place {
  struct Where {
    Columns at;
    S value;
    int64_t arg;
  };
  typedef Nothing State;
  static constexpr bool reduces = false, applies = true;
  static constexpr int resident = 3;
  Layout in;
  int lanes;
  const S* x;
  const int64_t* arg;
  S* out;

  __device__ Where where(int64_t list, int tile, int lane) const {
    const Columns at = in.columns<1>(list, tile, lane, lanes);
    if (!at.inside) return {at, S(0), -1};
    return {at, x[at.lists], arg[at.lists]};
  }
  __device__ State none() const { return {}; }
  __device__ void apply(const State&, const Where& where, int64_t k, int64_t end, int step) const {
    if (!where.at.inside) return;
    for (; k < end; k += step) {
      const int64_t row = in.row(k);
      out[where.at.rows + row * in.width] = row == where.arg ? where.value : S(0);
    }
  }
};

template <class S, bool mean>
void run(const Tensor& like, const RowLists& of, const void* from, void* out) {
  with_pack<S>(of.block.width, [&](auto pack) {
    constexpr int V = decltype(pack)::value;
    Spread<S, V, mean> op{};
    op.ptr = of.ptr;
    op.x = static_cast<const S*>(from);
    op.out = static_cast<S*>(out);
    over_rows<V>(like, of, op);
  });
}

int bytes_of(ScalarType dtype) {
  int bytes = 0;
  const auto count = [&](auto s) { bytes = sizeof(s); };
  if (is_float(dtype)) with_float(dtype, count);
  else with_integer(dtype, count);
  return bytes;
}

}  // namespace

void spread(const Tensor& like, const RowLists& of, bool mean, const void* from, void* out) {
  if (mean)
    return with_float(of.block.dtype,
                      [&](auto s) { run<decltype(s), true>(like, of, from, out); });
  switch (bytes_of(of.block.dtype)) {
    case 1: return run<uint8_t, false>(like, of, from, out);
    case 2: return run<uint16_t, false>(like, of, from, out);
    case 4: return run<uint32_t, false>(like, of, from, out);
    default: return run<uint64_t, false>(like, of, from, out);
  }
}

void place(const Tensor& like, const RowLists& of, const void* from, const int64_t* arg,
           void* out) {
  with_float(of.block.dtype, [&](auto s) {
    Place<decltype(s)> op{};
    op.x = static_cast<decltype(s) const*>(from);
    op.arg = arg;
    op.out = static_cast<decltype(s)*>(out);
    over_rows<1>(like, of, op);
  });
}

}  // namespace meshsim
