/* src/model/prefetch.h: a thread that fetches pieces of a file before they are used.
 *
 *      pieces     0 .. reached - 1   reached .. reached + ahead - 1   ..
 *                 left behind        fetched, or on their way         wait until the caller has come closer
 *
 * Only ever a help: the caller may use a piece that was not fetched yet, and then waits for the disk itself. */
#ifndef STM_MODEL_PREFETCH_H
#define STM_MODEL_PREFETCH_H

#include <stddef.h>

typedef struct stm_prefetch stm_prefetch;

/* Begins to call fetch(context, i) for the pieces [0, n) in order, without those that the caller has reached before.
 * fetch talks to nobody: no messages, no failures. NULL: there is no such thread. The caller stops it before what it
 * fetches goes. Local. */
stm_prefetch *stm_prefetch_start(size_t n, size_t ahead, void (*fetch)(const void *context, size_t i),
                                 const void *context);

/* The caller uses piece i next. NULL is fine. */
void stm_prefetch_reached(stm_prefetch *prefetch, size_t i);

/* Returns when the thread has ended; it finishes the piece it is at. NULL is fine. */
void stm_prefetch_stop(stm_prefetch *prefetch);

#endif
