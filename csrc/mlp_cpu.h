// What the edge and node blocks share on the side of tensors.
#pragma once

#include "common.h"

namespace meshsim {

constexpr int64_t max_layers = 4;
constexpr int64_t tile_rows = 96;  // a multiple of matmul.h's `tall`, and of AMX's 16

template <class T>
constexpr ScalarType dtype_of() {
  return sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float;
}

[[noreturn]] inline void bad_dtype(const Tensor& x, const char* name) {
  bad_input("`", name, "`: expected float32 or float64, got ",
            torch::headeronly::toString(x.scalar_type()));
}

inline bool is_silu(const std::string& activation) {
  if (activation != "relu" && activation != "silu")
    bad_input("`activation`: expected relu or silu, got ", activation);
  return activation == "silu";
}

inline int64_t check_width(const Tensor& x, const char* name) {
  check_device(x, name);
  check_shape(x, -1, -1, name);
  const int64_t width = x.size(1);
  if (width == 0 || width % 16)
    bad_input("`", name, "`: expected a width that is a multiple of 16, got ", width);
  return width;
}

inline int64_t check_weight(const Tensor& weight, int64_t width, int64_t low, int64_t high,
                            const char* name) {
  if (weight.dim() != 3 || weight.size(1) != width || weight.size(2) != width ||
      weight.size(0) < low || weight.size(0) > high)
    bad_input("`", name, "`: expected shape (", low, " to ", high, ", ", width, ", ", width,
              "), got ", shape_of(weight));
  return weight.size(0);
}

inline void check_like(const Tensor& x, const Tensor& other, const char* name) {
  check_device(x, name, other);
  check_dtype(x, other.scalar_type(), name);
}

// Room for packed weights: plain ones, or bfloat16 ones for AMX; `both` for backward products too.
template <class T>
struct Packed {
  bool half;
  int64_t size, size16;
  Buffer<T> plain;
  Buffer<uint16_t> rounded;

  Packed(int64_t count, int64_t width, bool bf16, bool both)
      : half(bf16 && sizeof(T) == 4 && isa() == Isa::amx), size(count * width * width),
        size16(count * width * ((width + 31) / 32 * 32)), plain(half ? 0 : size * (1 + both)),
        rounded(half ? size16 * (1 + both) : 0) {}

  T* weights(int back) { return half ? nullptr : plain.data + back * size; }
  uint16_t* weights16(int back) { return half ? rounded.data + back * size16 : nullptr; }
};

// Sums of `n` lists of `size` numbers, one list after the other in their order, into the first:
// the same bits whatever the number of threads.
template <class T>
void add_lists(T* lists, int64_t n, int64_t size) {
  each((size + 1023) / 1024, [&](int64_t i) {
    const int64_t first = 1024 * i, last = std::min(size, first + 1024);
    if (n == 0) std::fill(lists + first, lists + last, T(0));
    for (int64_t r = 1; r < n; ++r)
      for (int64_t j = first; j < last; ++j) lists[j] += lists[r * size + j];
  });
}

}  // namespace meshsim
