#include "checkpoint/save.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/disk.h"
#include "checkpoint/folder.h"

stm_checkpoint_kind stm_saving_next(const stm_saving *s, stm_checkpoint_kind kind)
{
    do
        kind++;
    while (kind >= STM_CHECKPOINT_COPIES && kind < STM_CHECKPOINT_N_KINDS && !s->sources[kind]);
    return kind;
}

static stm_status start(stm_saving *s, const char *folder, int64_t step)
{
    s->real_bytes = s->model->backend->real_bytes;
    STM_TRY(stm_step_path(folder, step, &s->path));
    STM_TRY(stm_step_path_partial(folder, step, &s->partial));
    STM_TRY(stm_alloc(STM_BLOCK_BYTES, 1, &s->block));
    STM_TRY(stm_alloc((size_t)s->n_ranks + 1, sizeof *s->starts, &s->starts));
    STM_TRY(stm_alloc(2 * (size_t)s->n_ranks, sizeof *s->verifier, &s->verifier));
    STM_TRY(stm_places_create(s->model->n_tensors, &s->places));
    s->places.real_bytes = s->real_bytes;
    STM_TRY(
        stm_pieces_list(s->model, s->shards, s->rank % s->shards->n_ranks, s->real_bytes, &s->pieces, &s->n_pieces));
    STM_TRY(stm_alloc(s->n_kinds * s->n_pieces, sizeof *s->mine, &s->mine));
    if (!s->model->config_json)
        return stm_fail(STM_ERR_INPUT, "%s: the model holds no config.json, so nothing could open it again", s->path);
    return STM_OK;
}

static stm_status lay_out_trainer(stm_skeleton *skeleton, const stm_checkpoint_state *state)
{
    static const char where[] = "/trainer";
    STM_TRY(stm_skeleton_group(skeleton, where));
    STM_TRY(stm_skeleton_attribute(skeleton, where, "step", H5T_NATIVE_INT64, &state->step));
    STM_TRY(stm_skeleton_attribute(skeleton, where, "seed", H5T_NATIVE_UINT64, &state->seed));
    STM_TRY(stm_skeleton_attribute(skeleton, where, "cursor", H5T_NATIVE_UINT64, &state->cursor));
    STM_TRY(stm_skeleton_attribute(skeleton, where, "best", H5T_NATIVE_DOUBLE, &state->best));
    STM_TRY(stm_skeleton_attribute(skeleton, where, "model_hash", H5T_NATIVE_UINT64, &state->model_hash));
    STM_TRY(stm_skeleton_attribute_text(skeleton, where, "options", state->options_yaml ? state->options_yaml : ""));
    STM_TRY(stm_skeleton_attribute_text(skeleton, where, "trainer", state->trainer_json ? state->trainer_json : ""));
    return stm_skeleton_attribute_text(skeleton, where, "version", STEMMA_VERSION);
}

static stm_status lay_out_model(stm_skeleton *skeleton, const stm_model *model)
{
    const struct {
        const char *name, *text;
    } texts[] = {{"/model/config.json", model->config_json},
                 {"/model/tokenizer.json", model->tokenizer_json},
                 {"/model/tokenizer_config.json", model->tokenizer_config_json},
                 {"/model/generation_config.json", model->generation_config_json}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].text)
            STM_TRY(stm_skeleton_text(skeleton, texts[i].name, texts[i].text));
    return STM_OK;
}

static stm_status lay_out_kept(stm_skeleton *skeleton, const stm_checkpoint_state *state)
{
    for (size_t i = 0; i < STM_CHECKPOINT_N_KEPT; i++)
        if (state->kept[i].n > 0)
            STM_TRY(stm_skeleton_bytes(skeleton, stm_checkpoint_kept_names[i], state->kept[i].bytes, state->kept[i].n));
    return STM_OK;
}

static stm_status lay_out(stm_saving *s, const stm_checkpoint_state *state)
{
    const hid_t type = s->real_bytes == sizeof(double) ? H5T_IEEE_F64LE : H5T_IEEE_F32LE;
    char name[STM_TENSOR_PATH];
    STM_TRY(lay_out_trainer(s->skeleton, state));
    STM_TRY(lay_out_model(s->skeleton, s->model));
    STM_TRY(lay_out_kept(s->skeleton, state));
    for (stm_checkpoint_kind kind = STM_CHECKPOINT_PARAMETERS; kind < STM_CHECKPOINT_N_KINDS;
         kind = stm_saving_next(s, kind))
        for (size_t i = 0; i < s->model->n_tensors; i++) {
            const stm_parameter *parameter = &s->model->tensors[i];
            STM_TRY(stm_skeleton_dataset(s->skeleton, stm_tensor_path(kind, parameter->name, name), type,
                                         parameter->n_dims, parameter->shape, &s->places.offsets[kind][i]));
        }
    const size_t shape[] = {s->table.n_rows, sizeof(stm_hash_row) / sizeof(uint64_t)};
    STM_TRY(stm_skeleton_dataset(s->skeleton, "/hashes", H5T_STD_U64LE, 2, shape, &s->table.table_offset));
    return stm_skeleton_finish(s->skeleton, &s->table.file_bytes);
}

/* Rank 0: room on the disk, the skeleton, room for it too. */
static stm_status make_room(stm_saving *s, const stm_checkpoint_state *state)
{
    stm_status status = STM_OK;
    int descriptor = -1;
    s->table.n_rows = 1;
    for (int r = 0; r < s->n_ranks; r++) {
        int place;
        const stm_shards shards = stm_shards_of(s->model, s->shards, s->n_ranks, r, &place);
        s->table.n_rows += s->n_kinds * stm_pieces(s->model, &shards, place, s->real_bytes, NULL);
    }
    STM_GOTO_OUT(stm_disk_create(s->partial, &descriptor));
    s->began = true;
    STM_GOTO_OUT(
        stm_disk_reserve(descriptor, s->partial,
                         s->n_kinds * s->model->n_parameters * s->real_bytes + s->table.n_rows * sizeof(stm_hash_row)));
    STM_GOTO_OUT(stm_skeleton_create(s->partial, STM_FIRST_BYTES, &s->skeleton));
    STM_GOTO_OUT(lay_out(s, state));
    STM_GOTO_OUT(stm_disk_reserve(descriptor, s->partial, s->table.file_bytes));
    STM_GOTO_OUT(stm_skeleton_copy(s->skeleton, descriptor));
    STM_GOTO_OUT(stm_disk_sync(descriptor, s->partial));
out:
    stm_disk_close(descriptor);
    return status;
}

/* The bytes of a piece: from the copy, or from the device through the block. */
static stm_status take_piece(const stm_saving *s, stm_checkpoint_kind kind, const stm_piece *piece, const void **bytes)
{
    const stm_backend *backend = s->model->backend;
    *bytes = s->block;
    if (s->copies[kind]) {
        *bytes = (const char *)s->copies[kind] + piece->packed * s->real_bytes;
        return STM_OK;
    }
    return backend->read(s->model->stream, s->block, stm_saving_source(s, kind, piece), piece->n * s->real_bytes);
}

const void *stm_saving_source(const stm_saving *s, stm_checkpoint_kind kind, const stm_piece *piece)
{
    const size_t in_buffer = s->model->tensors[piece->tensor].offset + piece->first;
    return stm_at(s->model->backend, s->sources[kind], kind == STM_CHECKPOINT_PARAMETERS ? in_buffer : piece->packed);
}

/* A piece -> its hash and the file. */
static stm_status write_piece(const stm_saving *s, int descriptor, stm_checkpoint_kind kind, const stm_piece *piece,
                              stm_hash_row *row)
{
    const void *bytes;
    *row = (stm_hash_row){.offset = s->places.offsets[kind][piece->tensor] + piece->first * s->real_bytes,
                          .bytes = piece->n * s->real_bytes,
                          .kind = kind};
    STM_TRY(take_piece(s, kind, piece, &bytes));
    row->hash = stm_hash(bytes, row->bytes);
    STM_TRY(stm_disk_write(descriptor, s->partial, row->offset, bytes, row->bytes));
    stm_disk_push(descriptor, row->offset, row->bytes);
    return STM_OK;
}

stm_status stm_saving_write(stm_saving *s)
{
    stm_status status = STM_OK;
    int descriptor = -1;
    if (s->n_pieces == 0)
        return STM_OK;
    STM_GOTO_OUT(stm_disk_open(s->partial, true, &descriptor));
    stm_hash_row *row = s->mine;
    for (stm_checkpoint_kind kind = STM_CHECKPOINT_PARAMETERS; kind < STM_CHECKPOINT_N_KINDS;
         kind = stm_saving_next(s, kind))
        for (size_t i = 0; i < s->n_pieces; i++)
            STM_GOTO_OUT(write_piece(s, descriptor, kind, &s->pieces[i], row++));
    STM_GOTO_OUT(stm_disk_sync(descriptor, s->partial));
out:
    stm_disk_close(descriptor);
    return status;
}

/* Rank 0: the table of hashes. */
static stm_status seal(stm_saving *s)
{
    stm_status status = STM_OK;
    int descriptor = -1;
    STM_GOTO_OUT(stm_alloc(s->table.n_rows, sizeof *s->table.rows, &s->table.rows));
    assert((s->table.n_rows - 1) * sizeof *s->rows == s->starts[s->n_ranks]);
    if (s->table.n_rows > 1)
        memcpy(s->table.rows + 1, s->rows, s->starts[s->n_ranks]);
    STM_GOTO_OUT(stm_disk_open(s->partial, true, &descriptor));
    STM_GOTO_OUT(stm_hashes_seal(&s->table, stm_skeleton_descriptor(s->skeleton), descriptor, s->partial, s->block));
    STM_GOTO_OUT(stm_disk_sync(descriptor, s->partial));
out:
    stm_disk_close(descriptor);
    return status;
}

/* verifier: [2 * n_ranks]: who reads back what rank r wrote, then scratch. Collective. */
static void choose_verifiers(MPI_Comm comm, int rank, int n_ranks, int *verifier)
{
    int node = rank; /* a node is called by its lowest rank */
    int *const nodes = verifier + n_ranks;
    MPI_Comm neighbours;
    STM_MPI(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &neighbours));
    STM_MPI(MPI_Bcast(&node, 1, MPI_INT, 0, neighbours));
    STM_MPI(MPI_Comm_free(&neighbours));
    STM_MPI(MPI_Allgather(&node, 1, MPI_INT, nodes, 1, MPI_INT, comm));
    for (int r = 0; r < n_ranks; r++)
        verifier[r] = stm_verifier_of(nodes, n_ranks, r);
}

/* Drops the system's copies first, so that the disk is read; a hint, whose failure changes nothing. */
static stm_status check_rows(const stm_saving *s, int descriptor, const stm_hash_table *rows)
{
    for (size_t i = 0; i < rows->n_rows; i++)
        (void)posix_fadvise(descriptor, (off_t)rows->rows[i].offset, (off_t)rows->rows[i].bytes, POSIX_FADV_DONTNEED);
    return stm_hashes_check_all(rows, descriptor, s->partial);
}

stm_status stm_saving_read_back(stm_saving *s)
{
    stm_status status = STM_OK;
    int descriptor = -1;
    stm_hash_table whole = {0};
    STM_GOTO_OUT(stm_disk_open(s->partial, false, &descriptor));
    for (int r = 0; r < s->n_ranks; r++) {
        if (s->verifier[r] != s->rank)
            continue;
        const stm_hash_table rows = {.rows = s->rows + s->starts[r] / sizeof *s->rows,
                                     .n_rows = (s->starts[r + 1] - s->starts[r]) / sizeof *s->rows};
        STM_GOTO_OUT(check_rows(s, descriptor, &rows));
    }
    if (s->verifier[0] == s->rank) {
        STM_GOTO_OUT(stm_hashes_open(descriptor, s->partial, &whole));
        STM_GOTO_OUT(stm_hashes_check(&whole, 0, descriptor, s->partial, s->block));
    }
out:
    free(whole.rows);
    stm_disk_close(descriptor);
    if (status == STM_ERR_INPUT) /* it is the disk's fault, not that of an input */
        status = stm_fail_context(STM_ERR_IO, "reading back what was written");
    return status;
}

stm_status stm_saving_begin(stm_saving *s, MPI_Comm comm, const char *folder, const stm_checkpoint_state *state,
                            const stm_model *model, const stm_shards *shards, const void *exp_avg,
                            const void *exp_avg_sq)
{
    *s = (stm_saving){
        .comm = comm, .model = model, .shards = shards, .sources = {NULL, model->weights, exp_avg, exp_avg_sq}};
    for (size_t i = 0; i < STM_CHECKPOINT_N_COPIES; i++)
        s->sources[STM_CHECKPOINT_COPIES + i] = state->copies[i];
    for (stm_checkpoint_kind kind = STM_CHECKPOINT_REST; kind < STM_CHECKPOINT_N_KINDS; kind = stm_saving_next(s, kind))
        s->n_kinds += kind != STM_CHECKPOINT_REST;
    STM_MPI(MPI_Comm_rank(comm, &s->rank));
    STM_MPI(MPI_Comm_size(comm, &s->n_ranks));
    assert(s->n_ranks % shards->n_ranks == 0 && shards->first == model->own.first && shards->n == model->own.n);
    STM_TRY(stm_agree_on(comm, start(s, folder, state->step)));
    STM_TRY(stm_agree_on(comm, s->rank == 0 ? make_room(s, state) : STM_OK));
    stm_broadcast(comm, 0, s->places.all, STM_CHECKPOINT_N_KINDS * model->n_tensors * sizeof *s->places.all);
    return STM_OK;
}

stm_status stm_saving_seal(stm_saving *s, stm_status written)
{
    char *rows = NULL;
    STM_TRY(stm_agree_on(s->comm, written));
    STM_TRY(stm_gather_bytes(s->comm, s->mine, s->n_kinds * s->n_pieces * sizeof *s->mine, &rows, s->starts));
    s->rows = (stm_hash_row *)rows;
    STM_TRY(stm_agree_on(s->comm, s->rank == 0 ? seal(s) : STM_OK));
    choose_verifiers(s->comm, s->rank, s->n_ranks, s->verifier);
    return STM_OK;
}

stm_status stm_saving_finish(stm_saving *s, stm_status read_back)
{
    STM_TRY(stm_agree_on(s->comm, read_back));
    STM_TRY(stm_agree_on(s->comm, s->rank == 0 ? stm_disk_rename(s->partial, s->path) : STM_OK));
    s->began = false;
    return STM_OK;
}

void stm_saving_clear(stm_saving *s)
{
    void *memory[] = {s->verifier, s->path, s->partial,    s->pieces,     s->mine,
                      s->starts,   s->rows, s->table.rows, s->places.all, s->block};
    if (s->began)
        unlink(s->partial);
    stm_skeleton_destroy(s->skeleton);
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        free(memory[i]);
    *s = (stm_saving){0};
}

stm_status stm_checkpoint_save(MPI_Comm comm, const char *folder, const stm_checkpoint_state *state,
                               const stm_model *model, const stm_shards *shards, const void *exp_avg,
                               const void *exp_avg_sq)
{
    stm_saving s;
    stm_status status = stm_saving_begin(&s, comm, folder, state, model, shards, exp_avg, exp_avg_sq);
    if (status == STM_OK)
        status = stm_saving_seal(&s, stm_saving_write(&s));
    if (status == STM_OK)
        status = stm_saving_finish(&s, stm_saving_read_back(&s));
    stm_saving_clear(&s);
    return status;
}
