// Includes MESHSIM_KERNELS once an instruction set, in namespaces of their own.
//
// The kernels are written with vectors of LANES floats. Per-function targets, never -march: the
// library runs everywhere and picks at run time. Kernel files must not instantiate templates of
// the standard library: those would be shared with the rest, and carry the wrong instructions.

#if defined(__x86_64__)

#if defined(MESHSIM_WANTS_AMX)
#define LANES 16
#define MESHSIM_AMX 1
#define ISA_NAMESPACE amx
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#include MESHSIM_KERNELS
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#include MESHSIM_KERNELS
#pragma GCC pop_options
#endif
#undef LANES
#undef MESHSIM_AMX
#undef ISA_NAMESPACE
#define MESHSIM_CASE_AMX(...) case ::meshsim::Isa::amx: amx::__VA_ARGS__; break;
#else
#define MESHSIM_CASE_AMX(...) case ::meshsim::Isa::amx:
#endif

#define LANES 16
#define ISA_NAMESPACE avx512
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"))), apply_to = function)
#include MESHSIM_KERNELS
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#include MESHSIM_KERNELS
#pragma GCC pop_options
#endif
#undef LANES
#undef ISA_NAMESPACE

#define LANES 8
#define ISA_NAMESPACE avx2
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#include MESHSIM_KERNELS
#pragma clang attribute pop
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include MESHSIM_KERNELS
#pragma GCC pop_options
#endif
#undef LANES
#undef ISA_NAMESPACE

#endif

#define LANES 4
#define ISA_NAMESPACE portable
#include MESHSIM_KERNELS
#undef LANES
#undef ISA_NAMESPACE

// Calls the kernel of the instruction set in use: MESHSIM_DISPATCH(name<float>(arguments…)).
#if defined(__x86_64__)
#define MESHSIM_DISPATCH(...)                             \
  do {                                                    \
    switch (::meshsim::isa()) {                           \
      MESHSIM_CASE_AMX(__VA_ARGS__)                       \
      case ::meshsim::Isa::avx512: avx512::__VA_ARGS__; break; \
      case ::meshsim::Isa::avx2: avx2::__VA_ARGS__; break;     \
      default: portable::__VA_ARGS__;                     \
    }                                                     \
  } while (0)
#else
#define MESHSIM_DISPATCH(...) portable::__VA_ARGS__
#endif
