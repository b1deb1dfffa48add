/* src/base/status.h: how a function says that it failed.
 *
 * A function that can fail returns stm_status; the text of the failure is kept per thread until it is reported. Below
 * cli/ nothing prints or exits. Nothing here communicates. */
#ifndef STM_BASE_STATUS_H
#define STM_BASE_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { STM_OK, STM_ERR_INPUT, STM_ERR_IO, STM_ERR_MEMORY, STM_ERR_DEVICE, STM_ERR_NUMERIC } stm_status;

#define STM_TRY(call)                                                                                                  \
    do {                                                                                                               \
        stm_status status_ = (call);                                                                                   \
        if (status_ != STM_OK)                                                                                         \
            return status_;                                                                                            \
    } while (0)

/* For a function with one `out:` label. */
#define STM_GOTO_OUT(call)                                                                                             \
    do {                                                                                                               \
        if ((status = (call)) != STM_OK)                                                                               \
            goto out;                                                                                                  \
    } while (0)

/* Stores the message (printf form, no newline) for this thread and returns `code`. Local. */
stm_status stm_fail(stm_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "text: " before the stored message; for callers that know the file or line. Returns `code`. Local. */
stm_status stm_fail_context(stm_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Where memory was wanting, puts before the message what it was for, and which options need less of it; else nothing.
 * Returns `code`. Local. */
stm_status stm_fail_memory_of(stm_status code, const char *what, const char *remedy);

/* The stored message ("" if none). Valid until this thread's next failure. Local. */
const char *stm_failure(void);

/* The process's exit code for a status: 0, 2 for STM_ERR_INPUT, else 1. Local. */
int stm_exit_code(stm_status status);

#endif
