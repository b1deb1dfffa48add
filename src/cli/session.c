#include "cli/session.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/open.h"
#include "mpi/banner.h"
#include "text/template.h"

static stm_status open_tokenizer(const stm_options *options, const char *model_path, stm_session *s)
{
    const stm_model *model = s->model;
    s->text = (stm_text_context){.vocab_size = model->config.vocab_size, .max_positions = model->config.max_positions};
    if (model->tokenizer_json) {
        char *name;
        STM_TRY(stm_format(&name, "%s: tokenizer.json", model_path));
        const stm_status status = stm_tokenizer_parse(name, model->tokenizer_json, strlen(model->tokenizer_json),
                                                      model->tokenizer_config_json, &s->tokenizer);
        free(name);
        STM_TRY(status);
    }
    s->text.tokenizer = s->tokenizer;
    const stm_status status =
        stm_template_choose(options->data.template_name, model_path, model->tokenizer_config_json, NULL, &s->chat);
    s->text.chat = s->chat;
    const bool automatic = strcmp(options->data.template_name, "auto") == 0;
    if (status != STM_OK && !automatic)
        return stm_fail_context(status, "data.template");
    return STM_OK; /* without a known one, messages are refused where they stand */
}

static stm_status open_model(const stm_options *options, const char *model_path, stm_session *s)
{
    if (strcmp(options->model.init, "random") == 0)
        return stm_model_open_random_on(MPI_COMM_WORLD, model_path, (uint64_t)options->run.seed, s->backend, s->stream,
                                        &s->model);
    return stm_model_open_on(MPI_COMM_WORLD, model_path, s->backend, s->stream, &s->model);
}

/* Threads of this rank, where OMP_NUM_THREADS does not say: the cores that it may use, shared with the ranks of the
 * host that may use the same ones. */
static void choose_threads(void)
{
    if (getenv("OMP_NUM_THREADS"))
        return;
    MPI_Comm host;
    int n_ranks = 1;
    cpu_set_t mine, all;
    CPU_ZERO(&mine);
    STM_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host));
    STM_MPI(MPI_Comm_size(host, &n_ranks));
    if (sched_getaffinity(0, sizeof mine, &mine) == 0) {
        STM_MPI(MPI_Allreduce(&mine, &all, sizeof mine, MPI_BYTE, MPI_BOR, host));
        const int bound = CPU_COUNT(&mine), shared = CPU_COUNT(&all) / n_ranks;
        omp_set_num_threads(STM_MAX(1, STM_MIN(bound, shared)));
    }
    STM_MPI(MPI_Comm_free(&host));
}

static stm_status open_backend(const stm_options *options, stm_session *session)
{
    *session = (stm_session){0};
    choose_threads();
    stm_status status = stm_backend_find(options->backend, options->precision, &session->backend);
    if (status == STM_OK)
        status = session->backend->open(0, &session->stream);
    return stm_agree_on(MPI_COMM_WORLD, status);
}

stm_status stm_session_open_random(const stm_options *options, const stm_model_config *config, stm_session *session)
{
    STM_TRY(open_backend(options, session));
    stm_status status = stm_model_create(config, session->backend, session->stream, &session->model);
    if (status == STM_OK)
        status = stm_model_randomize(session->model, (uint64_t)options->run.seed);
    return stm_agree_on(MPI_COMM_WORLD, status);
}

stm_status stm_session_open(const stm_options *options, const char *model_path, stm_session *session)
{
    STM_TRY(open_backend(options, session));
    STM_TRY(open_model(options, model_path, session));
    return stm_agree_on(MPI_COMM_WORLD, open_tokenizer(options, model_path, session));
}

stm_status stm_session_grid(stm_session *session, const stm_options *options, size_t n_groups)
{
    STM_TRY(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, options->parallel.suffix, options->parallel.replica},
                            n_groups, &session->grid));
    session->has_grid = true;
    return STM_OK;
}

stm_status stm_session_engine(stm_session *session, const stm_options *options, size_t static_bytes)
{
    const size_t weights_bytes = session->model->n_parameters * session->backend->weight_bytes;
    return stm_agree(&session->grid, stm_engine_create(session->model, &session->grid, options,
                                                       static_bytes + weights_bytes, &session->engine));
}

void stm_session_close(stm_session *session)
{
    stm_engine_destroy(session->engine);
    if (session->has_grid)
        stm_grid_destroy(&session->grid);
    stm_template_destroy(session->chat);
    stm_tokenizer_destroy(session->tokenizer);
    stm_model_destroy(session->model);
    if (session->stream)
        session->backend->close(session->stream);
    *session = (stm_session){0};
}

size_t stm_session_weights_bytes(const stm_session *session)
{
    return session->model->n_parameters * session->backend->real_bytes;
}

static double mebibytes(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

void stm_session_print_layout(const stm_session *session)
{
    char *banner = NULL;
    if (stm_banner(&session->grid, omp_get_max_threads(), &banner) != STM_OK || session->grid.rank != 0)
        return;
    const stm_model *model = session->model;
    const stm_engine_settings *settings = stm_engine_settings_of(session->engine);
    const size_t rows = settings->chunk_rows;
    printf("%s", banner ? banner : "");
    printf("model: %s, %zu layers, hidden size %zu, vocabulary %zu, %zu parameters, %s\n", model->config.architecture,
           model->config.n_layers, model->config.hidden_size, model->config.vocab_size, model->n_parameters,
           session->backend->precision);
    printf("memory of a rank: limit %.0f MiB; weights, gradients and optimizer %.1f MiB\n",
           mebibytes(settings->limit_bytes), mebibytes(stm_engine_static_bytes(session->engine)));
    printf("a chunk of %zu rows: KV and its gradient %.1f MiB, activations %.1f MiB, scratch %.1f MiB\n", rows,
           mebibytes(stm_chunk_kv_bytes(model, rows, true)), mebibytes(stm_chunk_kept_bytes(model, rows)),
           mebibytes(stm_chunk_scratch_bytes(model, rows, true)));
    free(banner);
}
