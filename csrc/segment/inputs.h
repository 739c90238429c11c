// What reductions of segments and scatters are given, checked, for the kernels of the CPU, which
// read nothing out of bounds after it, and for those of a GPU, which guard what is not read here.
#pragma once

#include "segment/segment.h"

namespace meshsim {

inline int64_t width_of(const Tensor& x) {
  int64_t width = 1;
  for (int64_t i = 1; i < x.dim(); ++i) width *= x.size(i);
  return width;
}

inline std::vector<int64_t> shape_with(const Tensor& x, int64_t rows) {
  std::vector<int64_t> shape(x.dim());
  for (int64_t i = 0; i < x.dim(); ++i) shape[i] = i ? x.size(i) : rows;
  return shape;
}

// x (E, …), the `name` of the operator, as its kernels want it in memory, and rowptr (N + 1,).
struct SegmentInputs {
  Tensor x, rowptr;
  Block block;
  int64_t n;

  SegmentInputs(const Tensor& x_, const Tensor& rowptr_, const char* name)
      : x(x_), rowptr(dense(rowptr_)) {
    check_device(x, name);
    check_device(rowptr, "rowptr", x);
    if (x.dim() == 0) bad_input("`", name, "`: expected shape (E, ...), got ()");
    block = {1, x.size(0), width_of(x), x.scalar_type()};
    check_rowptr(rowptr, block.rows);
    n = rowptr.size(0) - 1;
  }

  // Sums of truth values are «any», sums of complex numbers those of their two parts.
  void as_reals() {
    if (block.dtype == ScalarType::ComplexFloat || block.dtype == ScalarType::ComplexDouble) {
      block.dtype =
          block.dtype == ScalarType::ComplexFloat ? ScalarType::Float : ScalarType::Double;
      block.width *= 2;
    }
  }
};

// The other way, from segments to `rows` rows: x (N, …) and rowptr (N + 1,).
struct SpreadInputs {
  Tensor x, rowptr;
  Block block;
  int64_t n;

  SpreadInputs(const Tensor& x_, const Tensor& rowptr_, int64_t rows)
      : x(x_), rowptr(dense(rowptr_)) {
    check_device(x, "x");
    check_device(rowptr, "rowptr", x);
    check_rowptr(rowptr, rows);
    n = rowptr.size(0) - 1;
    if (x.dim() == 0 || x.size(0) != n)
      bad_input("`x`: expected ", n, " rows (one for each segment), got ", shape_of(x));
    block = {1, rows, width_of(x), x.scalar_type()};
  }

  // For what is moved and not reckoned with.
  void as_words() {
    if (block.dtype == ScalarType::Bool) block.dtype = ScalarType::Byte;
    if (block.dtype == ScalarType::ComplexFloat || block.dtype == ScalarType::ComplexDouble) {
      block.width *= block.dtype == ScalarType::ComplexFloat ? 1 : 2;
      block.dtype = ScalarType::Long;
    }
  }

  // `arg` (N, …) is for each number the row that it goes to.
  void check_places(const Tensor& arg) const {
    check_device(arg, "arg", x);
    check_dtype(arg, ScalarType::Long, "arg");
    if (shape_of(x) != shape_of(arg))
      bad_input("`arg`: expected shape ", shape_of(x), ", got ", shape_of(arg));
    check_float(x, "x");
  }
};

inline void check_alike(const Tensor& a, const Tensor& x, int64_t rows, const char* name) {
  check_device(a, name, x);
  check_dtype(a, x.scalar_type(), name);
  bool fits = a.dim() == x.dim() && a.dim() > 0 && a.size(0) == rows;
  for (int64_t i = 1; fits && i < x.dim(); ++i) fits = a.size(i) == x.size(i);
  if (!fits)
    bad_input("`", name, "`: expected ", rows, " rows like `x`, got ", shape_of(a), " beside ",
              shape_of(x));
}

// src (B, E, K), likewise, and index (E,), to have values in 0..n-1.
struct ScatterInputs {
  Tensor src, index;
  Block block;
  int64_t n;

  ScatterInputs(const Tensor& src_, const Tensor& index_, int64_t n_, const char* name)
      : src(src_), index(dense(index_)), n(n_) {
    check_device(src, name);
    check_device(index, "index", src);
    if (src.dim() != 3) bad_input("`", name, "`: expected shape (B, E, K), got ", shape_of(src));
    // the room for offsets is made before anything else fails where there are no values
    if (n < 0 || n > int64_t(1) << 48) bad_input("`dim_size`: expected 0..2^48, got ", n);
    block = {src.size(0), src.size(1), src.size(2), src.scalar_type()};
    if (block.dtype == ScalarType::Bool) block.dtype = ScalarType::Byte;
    check_shape(index, block.rows, 0, "index");
    check_dtype(index, ScalarType::Long, "index");
  }

  // Another argument of the operator, which must look like `src` with `rows` rows.
  void check_alike(const Tensor& x, int64_t rows, const char* name) const {
    check_device(x, name, src);
    check_dtype(x, src.scalar_type(), name);
    if (x.dim() != 3 || x.size(0) != block.batch || x.size(1) != rows || x.size(2) != block.width)
      bad_input("`", name, "`: expected shape (", block.batch, ", ", rows, ", ", block.width,
                "), got ", shape_of(x));
  }
};

}  // namespace meshsim
