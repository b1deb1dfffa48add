/* src/base/base.h: the small things that every folder uses. Local, all of it. */
#ifndef STM_BASE_BASE_H
#define STM_BASE_BASE_H

#include "base/memory.h"
#include "base/status.h"

#define STM_MIN(a, b) ((a) < (b) ? (a) : (b))
#define STM_MAX(a, b) ((a) > (b) ? (a) : (b))

/* What a run computes in. bfloat16: operands of products are rounded; numbers are kept in float32, but for activations
 * (backend.h), which a backend may keep in bfloat16. */
typedef enum { STM_FLOAT32, STM_FLOAT64, STM_BFLOAT16 } stm_precision;

double stm_now_s(void); /* monotonic clock, seconds */

/* The name among names[0..n) that is nearest to `word` in edit distance, or NULL when none is near. */
const char *stm_nearest_name(const char *word, const char *const *names, size_t n);

/* Reads a whole file; *text is freed by the caller and ends in a NUL that *n does not count. Fails: STM_ERR_INPUT. */
stm_status stm_read_file(const char *path, char **text, size_t *n);

/* Writes n bytes to a temporary name, syncs it and gives it its name: the file is whole or not there. Fails:
 * STM_ERR_IO. */
stm_status stm_write_file(const char *path, const char *bytes, size_t n);

/* Refuses a path for an output whose folder is missing or may not be written to, before hours go into what would be
 * lost. Fails: STM_ERR_INPUT. */
stm_status stm_check_output(const char *path);

/* Makes the folder and its parents. Fails: STM_ERR_IO. */
stm_status stm_make_folders(const char *path);

/* printf into memory that the caller frees. Fails: STM_ERR_MEMORY. */
stm_status stm_format(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* XXH3 of n bytes. */
uint64_t stm_hash(const void *bytes, size_t n);

#endif
