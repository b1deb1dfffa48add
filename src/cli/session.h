/* src/cli/session.h: what every command that computes opens first: ranks, device, model, tokenizer.
 *
 * How many stages the layers are cut into is known before the model is loaded, so that a rank loads its stage alone.
 * Ranks that the stages leave over are idle: they have no model and no part in anything, and the command that opened
 * the session returns on them at once. */
#ifndef STM_CLI_SESSION_H
#define STM_CLI_SESSION_H

#include "data/text_context.h"
#include "group/engine.h"
#include "mpi/reach.h"

/* What a command holds on a rank besides the weights, in bytes, where stage_size ranks hold the model's stage. */
typedef size_t stm_static_bytes(const stm_options *options, const stm_model *model, int stage_size);

typedef struct {
    bool idle;     /* left over: nothing of what follows is there */
    bool has_comm; /* comm is to be freed */
    MPI_Comm comm; /* the ranks that work: those of the grid */
    int n_stages, n_idle;
    stm_static_bytes *static_bytes;
    size_t kept_bytes; /* what the command holds besides that, where it says so before the engine is made */
    const stm_backend *backend;
    stm_stream *stream;
    stm_device device;        /* what this rank computes on */
    const stm_reach *reach;   /* of the backend's memory; NULL: it is the host's */
    stm_model *model;         /* of this rank's stage */
    stm_tokenizer *tokenizer; /* NULL: the model has none */
    stm_template *chat;       /* NULL: none is known */
    stm_text_context text;
    stm_grid grid;      /* after stm_session_grid */
    stm_engine *engine; /* after stm_session_engine */
    bool has_grid;
} stm_session;

/* Opens the model (a folder or a checkpoint; rank 0 reads) on every rank that works, its tokenizer and its chat
 * template (by data.template). static_bytes: NULL: nothing. The caller closes, also after a failure. Collective over
 * MPI_COMM_WORLD; same status everywhere. */
stm_status stm_session_open(const stm_options *options, const char *model_path, stm_static_bytes *static_bytes,
                            stm_session *session);

/* The same for a model of that configuration with random weights by run.seed, without tokenizer. */
stm_status stm_session_open_random(const stm_options *options, const stm_model_config *config,
                                   stm_static_bytes *static_bytes, stm_session *session);

/* The process grid for a work of n_groups prompts at once. Collective over session->comm, as what follows is; same
 * status everywhere. */
stm_status stm_session_grid(stm_session *session, const stm_options *options, size_t n_groups);

/* The engine. */
stm_status stm_session_engine(stm_session *session, const stm_options *options);

void stm_session_close(stm_session *session);

/* Of a gradient. */
stm_static_bytes stm_session_gradient_bytes;

/* After the work: the line of memory that was planned and used, on rank 0. */
void stm_session_print_memory(const stm_session *session);

/* `--check`: prints layout, memory per rank and what a chunk is on rank 0. */
void stm_session_print_layout(const stm_session *session);

#endif
