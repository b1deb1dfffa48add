/* The CPU backend in float. */
#define REAL_BITS 32
#define BACKEND stm_backend_cpu_f32
#include "backend/cpu_table.inc"
