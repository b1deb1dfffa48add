/* The CPU backend that keeps its numbers in float and multiplies in bfloat16; nothing but a refusal where there was no
 * oneDNN to build with. */
#include "backend/cpu.h"

#ifdef STEMMA_ONEDNN
#define REAL_BITS 32
#define ROUND_OPERANDS
#define BACKEND stm_backend_cpu_bf16
#include "backend/cpu_table.inc"

/* What there is, for the message. */
static const char *instructions(void)
{
    return __builtin_cpu_supports("avx512f") ? "AVX-512 without BF16"
           : __builtin_cpu_supports("avx2")  ? "AVX2"
                                             : "neither AVX-512 nor AVX2";
}

stm_status stm_cpu_bf16_find(const stm_backend **out)
{
    const bool rounds = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    const dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa(); /* ONEDNN_MAX_CPU_ISA may lower it */
    if (!rounds)
        return stm_fail(STM_ERR_INPUT,
                        "precision: bfloat16 needs a processor with AVX512-BF16 (and is fastest with AMX); found %s; "
                        "float32 and float64 run here",
                        instructions());
    if ((isa & dnnl_cpu_isa_avx512_core_bf16) != dnnl_cpu_isa_avx512_core_bf16)
        return stm_fail(STM_ERR_INPUT,
                        "precision: bfloat16 needs AVX512-BF16 or AMX in oneDNN, too; found it limited to less "
                        "(instruction set 0x%x; the environment's ONEDNN_MAX_CPU_ISA?)",
                        (unsigned)isa);
    *out = &stm_backend_cpu_bf16;
    return STM_OK;
}
#else
stm_status stm_cpu_bf16_find(const stm_backend **out)
{
    (void)out;
    return stm_fail(STM_ERR_INPUT, "precision: this build has no bfloat16: it was built without oneDNN 2 (Debian: "
                                   "libdnnl-dev); it has float32 and float64");
}
#endif
