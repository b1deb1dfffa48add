/* src/backend/cpu_features.h: what the processor that runs can do beyond what the build assumes. */
#ifndef STM_BACKEND_CPU_FEATURES_H
#define STM_BACKEND_CPU_FEATURES_H

#include <stdbool.h>

/* Whether tiles of bfloat16 may be multiplied (Intel AMX, and the AVX-512 that packs them): the processor has them and
 * the kernel granted their state, which it is asked for once and then holds for all threads of the process. Local. */
bool stm_cpu_has_amx(void);

#endif
