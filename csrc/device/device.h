// What every CUDA file needs. With MESHSIM_EMULATED the same file is plain C++ that runs the
// kernels on the CPU, thread by thread (see emulated.h): so they are tested without a GPU.
//
// Indices are not read on the host, which would wait for the device at every call. Kernels guard
// them instead: nothing outside is read or written. What a wrong index gives is up to the operator:
// NaN for sums of picked rows, edges and attention; in scatters and tables the row is left out, and
// where it has a result of its own that is NaN.
#pragma once

#if defined(MESHSIM_EMULATED)
#include "device/emulated.h"
#define MESHSIM_DEVICE CPU
#else
#include <cuda_runtime.h>
#define MESHSIM_DEVICE CUDA
#endif

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "common.h"

namespace meshsim {

#if defined(MESHSIM_EMULATED)

#define SHARED_ROOM(name) unsigned char* name = emulated::shared_room()

// Runs kernel<<<grid, block, shared>>>(arguments…) on the device and stream of `like`.
template <class Kernel, class... Arguments>
void launch(const Tensor&, Kernel kernel, dim3 grid, dim3 block, size_t shared,
            Arguments... arguments) {
  emulated::run(grid, block, shared, [&] { kernel(arguments...); });
}

#else

#define SHARED_ROOM(name) extern __shared__ __align__(128) unsigned char name[]

// The stable ABI's own check came after torch 2.11.
inline void check_cuda(cudaError_t code) {
  if (code == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(code));
}

inline cudaStream_t stream_of(const Tensor& like) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class... Parameters, class... Arguments>
void launch(const Tensor& like, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared, Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  if (shared > (48 << 10))  // more than that is given on request only
    check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)));
  kernel<<<grid, block, shared, stream_of(like)>>>(static_cast<Parameters>(arguments)...);
  check_cuda(cudaGetLastError());
}

#endif

// How many multiprocessors there are: for how much to launch, never for what is computed.
inline unsigned processors(const Tensor& like) {
#if defined(MESHSIM_EMULATED)
  return 1;
#else
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount,
                                    like.get_device_index()));
  return static_cast<unsigned>(count);
#endif
}

// Bytes of shared memory that a block can ask for.
inline int64_t most_shared(const Tensor& like) {
#if defined(MESHSIM_EMULATED)
  return 227 << 10;
#else
  int bytes = 0;
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                    like.get_device_index()));
  return bytes;
#endif
}

// The number of blocks of `size` that hold n things.
inline unsigned blocks_of(int64_t n, int64_t size) {
  return static_cast<unsigned>((n + size - 1) / size);
}

// Which of all threads this is, counted along x.
__device__ inline int64_t thread_number() {
  return int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
}

// Memory on the device of `like` for n things, not set to anything; let go with this.
template <class T>
struct Room {
  Tensor bytes;
  T* data;
  int64_t size;
  Room(const Tensor& like, int64_t n)
      : bytes(torch::stable::new_empty(like, {n * int64_t(sizeof(T))}, ScalarType::Byte)),
        data(static_cast<T*>(bytes.mutable_data_ptr())),
        size(n) {}
};

inline Tensor integers(const Tensor& like, const std::vector<int64_t>& shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Long);
}

inline int64_t* numbers(const Tensor& x) { return static_cast<int64_t*>(x.mutable_data_ptr()); }

// `count` things from the device of `like`, for sizes that depend on data: waits for it.
template <class T>
std::vector<T> read_back(const Tensor& like, const T* from, int64_t count) {
  std::vector<T> out(count);
  if (count == 0) return out;
#if defined(MESHSIM_EMULATED)
  std::memcpy(out.data(), from, count * sizeof(T));
#else
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  check_cuda(cudaMemcpyAsync(out.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost,
                             stream_of(like)));
  check_cuda(cudaStreamSynchronize(stream_of(like)));
#endif
  return out;
}

// Sets every bit of what the room holds: an integer to −1.
template <class T>
void set_bits(const Room<T>& room) {
  if (room.size == 0) return;
#if defined(MESHSIM_EMULATED)
  std::memset(room.data, 0xff, room.size * sizeof(T));
#else
  const torch::stable::accelerator::DeviceGuard guard(room.bytes.get_device_index());
  check_cuda(cudaMemsetAsync(room.data, 0xff, room.size * sizeof(T), stream_of(room.bytes)));
#endif
}

// Numbers are stored as S and computed with in float32, float64 ones in float64.
template <class S>
struct Computed {
  using type = float;
};
template <>
struct Computed<double> {
  using type = double;
};
template <class S>
using computed = typename Computed<S>::type;

// d (16 × 8) += a (16 × 16) · b (16 × 8) by one warp, products of bfloat16, sums in float32.
// Thread 4g + t of the warp holds, as PTX's mma.m16n8k16 has it:
//   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
//   a: columns 2t, 2t + 1 of rows g and g + 8, then columns 2t + 8, 2t + 9 of the same
//   b: rows 2t, 2t + 1 of column g, then rows 2t + 8, 2t + 9
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(MESHSIM_EMULATED)
  emulated::mma(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Four 8 × 8 matrices of 16-bit numbers out of shared memory: thread 8i + r of the warp gives the
// address of row r of matrix i; thread 4g + t gets columns 2t and 2t + 1 of row g of each, or with
// `turned` rows 2t and 2t + 1 of column g.
template <bool turned>
__device__ inline void load_matrices(uint32_t (&out)[4], const void* row) {
#if defined(MESHSIM_EMULATED)
  emulated::load_matrices(out, row, turned);
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(row));
  if constexpr (turned)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(at)
                 : "memory");
#endif
}

// 16 bytes on their way into shared memory; a thread's copies since the last `commit_copies` are a
// group, and `wait_copies<n>` waits until at most n groups of this thread are on their way.
__device__ inline void copy_async(void* shared, const void* from) {
#if defined(MESHSIM_EMULATED)
  std::memcpy(shared, from, 16);
#else
  const uint32_t at = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
#endif
}
__device__ inline void commit_copies() {
#if !defined(MESHSIM_EMULATED)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int n>
__device__ inline void wait_copies() {
#if !defined(MESHSIM_EMULATED)
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
#endif
}

// Has the 128 bytes at `from` come as far as the last cache.
__device__ inline void fetch(const void* from) {
#if !defined(MESHSIM_EMULATED)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
#endif
}

// Two numbers rounded to bfloat16, the first in the low half; and back.
__device__ inline uint32_t pack_pair(float low, float high) {
#if defined(MESHSIM_EMULATED)
  const uint32_t a = BFloat16(low).x, b = BFloat16(high).x;
  return a | b << 16;
#else
  uint32_t out;  // one instruction for both
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
#endif
}
__device__ inline float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

}  // namespace meshsim
