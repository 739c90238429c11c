// CUDA's threads on a CPU, for tests: every thread of a block is a fiber of its own; they take
// turns at barriers, in an order that changes from launch to launch, so that a barrier left out
// shows. A barrier that not all threads reach ends the program with a message. Slow, exact, and
// the same rounding as the device except for its approximate functions.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

using std::max;
using std::min;

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };

namespace emulated {

enum class At { running, block, warp, done };

struct Thread {
  ucontext_t first;
  jmp_buf here;
  bool begun = false;
  At at = At::running;
  std::unique_ptr<char[]> stack;
};

struct State {
  std::vector<Thread> threads;
  std::vector<unsigned char> shared;
  std::vector<uint64_t> slots;  // eight words a thread, for exchange within a warp
  std::function<void()> work;
  jmp_buf scheduler;
  unsigned current = 0, launches = 0;
  dim3 grid, block, block_at, thread_at;
};

inline State& state() {
  static State one;
  return one;
}

inline unsigned char* shared_room() {
  auto address = reinterpret_cast<uintptr_t>(state().shared.data());
  return reinterpret_cast<unsigned char*>((address + 127) / 128 * 128);
}

inline void select(unsigned i) {
  State& s = state();
  s.current = i;
  s.thread_at = dim3(i % s.block.x, i / s.block.x % s.block.y, i / (s.block.x * s.block.y));
}

inline void pause(At why) {
  State& s = state();
  Thread& me = s.threads[s.current];
  me.at = why;
  if (!_setjmp(me.here)) _longjmp(s.scheduler, 1);
}

inline void begin() {
  State& s = state();
  s.work();
  s.threads[s.current].at = At::done;
  _longjmp(s.scheduler, 1);
}

inline void resume(unsigned i) {
  State& s = state();
  select(i);
  Thread& thread = s.threads[i];
  if (_setjmp(s.scheduler)) return;
  if (thread.begun) _longjmp(thread.here, 1);
  thread.begun = true;
  setcontext(&thread.first);
}

// Lets go every thread of first … last − 1 if all that still run wait at `what`.
inline bool release(unsigned first, unsigned last, At what) {
  State& s = state();
  bool any = false;
  for (unsigned i = first; i < last; ++i) {
    if (s.threads[i].at == At::done) continue;
    if (s.threads[i].at != what) return false;
    any = true;
  }
  if (any)
    for (unsigned i = first; i < last; ++i)
      if (s.threads[i].at == what) s.threads[i].at = At::running;
  return any;
}

inline void run_block() {
  State& s = state();
  const unsigned n = static_cast<unsigned>(s.threads.size());
  for (Thread& thread : s.threads) {
    thread.begun = false;
    thread.at = At::running;
    if (!thread.stack) thread.stack.reset(new char[256 << 10]);
    getcontext(&thread.first);
    thread.first.uc_stack.ss_sp = thread.stack.get();
    thread.first.uc_stack.ss_size = 256 << 10;
    thread.first.uc_link = nullptr;
    makecontext(&thread.first, begin, 0);
  }
  for (unsigned done = 0; done < n;) {
    bool moved = false;
    for (unsigned k = 0; k < n; ++k) {
      const unsigned i = s.launches % 2 ? n - 1 - k : k;
      if (s.threads[i].at != At::running) continue;
      resume(i);
      moved = true;
    }
    for (unsigned w = 0; w < n; w += 32) moved |= release(w, std::min(w + 32, n), At::warp);
    moved |= release(0, n, At::block);
    done = 0;
    for (const Thread& thread : s.threads) done += thread.at == At::done;
    if (!moved && done < n) {
      std::fprintf(stderr, "emulated kernel: a barrier is not reached by all threads\n");
      std::abort();
    }
  }
}

inline void run(dim3 grid, dim3 block, size_t shared, std::function<void()> work) {
  State& s = state();
  s.grid = grid;
  s.block = block;
  s.work = std::move(work);
  ++s.launches;
  const unsigned n = block.x * block.y * block.z;
  s.threads.resize(n);
  s.slots.assign(8 * n, 0);
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        s.block_at = dim3(x, y, z);
        s.shared.assign(shared + 128, 0xff);  // what is not set shows as NaN
        run_block();
      }
}

inline void sync_warp() { pause(At::warp); }

// What thread `from` of the warp has in `words`, for each of the warp's threads.
inline uint64_t* slot(unsigned lane) {
  State& s = state();
  return s.slots.data() + 8 * (s.current / 32 * 32 + lane);
}

inline unsigned lane() { return state().current % 32; }

template <class T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8);
  std::memcpy(slot(lane()), &value, sizeof(T));
  sync_warp();
  T out;
  const unsigned here = state().current / 32 * 32;
  const bool there = from < 32 && here + from < state().threads.size();
  std::memcpy(&out, slot(there ? from : lane()), sizeof(T));
  sync_warp();
  return out;
}

inline float bf16(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float out;
  std::memcpy(&out, &wide, 4);
  return out;
}

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  std::memcpy(slot(lane()), mine, sizeof(mine));
  sync_warp();
  const unsigned g = lane() / 4, t = lane() % 4;
  const auto word = [](unsigned l, int i) {
    uint32_t out;
    std::memcpy(&out, reinterpret_cast<const char*>(slot(l)) + 4 * i, 4);
    return out;
  };
  const auto a_at = [&](unsigned row, unsigned k) {
    const uint32_t pair = word(4 * (row % 8) + k % 8 / 2, (row >= 8) + 2 * (k >= 8));
    return bf16(k % 2 ? pair >> 16 : pair & 0xffff);
  };
  const auto b_at = [&](unsigned k, unsigned column) {
    const uint32_t pair = word(4 * column + k % 8 / 2, 4 + (k >= 8));
    return bf16(k % 2 ? pair >> 16 : pair & 0xffff);
  };
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = g + 8 * (i / 2), column = 2 * t + i % 2;
    for (unsigned k = 0; k < 16; ++k) d[i] += a_at(row, k) * b_at(k, column);
  }
  sync_warp();
}

inline void load_matrices(uint32_t (&out)[4], const void* row, bool turned) {
  std::memcpy(slot(lane()), &row, sizeof(row));
  sync_warp();
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (unsigned j = 0; j < 2; ++j) {
      const unsigned r = turned ? 2 * t + j : g, column = turned ? g : 2 * t + j;
      const uint16_t* from;
      std::memcpy(&from, slot(8 * i + r), sizeof(from));
      pair[j] = from[column];
    }
    std::memcpy(&out[i], pair, 4);
  }
  sync_warp();
}

}  // namespace emulated

#define gridDim (emulated::state().grid)
#define blockDim (emulated::state().block)
#define blockIdx (emulated::state().block_at)
#define threadIdx (emulated::state().thread_at)
#define warpSize 32

inline void __syncthreads() { emulated::pause(emulated::At::block); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulated::sync_warp(); }
template <class T>
T __shfl_sync(unsigned, T value, int from, int width = 32) {
  const int lane = static_cast<int>(emulated::lane());
  return emulated::exchange(value, lane / width * width + from % width);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return emulated::exchange(value, emulated::lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by, int width = 32) {
  const unsigned lane = emulated::lane();
  return emulated::exchange(value, lane % width >= by ? lane - by : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, unsigned by, int width = 32) {
  const unsigned lane = emulated::lane();
  return emulated::exchange(value, lane % width + by < static_cast<unsigned>(width) ? lane + by : lane);
}
inline unsigned __ballot_sync(unsigned, int yes) {
  unsigned out = 0;
  const uint64_t mine = yes != 0;
  std::memcpy(emulated::slot(emulated::lane()), &mine, 8);
  emulated::sync_warp();
  const size_t first = emulated::state().current / 32 * 32;
  for (unsigned i = 0; i < 32 && first + i < emulated::state().threads.size(); ++i)
    out |= static_cast<unsigned>(emulated::slot(i)[0] & 1) << i;
  emulated::sync_warp();
  return out;
}
inline int __any_sync(unsigned mask, int yes) { return __ballot_sync(mask, yes) != 0; }
inline int __all_sync(unsigned mask, int yes) { return __ballot_sync(mask, !yes) == 0; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
template <class T>
T __ldg(const T* p) { return *p; }
inline float __uint_as_float(uint32_t x) { return __builtin_bit_cast(float, x); }
inline uint32_t __float_as_uint(float x) { return __builtin_bit_cast(uint32_t, x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline double rsqrt(double x) { return 1. / std::sqrt(x); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
template <class T>
T atomicAdd(T* p, T x) {
  const T before = *p;
  *p += x;
  return before;
}
template <class T>
T atomicMin(T* p, T x) {
  const T before = *p;
  if (x < before) *p = x;
  return before;
}
template <class T>
T atomicMax(T* p, T x) {
  const T before = *p;
  if (before < x) *p = x;
  return before;
}
inline double __dsub_rn(double x, double y) { return x - y; }
