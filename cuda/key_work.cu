/* The gradients of keys, shared out among blocks, and the sums of tiles that several blocks have had. */
#include "cuda/key_work.cuh"

#include <stdlib.h>

enum { FEWEST_STEPS = 8 }; /* of a block of a cut tile: below that, what it reads and leaves costs more than it saves */

/* Tall rows that see any of a part's keys from first_key on. */
struct row_range {
    size_t first, end;
};

static row_range rows_of_keys(const stm_attend *a, const stm_attend_part *part, size_t first_key)
{
    const size_t share = a->n_heads / a->n_kv_heads;
    const size_t unseen = part->causal && first_key > part->diagonal ? first_key - part->diagonal : 0;
    return {(part->first_row + STM_MIN(unseen, part->n_rows)) * share, (part->first_row + part->n_rows) * share};
}

static stm_status push(stm_stream *stream, size_t n, const stm_key_work *work)
{
    if (n == stream->key_work_capacity) {
        const size_t capacity = 2 * n + 256;
        stm_key_work *more = (stm_key_work *)realloc(stream->key_work, capacity * sizeof *more);
        if (!more)
            return stm_fail(STM_ERR_MEMORY, "out of memory: asked for %zu bytes", capacity * sizeof *more);
        stream->key_work = more;
        stream->key_work_capacity = capacity;
    }
    stream->key_work[n] = *work;
    return STM_OK;
}

/* Steps that a block of parts [first, end) takes at most. Tiles stay whole where the longest takes about as long as a
 * multiprocessor's share of all; else a multiprocessor gets two blocks, and what the last steps of tiles make. */
static size_t most_steps(const stm_stream *stream, const stm_attend *a, size_t first, size_t end, size_t n_keys,
                         size_t n_rows)
{
    size_t all = 0, longest = 1;
    for (size_t p = first; p < end; p++)
        for (size_t key = 0; key < a->parts[p].n_keys; key += n_keys) {
            const row_range rows = rows_of_keys(a, &a->parts[p], key);
            const size_t steps = stm_pieces_of(rows.end - rows.first, n_rows);
            all += steps;
            longest = STM_MAX(longest, steps);
        }
    const size_t share = stm_pieces_of(all * a->n_kv_heads, (size_t)stream->n_multiprocessors);
    return longest <= share + share / 8 ? longest : STM_MAX((size_t)FEWEST_STEPS, stm_pieces_of(share, 2));
}

/* The blocks of one tile. */
static stm_status plan_tile(stm_stream *stream, const stm_attend *a, size_t p, size_t key, size_t n_rows,
                            stm_key_plan *plan, size_t *n_slots)
{
    const row_range rows = rows_of_keys(a, &a->parts[p], key);
    const size_t n = stm_pieces_of(rows.end - rows.first, n_rows);
    for (size_t i = 0; i < n; i++) {
        const size_t first = rows.first + i * n_rows, end = STM_MIN(rows.end, first + n_rows);
        const stm_key_work work = {(unsigned)p,
                                   (unsigned)key,
                                   (unsigned)first,
                                   (unsigned)end,
                                   n > 1 ? (int)(*n_slots)++ : STM_NO_SLOT,
                                   n > 1 && i == 0 ? (unsigned)n : 0};
        STM_TRY(push(stream, plan->n++, &work));
    }
    return STM_OK;
}

stm_status stm_plan_keys(stm_stream *stream, const stm_attend *a, size_t n_keys, size_t n_rows, stm_key_plan *out)
{
    stm_key_plan plan = {};
    for (size_t first = 0, end; first < a->n_parts; first = end) {
        end = stm_attend_end_of_wave(a, sizeof(float), first);
        const size_t most = most_steps(stream, a, first, end, n_keys, n_rows);
        size_t n_slots = 0;
        for (size_t p = first; p < end; p++)
            for (size_t key = 0; key < a->parts[p].n_keys; key += n_keys)
                STM_TRY(plan_tile(stream, a, p, key, most * n_rows, &plan, &n_slots));
        plan.n_slots = STM_MAX(plan.n_slots, n_slots);
    }
    plan.work = stream->key_work;
    *out = plan;
    return STM_OK;
}

/* Blocks' x counts work, y KV heads. */
static __global__ void add_slots_kernel(stm_attend a, const stm_attend_part *parts, const stm_key_work *work,
                                        size_t n_keys, size_t width, const float *slots)
{
    const stm_key_work first = work[blockIdx.x];
    const size_t head = blockIdx.y, size = stm_slot_size(n_keys, width), d = a.head_dim;
    if (first.n_slots == 0)
        return;
    const stm_attend_part part = parts[first.part];
    const float *from = slots + ((size_t)first.slot * a.n_kv_heads + head) * size;
    for (size_t i = threadIdx.x; i < size; i += blockDim.x) {
        const size_t row = i / width, key = first.first_key + row % n_keys, column = i % width;
        float *to = (float *)(row < n_keys ? part.dk : part.dv);
        float sum = 0;
        if (key >= part.n_keys || column >= d)
            continue;
        for (unsigned s = 0; s < first.n_slots; s++)
            sum += from[s * a.n_kv_heads * size + i];
        to[(head * part.dkv_stride + key) * d + column] += sum;
    }
}

stm_status stm_add_slots(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts,
                         const stm_key_work *work, size_t n, size_t n_keys, size_t width, const float *slots)
{
    return stm_launch(stream, dim3((unsigned)n, (unsigned)a->n_kv_heads), STM_BLOCK, 0, add_slots_kernel, *a, parts,
                      work, n_keys, width, slots);
}
