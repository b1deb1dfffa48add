#include "group/parts.h"

/* Rows [row, row + n_rows) of the chunk lie below `ancestor`: they lengthen its part, or begin it. */
static void meet_ancestor(stm_pass *pass, size_t ancestor, size_t row, size_t n_rows, stm_parts *out)
{
    const stm_place *place = &pass->places[ancestor];
    const size_t n_keys = pass->forest->segments[ancestor].n_rows;
    if (n_keys == 0)
        return;
    if (pass->part_of[ancestor] == STM_NONE) {
        pass->part_of[ancestor] = out->n;
        out->parts[out->n++] =
            (stm_part){.first_row = row, .of = place->chunk, .key_row = place->first_row, .n_keys = n_keys};
    }
    out->parts[pass->part_of[ancestor]].n_rows += n_rows;
}

/* The path from the root to a segment's parent, root first. path: room for segment->depth. */
static void path_to(const stm_forest *forest, size_t segment, size_t *path)
{
    size_t at = forest->segments[segment].parent;
    for (size_t i = forest->segments[segment].depth; i-- > 0; at = forest->segments[at].parent)
        path[i] = at;
}

stm_status stm_parts_list(stm_pass *pass, const size_t *segments, const size_t *first_rows, size_t n, stm_parts *out)
{
    const stm_forest *forest = pass->forest;
    size_t deepest = 0, most = n, *path;
    for (size_t i = 0; i < n; i++) {
        deepest = STM_MAX(deepest, forest->segments[segments[i]].depth);
        most += forest->segments[segments[i]].depth;
    }
    most = STM_MIN(most, n + forest->n_segments); /* an ancestor has one part */
    *out = (stm_parts){0};
    STM_TRY(stm_arena_take(pass->host, most * sizeof *out->parts, &out->parts));
    STM_TRY(stm_arena_take(pass->host, deepest * sizeof *path, &path));
    for (size_t i = 0; i < n; i++) {
        const stm_segment *segment = &forest->segments[segments[i]];
        if (segment->n_rows == 0)
            continue;
        path_to(forest, segments[i], path);
        for (size_t d = 0; d < segment->depth; d++)
            meet_ancestor(pass, path[d], first_rows[i], segment->n_rows, out);
        const stm_place *own = &pass->places[segments[i]];
        out->parts[out->n++] = (stm_part){.first_row = first_rows[i],
                                          .n_rows = segment->n_rows,
                                          .of = own->chunk,
                                          .key_row = own->first_row,
                                          .n_keys = segment->n_rows,
                                          .causal = true};
    }
    for (size_t i = 0; i < n; i++)
        for (size_t at = forest->segments[segments[i]].parent; at != STM_NONE; at = forest->segments[at].parent)
            pass->part_of[at] = STM_NONE;
    return STM_OK;
}

stm_status stm_parts_restrict(stm_pass *pass, const stm_parts *all, const uint8_t *active, size_t n_rows,
                              stm_parts *out)
{
    size_t *before, most = all->n; /* active rows before each row */
    STM_TRY(stm_arena_take(pass->host, (n_rows + 1) * sizeof *before, &before));
    before[0] = 0;
    for (size_t r = 0; r < n_rows; r++) {
        before[r + 1] = before[r] + active[r];
        most += active[r] && (r == 0 || !active[r - 1]); /* a run begins */
    }
    *out = (stm_parts){0};
    STM_TRY(stm_arena_take(pass->host, most * sizeof *out->parts, &out->parts));
    for (size_t i = 0; i < all->n; i++) {
        const stm_part *part = &all->parts[i];
        const size_t end = part->first_row + part->n_rows;
        for (size_t row = part->first_row; row < end;) {
            size_t stop = end;
            if (part->causal) {
                while (row < end && !active[row])
                    row++;
                for (stop = row; stop < end && active[stop];)
                    stop++;
            }
            if (before[stop] > before[row]) {
                stm_part *run = &out->parts[out->n++];
                *run = *part;
                run->first_row = before[row];
                run->n_rows = before[stop] - before[row];
                run->diagonal = part->causal ? row - part->first_row : 0;
            }
            row = stop;
        }
    }
    return STM_OK;
}

void stm_parts_at_layer(const stm_pass *pass, const stm_parts *list, size_t layer, stm_attend_part *out)
{
    const stm_backend *b = pass->model->backend;
    const size_t head_dim = pass->model->config.head_dim;
    for (size_t i = 0; i < list->n; i++) {
        const stm_part *part = &list->parts[i];
        const size_t k = part->key_row * head_dim, v = k + stm_chunk_kv_n(pass, part->of) / 2;
        void *kv = stm_chunk_kv(pass, part->of, layer), *dkv = NULL;
        if (pass->kind == STM_PASS_GRADIENT)
            dkv = stm_chunk_dkv(pass, part->of, layer);
        out[i] = (stm_attend_part){.first_row = part->first_row,
                                   .n_rows = part->n_rows,
                                   .n_keys = part->n_keys,
                                   .kv_stride = stm_chunk_n_rows(part->of),
                                   .dkv_stride = stm_chunk_n_rows(part->of),
                                   .k = stm_activation_at(b, kv, k),
                                   .v = stm_activation_at(b, kv, v),
                                   .dk = dkv ? stm_at(b, dkv, k) : NULL,
                                   .dv = dkv ? stm_at(b, dkv, v) : NULL,
                                   .causal = part->causal,
                                   .diagonal = part->diagonal};
    }
}
