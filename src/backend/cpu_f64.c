/* The CPU backend in double. */
#define REAL_BITS 64
#define BACKEND stm_backend_cpu_f64
#include "backend/cpu_table.inc"
