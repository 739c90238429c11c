// What segment reductions and scatters share: groups of rows, and loops over them in chunks.
#pragma once

#include "common.h"

namespace meshsim {

// n groups of rows: group i is rows rowptr[i] … rowptr[i + 1] − 1 of a list, which is `pick`, or
// the rows themselves in order.
struct Groups {
  int64_t n, rows;
  const int64_t* rowptr;
  const int64_t* pick;

  int64_t row(int64_t k) const { return pick ? pick[k] : k; }
};

enum class Fold { sum, mean, mul };

// (B, E, K) rows; their groups are the same for every one of the B.
struct Block {
  int64_t batch, rows, width;
  ScalarType dtype;
};

// out (B, n, K); arg the row that it comes from, `rows` for an empty group.
void fold(const Block& x, const Groups& by, Fold how, const void* from, void* out);
void extreme(const Block& x, const Groups& by, bool least, const void* from, void* out,
             int64_t* arg);
void softmax(const Block& x, const Groups& by, const void* from, void* out);
void softmax_backward(const Block& x, const Groups& by, const void* grad, const void* y,
                      void* out);
void logsumexp(const Block& x, const Groups& by, const void* from, void* out);
void logsumexp_backward(const Block& x, const Groups& by, const void* grad, const void* from,
                        const void* y, void* out);
// out (B, E, K): each row its group's, for the mean divided by the number of rows.
void spread(const Block& x, const Groups& by, bool mean, const void* from, void* out);

inline bool is_float(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double ||
         dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
}

inline void check_float(const Tensor& x, const char* name) {
  if (!is_float(x.scalar_type()))
    bad_input("`", name, "`: expected float32, float64, bfloat16 or float16, got ",
              torch::headeronly::toString(x.scalar_type()));
}

inline int64_t rows_at_once(int64_t width) {
  return std::max<int64_t>(1, (1 << 16) / std::max<int64_t>(1, width));
}

// Calls work(b, first, last) for ranges of groups of about equal numbers of values. The ranges
// depend on the groups alone, never on the number of threads.
template <class Work>
void each_range(const Block& x, const Groups& by, const Work& work) {
  const int64_t total = by.n + by.rowptr[by.n];  // an empty group costs something, too
  const int64_t step = rows_at_once(x.width);
  const int64_t ranges = (total + step - 1) / step;
  const auto start = [&](int64_t r) {  // the first group i with i + rowptr[i] ≥ r · step
    int64_t low = 0, high = by.n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (middle + by.rowptr[middle] < r * step) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  each(x.batch * ranges, [&](int64_t i) {
    const int64_t r = i % ranges, first = start(r), last = r + 1 < ranges ? start(r + 1) : by.n;
    if (first < last) work(i / ranges, first, last);
  });
}

// The same, but for long groups, which threads share: shared(b, i, pieces) is given the pieces of
// group i, cut by its length alone, as groups of the same rows.
template <class Work, class Shared>
void each_group(const Block& x, const Groups& by, const Work& work, const Shared& shared) {
  const int64_t piece = rows_at_once(x.width), most = 4 * piece;
  std::vector<int64_t> large;
  for (int64_t i = 0; by.rowptr[by.n] > most && i < by.n; ++i)
    if (by.rowptr[i + 1] - by.rowptr[i] > most) large.push_back(i);
  each_range(x, by, [&](int64_t b, int64_t first, int64_t last) {
    for (auto i = std::lower_bound(large.begin(), large.end(), first);
         i != large.end() && *i < last; ++i) {
      if (first < *i) work(b, first, *i);
      first = *i + 1;
    }
    if (first < last) work(b, first, last);
  });
  for (int64_t i : large) {
    std::vector<int64_t> cuts;
    for (int64_t k = by.rowptr[i]; k < by.rowptr[i + 1]; k += piece) cuts.push_back(k);
    const int64_t pieces = cuts.size();
    cuts.push_back(by.rowptr[i + 1]);
    for (int64_t b = 0; b < x.batch; ++b)
      shared(b, i, Groups{pieces, by.rows, cuts.data(), by.pick});
  }
}

// A tensor with nothing in it yet, of the type of `like`.
inline Tensor fresh(const Tensor& like, const std::vector<int64_t>& shape) {
  Tensor out = torch::stable::new_empty(like, shape);
  large_pages(out.mutable_data_ptr(), out.numel() * out.element_size(), 16);
  return out;
}

// In what numbers of type S are accumulated.
template <class S>
using Held = std::conditional_t<std::is_same_v<S, BFloat16> || std::is_same_v<S, Half>, float, S>;

// Calls work(S{}) with S the type of the numbers.
template <class Work>
void with_float(ScalarType dtype, const Work& work) {
  switch (dtype) {
    case ScalarType::Float: return work(float{});
    case ScalarType::Double: return work(double{});
    case ScalarType::BFloat16: return work(BFloat16{});
    case ScalarType::Half: return work(Half{});
    default: bad_input("`x`: expected float32, float64, bfloat16 or float16, got ",
                       torch::headeronly::toString(dtype));
  }
}

template <class Work>
void with_integer(ScalarType dtype, const Work& work) {
  switch (dtype) {
    case ScalarType::Long: return work(int64_t{});
    case ScalarType::Int: return work(int32_t{});
    case ScalarType::Short: return work(int16_t{});
    case ScalarType::Char: return work(int8_t{});
    case ScalarType::Byte: return work(uint8_t{});
    default: bad_input("`x`: expected floating point or integers, got ",
                       torch::headeronly::toString(dtype));
  }
}

template <class Work>
void with_number(ScalarType dtype, const Work& work) {
  if (is_float(dtype)) with_float(dtype, work);
  else with_integer(dtype, work);
}

}  // namespace meshsim
