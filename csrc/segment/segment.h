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

// Calls work(b, first, last) for ranges of groups of about equal numbers of values. The ranges
// depend on the groups alone, never on the number of threads.
template <class Work>
void each_range(const Block& x, const Groups& by, const Work& work) {
  constexpr int64_t values = 1 << 16;
  const int64_t total = by.n + by.rowptr[by.n];  // an empty group costs something, too
  const int64_t step = std::max<int64_t>(1, values / std::max<int64_t>(1, x.width));
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

}  // namespace meshsim
