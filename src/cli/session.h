/* src/cli/session.h: what every command that computes opens first: device, model, tokenizer, ranks. */
#ifndef STM_CLI_SESSION_H
#define STM_CLI_SESSION_H

#include "data/text_context.h"
#include "group/engine.h"

typedef struct {
    const stm_backend *backend;
    stm_stream *stream;
    stm_model *model;
    stm_tokenizer *tokenizer; /* NULL: the model has none */
    stm_template *chat;       /* NULL: none is known */
    stm_text_context text;
    stm_grid grid;      /* after stm_session_grid */
    stm_engine *engine; /* after stm_session_engine */
    bool has_grid;
} stm_session;

/* Opens the model (a folder or a checkpoint; rank 0 reads) on every rank, its tokenizer and its chat template (by
 * data.template). The caller closes, also after a failure. Collective over MPI_COMM_WORLD; same status everywhere. */
stm_status stm_session_open(const stm_options *options, const char *model_path, stm_session *session);

/* The same for a model of that configuration with random weights by run.seed, without tokenizer. */
stm_status stm_session_open_random(const stm_options *options, const stm_model_config *config, stm_session *session);

/* The process grid for a work of n_groups prompts at once. Collective; same status everywhere. */
stm_status stm_session_grid(stm_session *session, const stm_options *options, size_t n_groups);

/* The engine. static_bytes: what the command holds besides the weights. Collective; same status everywhere. */
stm_status stm_session_engine(stm_session *session, const stm_options *options, size_t static_bytes);

void stm_session_close(stm_session *session);

/* Size of the model's parameters, or of a gradient, in bytes. */
size_t stm_session_weights_bytes(const stm_session *session);

/* `--check`: prints layout, memory per rank and what a chunk is on rank 0. Collective. */
void stm_session_print_layout(const stm_session *session);

#endif
