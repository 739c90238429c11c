// What every operator's file needs: stable tensors, argument checks, parallel loops.
//
// Only LibTorch's stable ABI (target 2.11) is used, so that one binary serves every torch since.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <iterator>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#if defined(__x86_64__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

// For a GPU the host reads no indices: it would wait for the device at every call.
#if !defined(__CUDACC__) && !defined(MESHSIM_UNREAD)
#define MESHSIM_READS_INDICES
#endif

namespace meshsim {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An error that Python sees as ValueError.
template <class... Parts>
[[noreturn]] void bad_input(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

inline std::string shape_of(const Tensor& x) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < x.dim(); ++i) text << (i ? ", " : "") << x.size(i);
  text << ")";
  return text.str();
}

// As Python prints it.
inline std::string device_of(const Tensor& x) {
  static const char* const names[] = {"cpu", "cuda", "mkldnn", "opengl", "opencl", "ideep", "hip",
                                      "fpga", "maia", "xla", "vulkan", "metal", "xpu", "mps",
                                      "meta", "hpu", "ve", "lazy", "ipu", "mtia"};
  const auto type = static_cast<size_t>(x.device().type());
  const std::string name = type < std::size(names) ? names[type] : "privateuseone";
  const bool one = x.is_cpu() || name == "meta" || x.get_device_index() < 0;
  return one ? name : name + ":" + std::to_string(x.get_device_index());
}

[[noreturn]] inline void bad_device(const Tensor& x, const char* name, const std::string& wanted) {
  bad_input("`", name, "`: expected a tensor on ", wanted, ", got one on ", device_of(x));
}

inline void check_cpu(const Tensor& x, const char* name) {
  if (!x.is_cpu()) bad_device(x, name, "cpu");
}

// On the device that this file is compiled for.
inline void check_device(const Tensor& x, const char* name) {
#if defined(__CUDACC__)
  if (!x.is_cuda()) bad_device(x, name, "cuda");
#else
  check_cpu(x, name);
#endif
}

// On the device of `like`: a machine may have several GPUs.
inline void check_device(const Tensor& x, const char* name, const Tensor& like) {
  if (x.is_cpu() && like.is_cpu()) return;
  if (x.device() != like.device()) bad_device(x, name, device_of(like));
}

inline void check_dtype(const Tensor& x, ScalarType dtype, const char* name) {
  if (x.scalar_type() != dtype)
    bad_input("`", name, "`: expected ", torch::headeronly::toString(dtype), ", got ",
              torch::headeronly::toString(x.scalar_type()));
}

// Shape (rows, columns); -1 stands for any length. A vector has columns = 0.
inline void check_shape(const Tensor& x, int64_t rows, int64_t columns, const char* name) {
  const bool fits = x.dim() == (columns ? 2 : 1) && (rows < 0 || x.size(0) == rows) &&
                    (columns <= 0 || x.size(1) == columns);
  if (!fits)
    bad_input("`", name, "`: expected shape (", rows < 0 ? std::string("*") : std::to_string(rows),
              columns ? ", " + (columns < 0 ? std::string("*") : std::to_string(columns)) : "",
              "), got ", shape_of(x));
}

// Rising from 0 to n; the same test as `meshsim.ops.segment.check_rowptr`.
inline void check_rowptr(const Tensor& rowptr, int64_t n, const char* name = "rowptr") {
  check_device(rowptr, name);
  check_dtype(rowptr, ScalarType::Long, name);
  check_shape(rowptr, -1, 0, name);
  const int64_t size = rowptr.size(0);
  if (size == 0) bad_input("`", name, "`: expected shape (N + 1,), got (0,)");
#if defined(MESHSIM_READS_INDICES)
  const auto* p = rowptr.const_data_ptr<int64_t>();
  bool rises = true;
  for (int64_t i = 1; i < size; ++i) rises &= p[i - 1] <= p[i];
  if (p[0] != 0 || p[size - 1] != n || !rises)
    bad_input("`", name, "`: expected to rise from 0 to ", n, " (the rows), got ", p[0], " to ",
              p[size - 1], rises ? "" : ", not rising");
#endif
}

// Every entry of `index` in 0..n-1.
inline void check_index(const Tensor& index, int64_t n, const char* name) {
  check_device(index, name);
  check_dtype(index, ScalarType::Long, name);
#if defined(MESHSIM_READS_INDICES)
  const auto* p = index.const_data_ptr<int64_t>();
  const int64_t size = index.numel();
  bool inside = true;
  for (int64_t i = 0; i < size; ++i) inside &= static_cast<uint64_t>(p[i]) < static_cast<uint64_t>(n);
  if (inside) return;
  for (int64_t i = 0; i < size; ++i)
    if (p[i] < 0 || p[i] >= n)
      bad_input("`", name, "`: index ", p[i], " at row ", i, " is outside 0..", n - 1);
#endif
}

inline Tensor dense(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// Asks for pages of 2 MB for memory that nobody has touched, if there is room for `least` of them:
// faults of 4 kB cost as much as the work. A system without such pages goes on as before.
inline void large_pages(void* data, int64_t bytes, int least = 1) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = uintptr_t(1) << 21;
  const uintptr_t at = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (at + page - 1) / page * page, last = (at + bytes) / page * page;
  if (last >= first + least * page)
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

// Calls work(i) for i in 0..n-1, any thread taking the next. Results must not depend on who does
// what: every i writes its own output.
template <class Work>
void each(int64_t n, const Work& work) {
  if (n <= 0) return;
  const int64_t threads = std::min<int64_t>(n, torch::stable::get_num_threads());
  if (threads <= 1) {
    for (int64_t i = 0; i < n; ++i) work(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;  // torch's own loop would lose what it says
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t i = next++; i < n && !failed; i = next++) work(i);
    } catch (...) {
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

// Numbers in memory of their own, not set to anything, aligned for every vector.
template <class T>
struct Buffer {
  T* data;
  explicit Buffer(int64_t n)
      : data(static_cast<T*>(::operator new(std::max<int64_t>(n, 1) * sizeof(T),
                                            std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
};

// Room for `n` numbers that this thread keeps: fresh memory costs a page fault every 4 kB. Two
// rooms in use at once have different `slot`s.
template <class T, int slot = 0>
T* thread_scratch(int64_t n) {
  thread_local std::vector<char> room;
  const size_t bytes = n * sizeof(T) + 64;
  if (room.size() < bytes) room.resize(bytes);
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
}

// Which instruction set the kernels use here: the widest that the processor has, or what
// MESHSIM_ISA asks for if that is narrower.
enum class Isa { portable = 0, avx2 = 1, avx512 = 2, amx = 3 };
Isa isa();

}  // namespace meshsim
