#include "cli/session.h"

#include <omp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/open.h"
#include "group/device_reach.h"
#include "group/memory.h"
#include "group/transport.h"
#include "metrics/log.h"
#include "model/layout.h"
#include "model/stages.h"
#include "mpi/banner.h"
#include "plan/rates.h"
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

/* This process's place among those of its node. */
static int node_rank(void)
{
    MPI_Comm node;
    int rank;
    STM_MPI(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node));
    STM_MPI(MPI_Comm_rank(node, &rank));
    STM_MPI(MPI_Comm_free(&node));
    return rank;
}

/* With auto a rank may have found a GPU where another has not: their numbers would differ, and their speed. Collective
 * over MPI_COMM_WORLD; same status everywhere. */
static stm_status check_alike(const stm_backend *backend)
{
    int rank;
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    double last[2] = {backend->n_devices ? rank : -1, backend->n_devices ? -1 : rank};
    stm_all_reduce_max(MPI_COMM_WORLD, last, 2);
    if (last[0] < 0 || last[1] < 0)
        return STM_OK;
    return stm_fail(STM_ERR_INPUT,
                    "backend: rank %.0f has a GPU, and rank %.0f none; expected the same on all ranks, or cpu", last[0],
                    last[1]);
}

static stm_status open_backend(const stm_options *options, stm_static_bytes *static_bytes, stm_session *session)
{
    *session = (stm_session){.static_bytes = static_bytes, .n_stages = 1};
    choose_threads();
    const int place = node_rank();
    STM_TRY(stm_agree_on(MPI_COMM_WORLD, stm_backend_find(options->backend, options->precision, &session->backend)));
    STM_TRY(check_alike(session->backend));
    stm_status status = session->backend->choose_device(place);
    if (status == STM_OK)
        status = session->backend->open(0, &session->stream);
    if (status == STM_OK)
        session->backend->describe(session->stream, &session->device);
    STM_TRY(stm_agree_on(MPI_COMM_WORLD, status));
    return stm_device_reach_open(session->backend, session->stream, &session->reach);
}

/* Stages */

static size_t static_bytes_of(const stm_session *session, const stm_options *options, int stage_size)
{
    return stm_model_weights_bytes(session->model) + stm_engine_process_bytes(session->model) +
           (session->static_bytes ? session->static_bytes(options, session->model, stage_size) : 0) +
           session->kept_bytes;
}

/* Whether each of n_stages has room for what is static and the smallest chunk. */
static bool stages_fit(const stm_session *session, const stm_options *options, int n_stages, int n_ranks, double limit)
{
    for (int stage = 0; stage < n_stages; stage++) {
        stm_model_hold_stage(session->model, (size_t)n_stages, (size_t)stage);
        const size_t least =
            static_bytes_of(session, options, n_ranks / n_stages) + stm_engine_least_bytes(session->model);
        if ((double)least > limit)
            return false;
    }
    return true;
}

/* parallel.pipeline; auto: the fewest stages that fit, or as many as there can be. Collective over MPI_COMM_WORLD. */
static stm_status choose_stages(const stm_options *options, stm_session *session, int n_ranks)
{
    const int64_t asked = options->parallel.pipeline, n_layers = (int64_t)session->model->config.n_layers;
    if (asked > n_ranks)
        return stm_fail(STM_ERR_INPUT, "parallel.pipeline: found %lld, expected at most %d, the number of ranks",
                        (long long)asked, n_ranks);
    if (asked > n_layers)
        return stm_fail(STM_ERR_INPUT, "parallel.pipeline: found %lld, expected at most %lld, the layers of the model",
                        (long long)asked, (long long)n_layers);
    session->n_stages = (int)asked;
    if (asked != STM_AUTO)
        return STM_OK;
    const int most = (int)STM_MIN((int64_t)n_ranks, n_layers);
    const double limit = stm_engine_limit_bytes(options, MPI_COMM_WORLD, &session->device);
    session->n_stages = 1;
    while (session->n_stages < most && !stages_fit(session, options, session->n_stages, n_ranks, limit))
        session->n_stages++;
    return STM_OK;
}

/* The ranks that work, and of these the stage that this one is in; the model takes memory. Collective over
 * MPI_COMM_WORLD. */
static stm_status take_stage(const stm_options *options, stm_session *session)
{
    int rank, n_ranks;
    session->model->backend = session->backend; /* sizes of numbers are asked for before there is memory */
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    STM_MPI(MPI_Comm_size(MPI_COMM_WORLD, &n_ranks));
    STM_TRY(choose_stages(options, session, n_ranks));
    const int stage_size = n_ranks / session->n_stages, n_working = stage_size * session->n_stages;
    session->n_idle = n_ranks - n_working;
    session->idle = rank >= n_working;
    STM_MPI(MPI_Comm_split(MPI_COMM_WORLD, session->idle ? MPI_UNDEFINED : 0, rank, &session->comm));
    session->has_comm = !session->idle;
    if (session->n_idle > 0 && rank == 0)
        fprintf(stderr, "stemma: warning: %d of %d ranks %s idle: parallel.pipeline is %d, and its stages are alike\n",
                session->n_idle, n_ranks, session->n_idle == 1 ? "is" : "are", session->n_stages);
    if (session->idle)
        return STM_OK;
    stm_model_hold_stage(session->model, (size_t)session->n_stages, (size_t)(rank / stage_size));
    return stm_agree_on(session->comm, stm_model_allocate(session->model, session->backend, session->stream));
}

static stm_status randomize(const stm_options *options, const stm_session *session)
{
    return stm_agree_on(session->comm, stm_model_randomize(session->model, (uint64_t)options->run.seed));
}

stm_status stm_session_open_random(const stm_options *options, const stm_model_config *config,
                                   stm_static_bytes *static_bytes, stm_session *session)
{
    STM_TRY(open_backend(options, static_bytes, session));
    STM_TRY(stm_agree_on(MPI_COMM_WORLD, stm_model_lay_out(config, &session->model)));
    STM_TRY(take_stage(options, session));
    return session->idle ? STM_OK : randomize(options, session);
}

stm_status stm_session_open(const stm_options *options, const char *model_path, stm_static_bytes *static_bytes,
                            stm_session *session)
{
    STM_TRY(open_backend(options, static_bytes, session));
    STM_TRY(stm_model_describe_on(MPI_COMM_WORLD, model_path, &session->model));
    STM_TRY(take_stage(options, session));
    if (session->idle)
        return STM_OK;
    if (strcmp(options->model.init, "random") == 0)
        STM_TRY(randomize(options, session));
    else
        STM_TRY(stm_model_load_on(session->comm, model_path, session->model));
    return stm_agree_on(session->comm, open_tokenizer(options, model_path, session));
}

stm_status stm_session_grid(stm_session *session, const stm_options *options, size_t n_groups)
{
    const stm_axes axes = {session->n_stages, options->parallel.suffix, options->parallel.replica};
    STM_TRY(stm_grid_create(session->comm, &axes, n_groups, &session->grid));
    session->grid.n_idle = session->n_idle;
    session->has_grid = true;
    STM_TRY(stm_grid_take_reach(&session->grid, session->reach));
    if (!session->static_bytes) /* no gradient, and no new weights */
        return STM_OK;
    return stm_transport_open(options->parallel.transport, session->backend, session->stream, &session->device,
                              &session->grid);
}

stm_status stm_session_engine(stm_session *session, const stm_options *options)
{
    STM_TRY(stm_agree(&session->grid, stm_engine_create(session->model, &session->grid, options,
                                                        static_bytes_of(session, options, session->grid.stage_size),
                                                        &session->engine)));
    stm_engine_settings *settings = stm_engine_settings_of(session->engine);
    settings->log = stm_log;
    return stm_rates_find(options, &session->grid, session->backend, false, &settings->placement.rates);
}

void stm_session_close(stm_session *session)
{
    stm_engine_destroy(session->engine);
    if (session->has_grid) {
        stm_transport_close(&session->grid);
        stm_grid_destroy(&session->grid);
    }
    stm_template_destroy(session->chat);
    stm_tokenizer_destroy(session->tokenizer);
    stm_model_destroy(session->model);
    stm_device_reach_close(session->reach);
    if (session->stream)
        session->backend->close(session->stream);
    if (session->has_comm)
        STM_MPI(MPI_Comm_free(&session->comm));
    *session = (stm_session){0};
}

size_t stm_session_gradient_bytes(const stm_options *options, const stm_model *model, int stage_size)
{
    (void)options;
    (void)stage_size;
    return stm_model_own_bytes(model);
}

static double mebibytes(size_t bytes)
{
    return (double)bytes / (1 << 20);
}

void stm_session_print_memory(const stm_session *session)
{
    char line[STM_MEMORY_LINE_BYTES];
    stm_memory_usage_line(session->engine, &session->grid, line);
    if (session->grid.rank == 0)
        printf("%s\n", line);
}

void stm_session_print_layout(const stm_session *session)
{
    char *banner = NULL, *stages = NULL;
    char line[STM_MEMORY_LINE_BYTES];
    stm_memory_plan_line(session->engine, &session->grid, line);
    if (stm_banner(&session->grid, omp_get_max_threads(), session->device.name, session->device.id, &banner) !=
            STM_OK ||
        session->grid.rank != 0)
        return;
    const stm_model *model = session->model;
    const stm_engine_settings *settings = stm_engine_settings_of(session->engine);
    const size_t rows = settings->chunk_rows;
    printf("%s", banner ? banner : "");
    printf("model: %s, %zu layers, hidden size %zu, vocabulary %zu, %zu parameters, %s\n", model->config.architecture,
           model->config.n_layers, model->config.hidden_size, model->config.vocab_size, model->n_parameters,
           session->backend->precision);
    if (stm_stages_text(&model->config, (size_t)session->n_stages, &stages) == STM_OK)
        printf("%s", stages);
    free(stages);
    printf("%s\n", line);
    printf("a chunk of %zu rows: KV and its gradient %.1f MiB, activations %.1f MiB, scratch %.1f MiB\n", rows,
           mebibytes(stm_chunk_kv_bytes(model, rows, true)), mebibytes(stm_chunk_kept_bytes(model, rows)),
           mebibytes(stm_chunk_scratch_bytes(model, rows, true)));
    free(banner);
}
