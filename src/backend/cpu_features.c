#include "backend/cpu_features.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Intel's manual, volume 2, CPUID: leaf 7, subleaf 0. */
enum { EDX_AMX_BF16 = 1 << 22, EDX_AMX_TILE = 1 << 24 };

/* Linux, Documentation/arch/x86/xstate.rst: large register states are given out on request. */
enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

static bool has_amx;

static void ask(void)
{
    unsigned eax, ebx, ecx, edx;
    const unsigned wanted = EDX_AMX_BF16 | EDX_AMX_TILE;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || (edx & wanted) != wanted)
        return;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
        !__builtin_cpu_supports("avx512bf16"))
        return;
    has_amx = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

bool stm_cpu_has_amx(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, ask);
    return has_amx;
}
#else
bool stm_cpu_has_amx(void)
{
    return false;
}
#endif
