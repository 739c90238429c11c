// What the operators on points and cells share. Include it first: from here on no product and sum
// become one rounding, or processors would disagree about points on a boundary.
#pragma once

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "common.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace meshsim {

template <class T>
void check_finite(const Tensor& x, const char* name) {
  const T* p = x.const_data_ptr<T>();
  const int64_t n = x.numel();
  T sums[8] = {}, sum = 0;  // 0 · x is no number but for finite x
  int64_t done = 0;
  for (; done + 8 <= n; done += 8)
    for (int k = 0; k < 8; ++k) sums[k] += T(0) * p[done + k];
  for (; done < n; ++done) sum += T(0) * p[done];
  for (const T part : sums) sum += part;
  if (sum == T(0)) return;
  for (int64_t i = 0; i < n; ++i)
    if (!std::isfinite(p[i]))
      bad_input("`", name, "`: expected finite coordinates, got ", p[i], " at row ",
                i / x.size(1));
}

// Offsets of batches, 0 and n where there is one.
inline std::vector<int64_t> offsets_of(const std::optional<Tensor>& batch, int64_t n,
                                       const char* name) {
  if (!batch) return {0, n};
  const Tensor rowptr = dense(*batch);
  check_rowptr(rowptr, n, name);
  const int64_t* p = rowptr.const_data_ptr<int64_t>();
  return {p, p + rowptr.size(0)};
}

// A new tensor of int64, not set.
inline Tensor integers(const std::vector<int64_t>& shape) {
  Tensor out = torch::stable::empty(shape, ScalarType::Long);
  large_pages(out.mutable_data_ptr<int64_t>(), out.numel() * sizeof(int64_t));
  return out;
}

// Pieces of a long list that threads take side by side; few enough to count in each.
inline int64_t pieces_of(int64_t n) {
  return std::max<int64_t>(1, std::min<int64_t>(torch::stable::get_num_threads(), n >> 14));
}

struct Keyed {
  uint64_t key;
  int64_t id;
};

// By key, equal ones as they came: eleven bits at a time, the pieces of the list side by side.
inline void sort_by_key(std::vector<Keyed>& items) {
  const int64_t n = items.size(), pieces = pieces_of(n);
  const auto from = [&](int64_t p) { return n * p / pieces; };
  uint64_t differ = 0;
  for (const Keyed& item : items) differ |= item.key ^ items[0].key;
  std::vector<Keyed> spare(differ ? n : 0);
  std::vector<std::array<int64_t, 2048>> places(pieces);
  for (int shift = 0; shift < 64; shift += 11) {
    if (!(differ >> shift & 2047)) continue;
    each(pieces, [&](int64_t p) {
      places[p].fill(0);
      for (int64_t i = from(p); i < from(p + 1); ++i) ++places[p][items[i].key >> shift & 2047];
    });
    int64_t place = 0;
    for (int digit = 0; digit < 2048; ++digit)
      for (auto& counts : places) place += std::exchange(counts[digit], place);
    each(pieces, [&](int64_t p) {
      auto& to = places[p];
      for (int64_t i = from(p); i < from(p + 1); ++i)
        spare[to[items[i].key >> shift & 2047]++] = items[i];
    });
    items.swap(spare);
  }
}

}  // namespace meshsim
