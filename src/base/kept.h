/* src/base/kept.h: what a part of the program wants back after a restart, as bytes that are put and taken in the same
 * order. Numbers have the machine's own form. Local, all of it. */
#ifndef STM_BASE_KEPT_H
#define STM_BASE_KEPT_H

#include "base/base.h"

/* {0} is empty; the owner frees `bytes`. */
typedef struct {
    char *bytes;
    size_t n, capacity;
} stm_kept;

/* Fails: STM_ERR_MEMORY. */
stm_status stm_kept_put(stm_kept *kept, const void *bytes, size_t n);
stm_status stm_kept_put_number(stm_kept *kept, uint64_t number);

/* What is left to take; a reader of nothing is {0}. */
typedef struct {
    const char *at;
    size_t n;
} stm_kept_reader;

/* False where less is left: then nothing is taken. */
bool stm_kept_take(stm_kept_reader *reader, void *out, size_t n);
bool stm_kept_take_number(stm_kept_reader *reader, uint64_t *number);

/* A part of n bytes as a reader of its own. */
bool stm_kept_take_part(stm_kept_reader *reader, uint64_t n, stm_kept_reader *part);

#endif
