#include "group/chunk.h"

#include <math.h>
#include <sched.h>
#include <string.h>

#include "group/neighbours.h"
#include "group/parts.h"
#include "group/profile.h"
#include "model/head.h"
#include "model/layer.h"
#include "model/stages.h"
#include "mpi/reduction.h"
#include "mpi/rounds.h"

struct stm_chunk {
    stm_bank bank;
    size_t n_segments;
    size_t *segments, *first_rows; /* [n_segments], host */
    size_t n_rows, n_active;
    void *kv, *dkv; /* [layers here, 2, n_kv_heads, n_rows, head_dim], of activations, of reals; dkv NULL without
                     * gradient */
    bool in_window; /* kv: written once */

    /* What follows only where the chunk is computed. Rows with loss are active: all that the last layer and the head
     * see. */
    size_t *active_rows;           /* [n_active], host */
    int32_t *ids, *positions;      /* [n_rows] */
    int32_t *active;               /* [n_active]; NULL: all rows */
    int32_t *active_positions;     /* [n_active] */
    int32_t *targets;              /* [n_active] */
    double *inverse_temperature;   /* [n_active] */
    stm_parts parts, active_parts; /* of all layers but the last, and of the last */
    stm_layer_kept *kept;          /* [layers here], host; NULL: not kept */
    void *x_in;                    /* [n_rows, hidden]: what a stage received, to go forward again from; else NULL */
    void *x_out;                   /* [n_active, hidden]: the last layer's output, on the last stage, where kept */
};

/* Sizes */

static size_t n_layers_here(const stm_model *model)
{
    return model->end_layer - model->first_layer;
}

static size_t kv_layer_n(const stm_model *model, size_t n_rows)
{
    return 2 * model->config.n_kv_heads * n_rows * model->config.head_dim;
}

size_t stm_chunk_n_rows(const stm_chunk *chunk)
{
    return chunk->n_rows;
}

size_t stm_chunk_kv_n(const stm_pass *pass, const stm_chunk *chunk)
{
    return kv_layer_n(pass->model, chunk->n_rows);
}

void *stm_chunk_kv(const stm_pass *pass, const stm_chunk *chunk, size_t layer)
{
    return stm_activation_at(pass->model->backend, chunk->kv,
                             (layer - pass->model->first_layer) * stm_chunk_kv_n(pass, chunk));
}

void *stm_chunk_dkv(const stm_pass *pass, const stm_chunk *chunk, size_t layer)
{
    return stm_at(pass->model->backend, chunk->dkv, (layer - pass->model->first_layer) * stm_chunk_kv_n(pass, chunk));
}

size_t stm_chunk_dkv_bytes(const stm_model *model, size_t n_rows)
{
    return n_layers_here(model) * kv_layer_n(model, n_rows) * model->backend->real_bytes;
}

size_t stm_chunk_kv_bytes(const stm_model *model, size_t n_rows, bool gradient)
{
    return n_layers_here(model) * kv_layer_n(model, n_rows) * model->backend->activation_bytes +
           (gradient ? stm_chunk_dkv_bytes(model, n_rows) : 0);
}

size_t stm_chunk_kept_bytes(const stm_model *model, size_t n_rows)
{
    return n_layers_here(model) * stm_layer_kept_bytes(model, n_rows, n_rows) +
           n_rows * model->config.hidden_size * model->backend->real_bytes;
}

size_t stm_chunk_scratch_bytes(const stm_model *model, size_t n_rows, bool gradient)
{
    const stm_backend *b = model->backend;
    const size_t row_bytes = n_rows * model->config.hidden_size * b->real_bytes;
    const size_t besides = gradient ? row_bytes + kv_layer_n(model, n_rows) * b->activation_bytes
                                    : 2 * stm_layer_kept_bytes(model, n_rows, n_rows);
    return stm_layer_scratch_bytes(model, n_rows, gradient) + row_bytes + besides + stm_head_scratch_bytes(model) +
           n_rows * 10 * sizeof(double);
}

/* Room on the device for n elements, and for a copy of host's. */
static stm_status take(stm_pass *pass, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(pass->device, n * element_bytes, out);
}

static stm_status take_reals(stm_pass *pass, size_t n, void *out)
{
    return take(pass, n, pass->model->backend->real_bytes, out);
}

static stm_status take_activations(stm_pass *pass, size_t n, void *out)
{
    return take(pass, n, pass->model->backend->activation_bytes, out);
}

static stm_status take_copy(stm_pass *pass, size_t n, size_t element_bytes, const void *host, void *out)
{
    void *device;
    STM_TRY(take(pass, n, element_bytes, &device));
    memcpy(out, &device, sizeof device);
    return pass->model->backend->write(pass->model->stream, device, host, n * element_bytes);
}

static stm_status take_host(stm_pass *pass, size_t n, size_t element_bytes, void *out)
{
    return stm_arena_take(pass->host, n * element_bytes, out);
}

stm_status stm_pass_begin(stm_pass *pass)
{
    const size_t n = pass->forest->n_segments;
    STM_TRY(take_host(pass, n, sizeof *pass->places, &pass->places));
    STM_TRY(take_host(pass, n, sizeof *pass->part_of, &pass->part_of));
    for (size_t i = 0; i < n; i++) {
        pass->places[i] = (stm_place){NULL, 0};
        pass->part_of[i] = STM_NONE;
    }
    return STM_OK;
}

/* Creation */

/* Marks the segment's rows that some sequence has use for: loss, or where log-probs are asked for any token. */
static void mark_active(const stm_pass *pass, const stm_segment *segment, uint8_t *active)
{
    for (size_t u = 0; u < segment->n_uses; u++) {
        const stm_use *use = &pass->forest->uses[segment->first_use + u];
        const stm_sequence *s = &pass->forest->sequences[use->sequence];
        const uint8_t *mask = pass->forest->batch->groups[s->group].responses[s->response].mask;
        for (size_t k = 0; k < use->n; k++)
            if (pass->kind == STM_PASS_SCORE || mask[use->first_token + k])
                active[use->first_row + k] = 1;
    }
}

/* Host arrays from which the chunk's rows are described. */
typedef struct {
    int32_t *ids, *positions;
    uint8_t *active; /* [n_rows] */
} row_list;

static stm_status list_rows(stm_pass *pass, const stm_chunk *chunk, row_list *rows)
{
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *rows->ids, &rows->ids));
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *rows->positions, &rows->positions));
    STM_TRY(take_host(pass, chunk->n_rows, 1, &rows->active));
    memset(rows->active, 0, chunk->n_rows);
    for (size_t i = 0; i < chunk->n_segments; i++) {
        const stm_segment *segment = &pass->forest->segments[chunk->segments[i]];
        const stm_sequence *sequence = &pass->forest->sequences[segment->sequence];
        const size_t position = stm_segment_first_position(segment);
        for (size_t r = 0; r < segment->n_rows; r++) {
            rows->positions[chunk->first_rows[i] + r] = (int32_t)(position + r);
            rows->ids[chunk->first_rows[i] + r] = stm_sequence_token(pass->forest->batch, sequence, position + r);
        }
        if (pass->kind != STM_PASS_PREFILL)
            mark_active(pass, segment, rows->active + chunk->first_rows[i]);
    }
    return STM_OK;
}

/* What the last layer and the head need of the active rows. */
static stm_status describe_active(stm_pass *pass, stm_chunk *chunk, const row_list *rows)
{
    int32_t *index, *positions, *targets;
    double *inverse;
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *chunk->active_rows, &chunk->active_rows));
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *index, &index));
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *positions, &positions));
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *targets, &targets));
    STM_TRY(take_host(pass, chunk->n_rows, sizeof *inverse, &inverse));
    size_t n = 0;
    for (size_t i = 0; i < chunk->n_segments; i++) {
        const stm_segment *segment = &pass->forest->segments[chunk->segments[i]];
        const stm_sequence *sequence = &pass->forest->sequences[segment->sequence];
        for (size_t r = chunk->first_rows[i]; r < chunk->first_rows[i] + segment->n_rows; r++) {
            if (!rows->active[r])
                continue;
            chunk->active_rows[n] = r;
            index[n] = (int32_t)r;
            positions[n] = rows->positions[r];
            targets[n] = stm_sequence_token(pass->forest->batch, sequence, (size_t)rows->positions[r] + 1);
            inverse[n++] = 1 / pass->forest->batch->groups[sequence->group].temperature;
        }
    }
    chunk->n_active = n;
    if (n < chunk->n_rows)
        STM_TRY(take_copy(pass, n, sizeof *index, index, &chunk->active));
    STM_TRY(take_copy(pass, n, sizeof *positions, positions, &chunk->active_positions));
    STM_TRY(take_copy(pass, n, sizeof *targets, targets, &chunk->targets));
    return take_copy(pass, n, sizeof *inverse, inverse, &chunk->inverse_temperature);
}

static stm_status describe_rows(stm_pass *pass, stm_chunk *chunk)
{
    row_list rows;
    STM_TRY(list_rows(pass, chunk, &rows));
    STM_TRY(describe_active(pass, chunk, &rows));
    STM_TRY(take_copy(pass, chunk->n_rows, sizeof *rows.ids, rows.ids, &chunk->ids));
    STM_TRY(take_copy(pass, chunk->n_rows, sizeof *rows.positions, rows.positions, &chunk->positions));
    STM_TRY(stm_parts_list(pass, chunk->segments, chunk->first_rows, chunk->n_segments, &chunk->parts));
    return stm_parts_restrict(pass, &chunk->parts, rows.active, chunk->n_rows, &chunk->active_parts);
}

/* The pass, for taking what lives as long as a chunk of the bank. */
static stm_pass in_bank(const stm_pass *pass, const stm_bank *bank)
{
    stm_pass other = *pass;
    other.device = bank->device;
    other.host = bank->host;
    return other;
}

stm_status stm_chunk_take(stm_chunk *chunk, size_t bytes, void *out)
{
    return stm_arena_take(chunk->bank.device, bytes, out);
}

static stm_status place_segments(stm_pass *pass, stm_chunk *chunk, const size_t *segments)
{
    STM_TRY(take_host(pass, chunk->n_segments, sizeof *chunk->segments, &chunk->segments));
    STM_TRY(take_host(pass, chunk->n_segments, sizeof *chunk->first_rows, &chunk->first_rows));
    for (size_t i = 0; i < chunk->n_segments; i++) {
        chunk->segments[i] = segments[i];
        chunk->first_rows[i] = chunk->n_rows;
        pass->places[segments[i]] = (stm_place){chunk, chunk->n_rows};
        chunk->n_rows += pass->forest->segments[segments[i]].n_rows;
    }
    return STM_OK;
}

stm_status stm_chunk_create(stm_pass *pass, const stm_bank *bank, const size_t *segments, size_t n, bool computes,
                            void *kv, stm_chunk **out)
{
    stm_pass lasting = in_bank(pass, bank);
    stm_chunk *chunk;
    STM_TRY(take_host(&lasting, 1, sizeof *chunk, &chunk));
    *chunk = (stm_chunk){.bank = *bank, .n_segments = n, .kv = kv, .in_window = kv != NULL};
    STM_TRY(place_segments(&lasting, chunk, segments));
    const stm_model *model = pass->model;
    if (!kv)
        STM_TRY(take(&lasting, 1, stm_chunk_kv_bytes(model, chunk->n_rows, false), &chunk->kv));
    if (pass->kind == STM_PASS_GRADIENT) {
        const size_t bytes = stm_chunk_dkv_bytes(model, chunk->n_rows);
        STM_TRY(take(&lasting, 1, bytes, &chunk->dkv));
        STM_TRY(model->backend->zero(model->stream, chunk->dkv, bytes));
    }
    *out = chunk;
    return computes ? describe_rows(&lasting, chunk) : STM_OK;
}

/* Forward */

/* How a layer sees the chunk. with_active false: the last layer forms K and V alone. */
static stm_status layer_rows(stm_pass *pass, const stm_chunk *chunk, size_t layer, bool with_active,
                             stm_attend_part *parts, stm_layer_rows *rows)
{
    const stm_model *model = pass->model;
    const bool last = layer + 1 == model->config.n_layers;
    const size_t half = stm_chunk_kv_n(pass, chunk) / 2;
    void *kv = stm_chunk_kv(pass, chunk, layer), *dkv = chunk->dkv ? stm_chunk_dkv(pass, chunk, layer) : NULL;
    *rows = (stm_layer_rows){.n_rows = chunk->n_rows,
                             .positions = chunk->positions,
                             .k = kv,
                             .v = stm_activation_at(model->backend, kv, half),
                             .kv_stride = chunk->n_rows,
                             .dk = dkv,
                             .dv = dkv ? stm_at(model->backend, dkv, half) : NULL,
                             .parts = parts,
                             .hooks = pass->hooks};
    if (last && (chunk->active || !with_active)) {
        rows->n_active = with_active ? chunk->n_active : 0;
        rows->active = chunk->active ? chunk->active : chunk->positions; /* any address will do for no rows */
        rows->active_positions = chunk->active_positions;
    }
    const stm_parts *list = last ? &chunk->active_parts : &chunk->parts;
    rows->n_parts = list->n;
    stm_parts_at_layer(pass, list, layer, parts);
    return STM_OK;
}

static stm_status take_parts(stm_pass *pass, const stm_chunk *chunk, stm_attend_part **parts)
{
    return take_host(pass, STM_MAX(chunk->parts.n, chunk->active_parts.n), sizeof **parts, parts);
}

static stm_status take_layer_scratch(stm_pass *pass, size_t n_rows, bool backward, stm_layer_scratch *scratch)
{
    void *memory;
    STM_TRY(take(pass, 1, stm_layer_scratch_bytes(pass->model, n_rows, backward), &memory));
    stm_layer_scratch_init(pass->model, n_rows, backward, memory, scratch);
    return STM_OK;
}

static stm_status take_kept(stm_pass *pass, size_t n_rows, size_t n_active, stm_layer_kept *kept)
{
    void *memory;
    STM_TRY(take(pass, 1, stm_layer_kept_bytes(pass->model, n_rows, n_active), &memory));
    stm_layer_kept_init(pass->model, n_rows, n_active, memory, kept);
    return STM_OK;
}

/* Rows that leave the last layer of this stage. */
static size_t n_rows_out(const stm_pass *pass, const stm_chunk *chunk)
{
    return stm_model_is_last(pass->model) ? chunk->n_active : chunk->n_rows;
}

/* Takes room for every layer's activations, until the caller resets the arenas. */
static stm_status take_all_kept(stm_pass *pass, stm_chunk *chunk)
{
    const stm_model *model = pass->model;
    STM_TRY(take_host(pass, n_layers_here(model), sizeof *chunk->kept, &chunk->kept));
    for (size_t l = model->first_layer; l < model->end_layer; l++)
        STM_TRY(take_kept(pass, chunk->n_rows, l + 1 == model->config.n_layers ? chunk->n_active : chunk->n_rows,
                          &chunk->kept[l - model->first_layer]));
    return take_reals(pass, n_rows_out(pass, chunk) * model->config.hidden_size, &chunk->x_out);
}

/* What enters the first layer here: embeddings, or what the stage before sends (again: what it sent). */
static stm_status begin_rows(stm_pass *pass, stm_chunk *chunk, bool again, void *x)
{
    const stm_model *model = pass->model;
    const size_t reals = chunk->n_rows * model->config.hidden_size, bytes = reals * model->backend->real_bytes;
    const stm_embed embed = {.n_rows = chunk->n_rows,
                             .width = model->config.hidden_size,
                             .ids = chunk->ids,
                             .table = stm_at(model->backend, model->weights, model->embedding),
                             .y = x};
    if (stm_model_is_first(model))
        return model->backend->embed(model->stream, &embed);
    if (again)
        return model->backend->copy(model->stream, x, chunk->x_in, bytes);
    STM_TRY(stm_neighbours_receive(pass->neighbours, false, chunk->n_rows, x));
    return chunk->x_in ? model->backend->copy(model->stream, chunk->x_in, x, bytes) : STM_OK;
}

/* kept[l] is kept[l % n_kept], counted from the first layer here: with two of them, layers take turns. again: the rows
 * went forward before, and nobody waits for them; K and V that others may be reading stay as they are. */
static stm_status run_layers(stm_pass *pass, stm_chunk *chunk, stm_layer_kept *kept, size_t n_kept, bool with_active,
                             bool again, void *x_out)
{
    const stm_model *model = pass->model;
    const size_t n_layers = n_layers_here(model);
    stm_layer_scratch scratch;
    stm_attend_part *parts;
    STM_TRY(take_layer_scratch(pass, chunk->n_rows, false, &scratch));
    STM_TRY(take_parts(pass, chunk, &parts));
    void *kv_again = NULL;
    if (again && chunk->in_window)
        STM_TRY(take_activations(pass, stm_chunk_kv_n(pass, chunk), &kv_again));
    STM_TRY(begin_rows(pass, chunk, again, kept[0].x));
    for (size_t i = 0; i < n_layers; i++) {
        stm_layer_rows rows;
        STM_TRY(layer_rows(pass, chunk, model->first_layer + i, with_active, parts, &rows));
        if (kv_again) {
            rows.k = kv_again;
            rows.v = stm_activation_at(model->backend, kv_again, stm_chunk_kv_n(pass, chunk) / 2);
        }
        void *out = i + 1 == n_layers ? x_out : kept[(i + 1) % n_kept].x;
        STM_TRY(stm_layer_forward(model, model->first_layer + i, &rows, &kept[i % n_kept], &scratch, out));
    }
    if (stm_model_is_last(model) || again)
        return STM_OK;
    return stm_neighbours_send(pass->neighbours, false, chunk->n_rows, x_out);
}

/* Head */

/* A block of the active rows, [first, first + rows.n_rows), and what the visitor reads and writes of it. */
typedef struct {
    stm_head_rows rows;
    const void *x; /* [n_active, hidden] */
    size_t first;
    bool goes_back;
    void *scratch;
    double *dlogp; /* [n], device */
    /* Host; of the chunk's rows, but compact [n]. */
    double *compact, *host_logp, *host_entropy, *host_dlogp;
} chunk_head;

static stm_status take_head(stm_pass *pass, const stm_chunk *chunk, const void *x, chunk_head *head)
{
    const size_t n = STM_MIN(chunk->n_active, (size_t)STM_HEAD_ROWS), n_rows = chunk->n_rows;
    *head = (chunk_head){.x = x};
    STM_TRY(take_reals(pass, n, &head->rows.inverse_rms));
    STM_TRY(take(pass, n, sizeof(double), &head->rows.logp));
    STM_TRY(take(pass, n, sizeof(double), &head->rows.entropy));
    STM_TRY(take(pass, n, sizeof(double), &head->rows.lse));
    STM_TRY(take(pass, n, sizeof(double), &head->dlogp));
    STM_TRY(take(pass, 1, stm_head_scratch_bytes(pass->model), &head->scratch));
    STM_TRY(take_host(pass, n, sizeof(double), &head->compact));
    STM_TRY(take_host(pass, n_rows, sizeof(double), &head->host_logp));
    STM_TRY(take_host(pass, n_rows, sizeof(double), &head->host_entropy));
    STM_TRY(take_host(pass, n_rows, sizeof(double), &head->host_dlogp));
    for (size_t r = 0; r < n_rows; r++)
        head->host_logp[r] = head->host_entropy[r] = head->host_dlogp[r] = 0;
    return STM_OK;
}

static void move_head(const stm_pass *pass, const stm_chunk *chunk, size_t first, chunk_head *head)
{
    head->first = first;
    head->rows.n_rows = STM_MIN(chunk->n_active - first, (size_t)STM_HEAD_ROWS);
    head->rows.x = stm_at(pass->model->backend, head->x, first * pass->model->config.hidden_size);
    head->rows.targets = chunk->targets + first;
    head->rows.inverse_temperature = chunk->inverse_temperature + first;
}

/* Which of the block's rows row r of the chunk is, one of a use in a pass for scores: these are all active. */
static size_t place_in_block(const stm_chunk *chunk, const chunk_head *head, size_t r)
{
    size_t low = head->first, high = head->first + head->rows.n_rows;
    while (low + 1 < high) {
        const size_t middle = (low + high) / 2;
        *(chunk->active_rows[middle] <= r ? &low : &high) = middle;
    }
    return low - head->first;
}

/* The tokens of one use that rows [begin, end) of the chunk predict; the use's first lies at row `at`. */
static void visit_use(stm_pass *pass, const stm_chunk *chunk, const stm_use *use, size_t at, size_t begin, size_t end,
                      const chunk_head *head)
{
    const bool previews = pass->kind == STM_PASS_GRADIENT && !head->goes_back;
    begin = STM_MAX(begin, at);
    end = STM_MIN(end, at + use->n);
    if (begin >= end)
        return;
    const stm_sequence *sequence = &pass->forest->sequences[use->sequence];
    for (size_t r = begin; r < end; r++)
        if (!previews && !isfinite(head->host_logp[r]) && pass->counts.n_not_finite++ == 0) {
            pass->not_finite_group = sequence->group;
            pass->not_finite_response = sequence->response;
        }
    stm_visit visit = {.group = sequence->group,
                       .response = sequence->response,
                       .first_token = use->first_token + begin - at,
                       .n = end - begin,
                       .logp = head->host_logp + begin,
                       .entropy = head->host_entropy + begin,
                       .dlogp = head->goes_back ? head->host_dlogp + begin : NULL};
    if (pass->kind == STM_PASS_SCORE) {
        const size_t place = place_in_block(chunk, head, begin);
        visit.x = stm_at(pass->model->backend, head->rows.x, place * pass->model->config.hidden_size);
        visit.lse = head->rows.lse + place;
    }
    (previews ? pass->preview : pass->visit)(pass->context, &visit);
}

/* Calls the visitor for the block's part of every use of every segment; rows without loss go with those before them,
 * those of the beginning with the first block. */
static void visit_block(stm_pass *pass, const stm_chunk *chunk, const chunk_head *head)
{
    const size_t last = head->first + head->rows.n_rows;
    const size_t begin = head->first == 0 ? 0 : chunk->active_rows[head->first];
    const size_t end = last == chunk->n_active ? chunk->n_rows : chunk->active_rows[last];
    for (size_t i = 0; i < chunk->n_segments && chunk->first_rows[i] < end; i++) {
        const stm_segment *segment = &pass->forest->segments[chunk->segments[i]];
        for (size_t u = 0; u < segment->n_uses; u++) {
            const stm_use *use = &pass->forest->uses[segment->first_use + u];
            visit_use(pass, chunk, use, chunk->first_rows[i] + use->first_row, begin, end, head);
        }
    }
}

static stm_status read_compact(const stm_pass *pass, const stm_chunk *chunk, const chunk_head *head,
                               const double *device, double *host)
{
    const stm_model *model = pass->model;
    STM_TRY(model->backend->read(model->stream, head->compact, device, head->rows.n_rows * sizeof(double)));
    for (size_t i = 0; i < head->rows.n_rows; i++)
        host[chunk->active_rows[head->first + i]] = head->compact[i];
    return STM_OK;
}

static stm_status head_block_backward(stm_pass *pass, const stm_chunk *chunk, const chunk_head *head, void *dx)
{
    const stm_model *model = pass->model;
    const size_t n = head->rows.n_rows;
    for (size_t i = 0; i < n; i++)
        head->compact[i] = head->host_dlogp[chunk->active_rows[head->first + i]];
    STM_TRY(model->backend->write(model->stream, head->dlogp, head->compact, n * sizeof(double)));
    return stm_head_backward(model, &head->rows, head->dlogp, NULL, head->scratch,
                             stm_at(model->backend, dx, head->first * model->config.hidden_size), pass->gradient);
}

/* The head over the active rows and the visitor, block by block; x and dx [n_active, hidden], dx NULL: no backward; the
 * visitor then is preview where the pass goes back. */
static stm_status run_head(stm_pass *pass, const stm_chunk *chunk, const void *x, void *dx)
{
    chunk_head head;
    STM_TRY(take_head(pass, chunk, x, &head));
    head.goes_back = dx != NULL;
    for (size_t first = 0; first < chunk->n_active; first += STM_HEAD_ROWS) {
        move_head(pass, chunk, first, &head);
        STM_TRY(stm_head_forward(pass->model, &head.rows, head.scratch));
        STM_TRY(read_compact(pass, chunk, &head, head.rows.logp, head.host_logp));
        STM_TRY(read_compact(pass, chunk, &head, head.rows.entropy, head.host_entropy));
        visit_block(pass, chunk, &head);
        if (dx)
            STM_TRY(head_block_backward(pass, chunk, &head, dx));
        if (pass->hooks)
            pass->hooks->drive(pass->hooks->context);
    }
    pass->counts.rows_active += (double)chunk->n_active;
    return STM_OK;
}

/* Layers whose activations are not kept, and for a score the head. */
static stm_status forward_and_forget(stm_pass *pass, stm_chunk *chunk)
{
    const bool last = stm_model_is_last(pass->model);
    const bool score = last && (pass->kind == STM_PASS_SCORE || pass->preview) && chunk->n_active > 0;
    stm_layer_kept kept[2];
    void *x_out;
    STM_TRY(take_kept(pass, chunk->n_rows, chunk->n_rows, &kept[0]));
    STM_TRY(take_kept(pass, chunk->n_rows, chunk->n_rows, &kept[1]));
    STM_TRY(take_reals(pass, n_rows_out(pass, chunk) * pass->model->config.hidden_size, &x_out));
    STM_TRY(run_layers(pass, chunk, kept, 2, score, false, x_out));
    stm_profile_lap_forward(pass, chunk->segments, chunk->n_segments);
    if (score)
        STM_TRY(run_head(pass, chunk, x_out, NULL));
    stm_profile_lap(pass, STM_STAGE_HEAD);
    return STM_OK;
}

stm_status stm_chunk_forward(stm_pass *pass, stm_chunk *chunk, bool keep)
{
    stm_pass lasting = in_bank(pass, &chunk->bank);
    pass->counts.rows += stm_model_is_first(pass->model) ? (double)chunk->n_rows : 0;
    pass->counts.chunks += stm_model_is_first(pass->model);
    if (chunk->n_rows == 0)
        return STM_OK;
    if (keep)
        STM_TRY(take_all_kept(&lasting, chunk));
    else if (pass->kind == STM_PASS_GRADIENT && !stm_model_is_first(pass->model))
        STM_TRY(take_reals(&lasting, chunk->n_rows * pass->model->config.hidden_size, &chunk->x_in));
    const stm_mark device = stm_arena_mark(pass->device), host = stm_arena_mark(pass->host);
    stm_profile_start(pass);
    if (keep) {
        STM_TRY(run_layers(pass, chunk, chunk->kept, n_layers_here(pass->model), true, false, chunk->x_out));
        stm_profile_lap_forward(pass, chunk->segments, chunk->n_segments);
        if (pass->preview && stm_model_is_last(pass->model) && chunk->n_active > 0) {
            STM_TRY(run_head(pass, chunk, chunk->x_out, NULL));
            stm_profile_lap(pass, STM_STAGE_HEAD);
        }
    } else {
        STM_TRY(forward_and_forget(pass, chunk));
    }
    stm_arena_reset(pass->device, device);
    stm_arena_reset(pass->host, host);
    return STM_OK;
}

/* Backward */

/* Elements [first, end) of the gradient have all that this rank adds to them, if this chunk is the last. */
static void finish_gradient(const stm_pass *pass, size_t first, size_t end)
{
    if (pass->reduction && pass->last_backward && first < end)
        stm_reduction_ready(pass->reduction, first, end - first);
}

/* Where the gradients of what lies behind a layer begin: the next layer, final norm and head, or another stage. */
static size_t end_of_layer(const stm_model *model, size_t layer)
{
    return layer + 1 < model->config.n_layers ? model->layers[layer + 1].input_norm : model->final_norm;
}

void stm_pass_without_backward(const stm_pass *pass)
{
    const stm_model *model = pass->model;
    const size_t first = model->layers[model->first_layer].input_norm;
    const size_t end = stm_model_is_last(model) ? model->n_parameters : end_of_layer(model, model->end_layer - 1);
    if (pass->reduction)
        stm_reduction_ready(pass->reduction, first, end - first);
}

/* Where the gradient of a layer is added to: `gradient` stands for the whole vector's address. A room for one layer is
 * waited for, zeroed. */
static stm_status begin_layer(const stm_pass *pass, size_t layer, void **gradient)
{
    const stm_model *model = pass->model;
    const size_t first = model->layers[layer].input_norm, real_bytes = model->backend->real_bytes;
    *gradient = pass->gradient;
    if (!pass->rounds)
        return STM_OK;
    void *room;
    stm_profile_lap(pass, STM_STAGE_BACKWARD);
    while (!(room = stm_rounds_room(pass->rounds, layer - model->first_layer))) {
        pass->hooks->drive(pass->hooks->context);
        sched_yield();
    }
    stm_profile_lap(pass, STM_STAGE_EXCHANGE);
    *gradient = (void *)((uintptr_t)room - first * real_bytes);
    return model->backend->zero(model->stream, room, (end_of_layer(model, layer) - first) * real_bytes);
}

static void finish_layer(const stm_pass *pass, size_t layer)
{
    if (pass->rounds)
        stm_rounds_offer(pass->rounds);
    else
        finish_gradient(pass, pass->model->layers[layer].input_norm, end_of_layer(pass->model, layer));
}

static stm_status layers_backward(stm_pass *pass, stm_chunk *chunk, void *dx, void *dx_other)
{
    const stm_model *model = pass->model;
    const stm_backend *b = model->backend;
    stm_layer_scratch scratch;
    stm_attend_part *parts;
    STM_TRY(take_layer_scratch(pass, chunk->n_rows, true, &scratch));
    STM_TRY(take_parts(pass, chunk, &parts));
    for (size_t l = model->end_layer; l-- > model->first_layer;) {
        stm_layer_rows rows;
        void *gradient;
        STM_TRY(layer_rows(pass, chunk, l, true, parts, &rows));
        STM_TRY(begin_layer(pass, l, &gradient));
        STM_TRY(stm_layer_backward(model, l, &rows, &chunk->kept[l - model->first_layer], &scratch, dx,
                                   rows.active ? dx_other : dx, gradient));
        if (rows.active)
            dx = dx_other;
        finish_layer(pass, l);
    }
    if (!stm_model_is_first(model))
        return stm_neighbours_send(pass->neighbours, true, chunk->n_rows, dx);
    const stm_embed embed = {.n_rows = chunk->n_rows,
                             .width = model->config.hidden_size,
                             .ids = chunk->ids,
                             .dy = dx,
                             .dtable = stm_at(b, pass->gradient, model->embedding)};
    return b->embed_backward(model->stream, &embed);
}

static stm_status backward(stm_pass *pass, stm_chunk *chunk)
{
    const size_t width = pass->model->config.hidden_size;
    stm_profile_start(pass);
    if (!chunk->kept) {
        pass->counts.rows_again += stm_model_is_first(pass->model) ? (double)chunk->n_rows : 0;
        STM_TRY(take_all_kept(pass, chunk));
        STM_TRY(run_layers(pass, chunk, chunk->kept, n_layers_here(pass->model), true, true, chunk->x_out));
        stm_profile_lap(pass, STM_STAGE_RECOMPUTE);
    }
    void *dx, *dx_other; /* [n_rows, hidden] */
    STM_TRY(take_reals(pass, chunk->n_rows * width, &dx));
    STM_TRY(take_reals(pass, chunk->n_rows * width, &dx_other));
    if (!stm_model_is_last(pass->model)) {
        STM_TRY(stm_neighbours_receive(pass->neighbours, true, chunk->n_rows, dx));
    } else if (chunk->n_active > 0) {
        STM_TRY(run_head(pass, chunk, chunk->x_out, dx));
        stm_profile_lap(pass, STM_STAGE_HEAD);
    }
    if (stm_model_is_last(pass->model))
        finish_gradient(pass, pass->model->final_norm, pass->model->n_parameters);
    STM_TRY(layers_backward(pass, chunk, dx, dx_other));
    stm_profile_lap(pass, STM_STAGE_BACKWARD);
    return STM_OK;
}

stm_status stm_chunk_backward(stm_pass *pass, stm_chunk *chunk)
{
    if (chunk->n_rows == 0)
        return STM_OK;
    const stm_mark device = stm_arena_mark(pass->device), host = stm_arena_mark(pass->host);
    STM_TRY(backward(pass, chunk));
    chunk->kept = NULL;
    stm_arena_reset(pass->device, device);
    stm_arena_reset(pass->host, host);
    return STM_OK;
}
