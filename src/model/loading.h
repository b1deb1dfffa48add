/* src/model/loading.h: fills a model's weights and its hash from the files of a folder: alone, or on many ranks of
 * which one reads and passes the files' bytes on as they are.
 *
 * Work goes portion by portion, in the order of the parameter buffer, as a pipeline of waves of portions:
 *
 *      wave         i + 1 ..                 i                           i - 1
 *      the reader   a thread fetches them    all threads: file -> reals  passed on, hashed, written to the device
 *      the others   bytes arrive             all threads: bytes -> reals hashed, written to the device
 *
 * Knows no messages: the caller brings what moves bytes. */
#ifndef STM_MODEL_LOADING_H
#define STM_MODEL_LOADING_H

#include "model/dtype.h"
#include "model/model.h"

/* Moves bytes from the reader to all the others, in order, while those compute. Called by the thread that runs the
 * loading. */
typedef struct {
    void *context;
    /* Begins to send (the reader, whose bytes stay as they are) or to receive n bytes. Moves what was begun before. */
    void (*begin)(void *context, void *bytes, size_t n);
    /* Returns when of all that was begun at most the newest `n_open` are still under way. */
    void (*finish)(void *context, size_t n_open);
} stm_transport;

typedef struct stm_loading stm_loading;

/* Where the files are read: opens them and checks that they are the model's. The caller closes *out, before the model.
 * Local. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_loading_open(stm_model *model, const char *folder, stm_loading **out);

/* Where they are received. dtypes: those of the reader. Local. Fails: STM_ERR_MEMORY. */
stm_status stm_loading_receive(stm_model *model, const stm_dtype *dtypes, stm_loading **out);
void stm_loading_close(stm_loading *loading); /* NULL is fine */

/* Number formats of the model's tensors in the files: [n_tensors]. */
const stm_dtype *stm_loading_dtypes(const stm_loading *loading);

/* Fills model->weights. hash: model->hash, too; one rank's is enough, and who does not read has time for it. transport:
 * NULL: alone. Whatever fails, and wherever, every portion is passed on, so that nobody waits for ever. Collective over
 * the ranks that the transport joins; fails on each for itself: STM_ERR_INPUT (a number that is not finite, on the
 * reader), STM_ERR_DEVICE. */
stm_status stm_loading_run(stm_loading *loading, const stm_transport *transport, bool hash);

#endif
