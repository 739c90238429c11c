// Finds out what the processor can do.
#include "common.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace meshsim {
namespace {

const char* const names[] = {"portable", "avx2", "avx512", "amx"};

#if defined(__x86_64__)
// AMX tiles must be asked of the kernel once a process.
bool amx_granted() {
#if defined(__linux__)
  unsigned a = 7, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  const bool has = (d >> 22 & 1) && (d >> 24 & 1);  // AMX-BF16, AMX-TILE
  return has && syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, tile data
#else
  return false;
#endif
}

Isa widest() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::portable;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
    return Isa::avx2;
  const bool has16 = __builtin_cpu_supports("avx512bf16");
  return has16 && amx_granted() ? Isa::amx : Isa::avx512;
}
#else
Isa widest() { return Isa::portable; }
#endif

Isa choose() {
  const Isa best = widest();
  const char* asked = std::getenv("MESHSIM_ISA");
  for (int i = 0; asked && i < 4; ++i)
    if (!std::strcmp(asked, names[i]) && i < static_cast<int>(best)) return static_cast<Isa>(i);
  return best;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

}  // namespace meshsim

extern "C" __attribute__((visibility("default"))) const char* meshsim_isa() {
  return meshsim::names[static_cast<int>(meshsim::isa())];
}
