#include "checkpoint/load.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/disk.h"
#include "checkpoint/hashes.h"
#include "checkpoint/pieces.h"
#include "checkpoint/read.h"
#include "model/dtype.h"
#include "model/layout.h"
#include "model/stages.h"

void stm_checkpoint_state_clear(stm_checkpoint_state *state)
{
    free(state->options_yaml);
    free(state->trainer_json);
    free(state->version);
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        free(state->kept[i].bytes);
    *state = (stm_checkpoint_state){0};
}

/* State */

const char *const stm_checkpoint_kept_names[STM_CHECKPOINT_N_KEPT] = {"/kept/rewards", "/kept/replay", "/kept/filter",
                                                                      "/kept/targets"};

static const char *const copy_names[STM_CHECKPOINT_N_COPIES] = {"target", "twin", "twin_exp_avg", "twin_exp_avg_sq"};

const char *const stm_checkpoint_text_names[STM_CHECKPOINT_N_TEXTS] = {
    "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"};

void stm_checkpoint_text_hashes(const stm_model *model, uint64_t hashes[STM_CHECKPOINT_N_TEXTS])
{
    const char *const texts[] = {model->config_json, model->tokenizer_json, model->tokenizer_config_json,
                                 model->generation_config_json};
    for (size_t i = 0; i < STM_CHECKPOINT_N_TEXTS; i++)
        hashes[i] = texts[i] ? stm_hash(texts[i], strlen(texts[i])) : 0;
}

/* Text i of the model, NULL where there is none. The caller frees. */
static stm_status read_text(hid_t file, const char *path, size_t i, char **text)
{
    char name[64];
    *text = NULL;
    snprintf(name, sizeof name, "/model/%s", stm_checkpoint_text_names[i]);
    return i == 0 || stm_hdf5_has(file, name) ? stm_hdf5_text(file, path, name, text) : STM_OK;
}

static stm_status read_text_hashes(hid_t file, const char *path, uint64_t hashes[STM_CHECKPOINT_N_TEXTS])
{
    for (size_t i = 0; i < STM_CHECKPOINT_N_TEXTS; i++) {
        char *text;
        STM_TRY(read_text(file, path, i, &text));
        hashes[i] = text ? stm_hash(text, strlen(text)) : 0;
        free(text);
    }
    return STM_OK;
}

static stm_status read_state(hid_t file, const char *path, stm_checkpoint_state *state)
{
    static const char where[] = "/trainer";
    *state = (stm_checkpoint_state){0};
    STM_TRY(read_text_hashes(file, path, state->text_hashes));
    STM_TRY(stm_hdf5_attribute(file, path, where, "step", H5T_NATIVE_INT64, &state->step));
    STM_TRY(stm_hdf5_attribute(file, path, where, "seed", H5T_NATIVE_UINT64, &state->seed));
    STM_TRY(stm_hdf5_attribute(file, path, where, "cursor", H5T_NATIVE_UINT64, &state->cursor));
    STM_TRY(stm_hdf5_attribute(file, path, where, "best", H5T_NATIVE_DOUBLE, &state->best));
    STM_TRY(stm_hdf5_attribute(file, path, where, "model_hash", H5T_NATIVE_UINT64, &state->model_hash));
    STM_TRY(stm_hdf5_attribute_text(file, path, where, "options", &state->options_yaml));
    STM_TRY(stm_hdf5_attribute_text(file, path, where, "trainer", &state->trainer_json));
    return stm_hdf5_attribute_text(file, path, where, "version", &state->version);
}

stm_status stm_checkpoint_state_here(const char *path, stm_checkpoint_state *state)
{
    hid_t file;
    *state = (stm_checkpoint_state){0};
    STM_TRY(stm_hdf5_open(path, &file));
    const stm_status status = read_state(file, path, state);
    if (status != STM_OK)
        stm_checkpoint_state_clear(state);
    H5Fclose(file);
    return status;
}

stm_status stm_share_text(MPI_Comm comm, char **text)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    size_t n = *text && rank == 0 ? strlen(*text) + 1 : 0;
    stm_broadcast(comm, 0, &n, sizeof n);
    if (n == 0)
        return STM_OK;
    STM_TRY(stm_agree_on(comm, rank == 0 ? STM_OK : stm_alloc(n, 1, text)));
    stm_broadcast(comm, 0, *text, n);
    return STM_OK;
}

static stm_status read_kept(hid_t file, const char *path, stm_kept kept[STM_CHECKPOINT_N_KEPT])
{
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        if (stm_hdf5_has(file, "/kept") && stm_hdf5_has(file, stm_checkpoint_kept_names[i]))
            STM_TRY(stm_hdf5_bytes(file, path, stm_checkpoint_kept_names[i], &kept[i]));
    return STM_OK;
}

/* Rank 0's bytes to the others, which know their number. Collective. */
static stm_status share_kept(MPI_Comm comm, char *mine, stm_kept *kept)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    kept->bytes = mine;
    kept->capacity = kept->n;
    STM_TRY(stm_agree_on(comm, rank == 0 || kept->n == 0 ? STM_OK : stm_alloc(kept->n, 1, &kept->bytes)));
    stm_broadcast(comm, 0, kept->bytes, kept->n);
    return STM_OK;
}

/* Collective. */
static stm_status share_state(MPI_Comm comm, stm_checkpoint_state *state)
{
    char **texts[] = {&state->options_yaml, &state->trainer_json, &state->version};
    char *mine[] = {state->options_yaml, state->trainer_json, state->version};
    char *my_kept[STM_CHECKPOINT_N_KEPT];
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        my_kept[i] = state->kept[i].bytes;
    stm_broadcast(comm, 0, state, sizeof *state);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        *texts[i] = mine[i]; /* an address means nothing elsewhere */
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        state->kept[i].bytes = my_kept[i];
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        STM_TRY(stm_share_text(comm, texts[i]));
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        STM_TRY(share_kept(comm, my_kept[i], &state->kept[i]));
    return STM_OK;
}

stm_status stm_checkpoint_read_state(MPI_Comm comm, const char *path, stm_checkpoint_state *state)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    *state = (stm_checkpoint_state){0};
    STM_TRY(stm_agree_on(comm, rank == 0 ? stm_checkpoint_state_here(path, state) : STM_OK));
    const stm_status status = share_state(comm, state);
    if (status != STM_OK)
        stm_checkpoint_state_clear(state);
    return status;
}

/* Tensors */

/* Memory to read through: a block of the file as it is, as reals, and as floats for the hash. */
typedef struct {
    int descriptor;
    void *raw, *reals, *floats; /* [PORTION] of at most 8 bytes each */
} reading;
enum { PORTION = STM_BLOCK_BYTES / sizeof(double) };
enum { AHEAD_BYTES = 64 << 20 }; /* that the disk is asked for in advance */

static stm_status begin_reading(const char *path, reading *r)
{
    *r = (reading){.descriptor = -1};
    STM_TRY(stm_alloc(PORTION, sizeof(double), &r->raw));
    STM_TRY(stm_alloc(PORTION, sizeof(double), &r->reals));
    STM_TRY(stm_alloc(PORTION, sizeof(double), &r->floats));
    return stm_disk_open(path, false, &r->descriptor);
}

static void end_reading(reading *r)
{
    stm_disk_close(r->descriptor);
    free(r->raw);
    free(r->reals);
    free(r->floats);
}

/* n numbers at `offset` of the file -> device memory; they stay in r->reals. n: at most PORTION. */
static stm_status read_portion(const reading *r, const char *path, const stm_model *model, uint64_t offset,
                               size_t file_real_bytes, size_t n, void *device)
{
    const stm_backend *backend = model->backend;
    STM_TRY(stm_read_reals(r->descriptor, path, offset, file_real_bytes, n, r->raw, backend->real_bytes, r->reals));
    STM_TRY(backend->write(model->stream, device, r->reals, n * backend->real_bytes));
    return backend->synchronize(model->stream);
}

/* n reals from element `first` of the parameter buffer: what the model holds of them. */
static stm_status keep(const stm_model *model, const void *reals, size_t first, size_t n)
{
    const stm_backend *backend = model->backend;
    for (size_t i = 0; i < 2; i++) {
        const stm_range held = stm_model_held_of(model, i, first, n);
        STM_TRY(backend->write(model->stream, stm_at(backend, model->weights, held.first),
                               stm_at(backend, reals, held.first - first), held.n * backend->real_bytes));
    }
    return backend->synchronize(model->stream); /* `reals` is written again */
}

/* Elements [first, first + n) of a tensor into r->reals, n at most PORTION. */
static stm_status read_checked(const reading *r, const char *path, const stm_places *places, const stm_model *model,
                               size_t tensor, size_t first, size_t n, XXH3_state_t *hash)
{
    const size_t real_bytes = model->backend->real_bytes;
    const uint64_t offset = places->offsets[STM_CHECKPOINT_PARAMETERS][tensor] + (uint64_t)first * places->real_bytes;
    /* Tensors lie in this order in the file, so this reaches into the next one, too. */
    stm_disk_will_read(r->descriptor, offset + AHEAD_BYTES, n * places->real_bytes);
    STM_TRY(stm_read_reals(r->descriptor, path, offset, places->real_bytes, n, r->raw, real_bytes, r->reals));
    const size_t bad = stm_first_not_finite(r->reals, real_bytes, n);
    if (bad < n)
        return stm_fail(STM_ERR_INPUT, "%s: /parameters/%s: element %zu is not a finite number", path,
                        model->tensors[tensor].name, first + bad);
    stm_dtype_to_float(real_bytes == 8 ? STM_F64 : STM_F32, r->reals, n, r->floats);
    XXH3_64bits_update(hash, r->floats, n * sizeof(float));
    return STM_OK;
}

/* Portion by portion: rank 0 reads, every rank gets all and keeps what its model holds. A rank that fails still takes
 * part in each message. comm: MPI_COMM_NULL for a process alone, where MPI need not run. */
static stm_status pass_parameters(MPI_Comm comm, int rank, const reading *r, const char *path, const stm_places *places,
                                  stm_model *model, XXH3_state_t *hash)
{
    stm_status status = STM_OK;
    for (size_t t = 0; t < model->n_tensors; t++) {
        const stm_parameter *tensor = &model->tensors[t];
        for (size_t first = 0; first < tensor->n; first += PORTION) {
            const size_t n = STM_MIN((size_t)PORTION, tensor->n - first);
            if (rank == 0 && status == STM_OK)
                status = read_checked(r, path, places, model, t, first, n, hash);
            if (comm != MPI_COMM_NULL)
                stm_broadcast(comm, 0, r->reals, n * model->backend->real_bytes);
            if (status == STM_OK)
                status = keep(model, r->reals, tensor->offset + first, n);
        }
    }
    return status == STM_OK ? stm_model_weights_changed(model) : status;
}

static stm_status agree_if(MPI_Comm comm, stm_status status)
{
    return comm == MPI_COMM_NULL ? status : stm_agree_on(comm, status);
}

/* All weights and their hash, which is that of a folder with the same numbers. places: rank 0. Collective over comm, or
 * local (MPI_COMM_NULL). */
static stm_status read_parameters(MPI_Comm comm, const char *path, const stm_places *places, stm_model *model)
{
    stm_status status = STM_OK;
    reading r = {.descriptor = -1};
    int rank = 0;
    XXH3_state_t *hash = XXH3_createState();
    if (comm != MPI_COMM_NULL)
        STM_MPI(MPI_Comm_rank(comm, &rank));
    if (!hash)
        status = stm_fail(STM_ERR_MEMORY, "out of memory");
    if (status == STM_OK)
        status = rank == 0 ? begin_reading(path, &r) : stm_alloc(PORTION, model->backend->real_bytes, &r.reals);
    STM_GOTO_OUT(agree_if(comm, status));
    XXH3_64bits_reset(hash);
    if (rank == 0)
        stm_disk_will_read(r.descriptor, places->offsets[STM_CHECKPOINT_PARAMETERS][0], AHEAD_BYTES);
    STM_GOTO_OUT(agree_if(comm, pass_parameters(comm, rank, &r, path, places, model, hash)));
    model->hash = XXH3_64bits_digest(hash);
    if (comm != MPI_COMM_NULL)
        stm_broadcast(comm, 0, &model->hash, sizeof model->hash);
out:
    XXH3_freeState(hash);
    end_reading(&r);
    return status;
}

static uint64_t piece_offset(const stm_places *places, stm_checkpoint_kind kind, const stm_piece *piece)
{
    return places->offsets[kind][piece->tensor] + (uint64_t)piece->first * places->real_bytes;
}

/* Piece i is about to be read: asks for those within AHEAD_BYTES behind it, once. */
static void read_pieces_ahead(const reading *r, const stm_places *places, stm_checkpoint_kind kind,
                              const stm_piece *pieces, size_t n, size_t i, size_t *asked)
{
    const uint64_t end = piece_offset(places, kind, &pieces[i]) + AHEAD_BYTES;
    for (; *asked < n && piece_offset(places, kind, &pieces[*asked]) <= end; ++*asked)
        stm_disk_will_read(r->descriptor, piece_offset(places, kind, &pieces[*asked]),
                           pieces[*asked].n * places->real_bytes);
}

/* The optimizer state that a rank of the cut owns. Local. */
static stm_status read_optimizer(const char *path, const stm_places *places, const stm_model *model,
                                 const stm_shards *shards, int rank, void *const *targets)
{
    stm_status status = STM_OK;
    stm_piece *pieces = NULL;
    size_t n;
    reading r;
    STM_GOTO_OUT(begin_reading(path, &r));
    STM_GOTO_OUT(stm_pieces_list(model, shards, rank, sizeof(double), &pieces, &n)); /* none is above PORTION */
    for (stm_checkpoint_kind kind = STM_CHECKPOINT_EXP_AVG; kind < STM_CHECKPOINT_N_KINDS; kind++) {
        size_t asked = 0;
        for (size_t i = 0; i < n && (kind < STM_CHECKPOINT_COPIES || targets[kind]); i++) {
            const stm_piece *piece = &pieces[i];
            read_pieces_ahead(&r, places, kind, pieces, n, i, &asked);
            void *device = stm_at(model->backend, targets[kind], piece->packed);
            STM_GOTO_OUT(
                read_portion(&r, path, model, piece_offset(places, kind, piece), places->real_bytes, piece->n, device));
        }
    }
out:
    free(pieces);
    end_reading(&r);
    return status;
}

/* Rank 0: what is no tensor, and where those lie. */
static stm_status load_first(const char *path, const stm_model *model, void *const *targets, stm_places *places,
                             stm_checkpoint_state *state)
{
    hid_t file;
    STM_TRY(stm_hdf5_open(path, &file));
    stm_status status = read_state(file, path, state);
    if (status == STM_OK)
        status = read_kept(file, path, state->kept);
    if (status == STM_OK)
        status = stm_places_read(file, path, model, places);
    H5Fclose(file);
    for (size_t i = 0; i < STM_CHECKPOINT_N_COPIES && status == STM_OK; i++)
        if (targets[STM_CHECKPOINT_COPIES + i] && places->offsets[STM_CHECKPOINT_COPIES + i][0] == 0)
            status = stm_fail(STM_ERR_INPUT, "%s: found no /copies/%s, expected one with these options", path,
                              copy_names[i]);
    return status;
}

stm_status stm_checkpoint_load(MPI_Comm comm, const char *path, stm_model *model, const stm_shards *shards,
                               void *exp_avg, void *exp_avg_sq, stm_checkpoint_state *state)
{
    int rank, n_ranks;
    stm_status status = STM_OK;
    stm_places places = {0};
    void *targets[STM_CHECKPOINT_N_KINDS] = {NULL, NULL, exp_avg, exp_avg_sq};
    memcpy(targets + STM_CHECKPOINT_COPIES, state->copies, sizeof state->copies);
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    assert(n_ranks % shards->n_ranks == 0 && shards->first == model->own.first && shards->n == model->own.n);
    *state = (stm_checkpoint_state){0};
    STM_GOTO_OUT(stm_agree_on(comm, stm_places_create(model->n_tensors, &places)));
    STM_GOTO_OUT(stm_agree_on(comm, rank == 0 ? load_first(path, model, targets, &places, state) : STM_OK));
    STM_GOTO_OUT(share_state(comm, state));
    STM_GOTO_OUT(read_parameters(comm, path, &places, model));
    stm_broadcast(comm, 0, &places.real_bytes, sizeof places.real_bytes);
    stm_broadcast(comm, 0, places.all, STM_CHECKPOINT_N_KINDS * model->n_tensors * sizeof *places.all);
    STM_GOTO_OUT(stm_agree_on(comm, read_optimizer(path, &places, model, shards, rank % shards->n_ranks, targets)));
out:
    free(places.all);
    if (status != STM_OK)
        stm_checkpoint_state_clear(state);
    return status;
}

/* A model */

/* Texts, configuration and names of the tensors. */
static stm_status describe(hid_t file, const char *path, stm_model **out)
{
    char *texts[STM_CHECKPOINT_N_TEXTS] = {0}, *where = NULL;
    stm_model_config config;
    stm_model *model = NULL;
    stm_status status = STM_OK;
    for (size_t i = 0; i < STM_CHECKPOINT_N_TEXTS; i++)
        STM_GOTO_OUT(read_text(file, path, i, &texts[i]));
    STM_GOTO_OUT(stm_format(&where, "%s: /model/config.json", path));
    STM_GOTO_OUT(stm_model_config_parse(where, texts[0], texts[3], &config));
    STM_GOTO_OUT(stm_model_lay_out(&config, &model));
    if (config.tied && !stm_hdf5_has(file, "/parameters/model.embed_tokens.weight"))
        snprintf(model->tensors[0].name, sizeof model->tensors[0].name, "lm_head.weight");
    model->config_json = texts[0];
    model->tokenizer_json = texts[1];
    model->tokenizer_config_json = texts[2];
    model->generation_config_json = texts[3];
    memset(texts, 0, sizeof texts);
    *out = model;
    model = NULL;
out:
    for (size_t i = 0; i < STM_CHECKPOINT_N_TEXTS; i++)
        free(texts[i]);
    free(where);
    stm_model_destroy(model);
    return status;
}

/* Where the tensors of the model lie. The caller frees places->all, also after a failure. */
static stm_status find_places(const char *path, const stm_model *model, stm_places *places)
{
    hid_t file;
    STM_TRY(stm_places_create(model->n_tensors, places));
    STM_TRY(stm_hdf5_open(path, &file));
    const stm_status status = stm_places_read(file, path, model, places);
    H5Fclose(file);
    return status;
}

stm_status stm_checkpoint_describe(const char *path, stm_model **out)
{
    stm_status status = STM_OK;
    stm_places places = {0};
    stm_model *model = NULL;
    hid_t file;
    STM_TRY(stm_checkpoint_verify_here(path, 1 << STM_CHECKPOINT_REST | 1 << STM_CHECKPOINT_PARAMETERS));
    STM_TRY(stm_hdf5_open(path, &file));
    status = describe(file, path, &model);
    H5Fclose(file);
    STM_TRY(status);
    STM_GOTO_OUT(find_places(path, model, &places)); /* before memory is taken: config.json may not fit the tensors */
    *out = model;
    model = NULL;
out:
    free(places.all);
    stm_model_destroy(model);
    return status;
}

stm_status stm_checkpoint_load_parameters(MPI_Comm comm, const char *path, stm_model *model)
{
    stm_status status = STM_OK;
    stm_places places = {0};
    int rank = 0;
    if (comm != MPI_COMM_NULL)
        STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_GOTO_OUT(agree_if(comm, rank == 0 ? find_places(path, model, &places) : STM_OK));
    STM_GOTO_OUT(read_parameters(comm, path, &places, model));
out:
    free(places.all);
    return status;
}

stm_status stm_checkpoint_model(const char *path, const stm_backend *backend, stm_stream *stream, stm_model **out)
{
    stm_status status = STM_OK;
    stm_model *model = NULL;
    STM_GOTO_OUT(stm_checkpoint_describe(path, &model));
    STM_GOTO_OUT(stm_model_allocate(model, backend, stream));
    STM_GOTO_OUT(stm_checkpoint_load_parameters(MPI_COMM_NULL, path, model));
    *out = model;
    model = NULL;
out:
    stm_model_destroy(model);
    return status;
}
