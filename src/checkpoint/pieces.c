#include "checkpoint/pieces.h"

#include "checkpoint/hashes.h"
#include "model/stages.h"

stm_shards stm_shards_of(const stm_model *model, const stm_shards *mine, int n_ranks, int r, int *place)
{
    const int n_stages = n_ranks / mine->n_ranks;
    stm_model other = *model;
    stm_model_hold_stage(&other, (size_t)n_stages, (size_t)(r / mine->n_ranks));
    *place = r % mine->n_ranks;
    return (stm_shards){
        .first = other.own.first, .n = other.own.n, .bucket_n = mine->bucket_n, .n_ranks = mine->n_ranks};
}

size_t stm_pieces(const stm_model *model, const stm_shards *shards, int rank, size_t real_bytes, stm_piece *pieces)
{
    const size_t most = STM_BLOCK_BYTES / real_bytes;
    size_t count = 0, tensor = 0, packed = 0;
    for (size_t i = 0; i < stm_shards_n_ranges(shards); i++) {
        size_t at, n;
        stm_shards_range(shards, rank, i, &at, &n);
        for (const size_t end = at + n; at < end;) {
            while (at >= model->tensors[tensor].offset + model->tensors[tensor].n)
                tensor++; /* ranges ascend, so tensors do */
            const stm_parameter *in = &model->tensors[tensor];
            const size_t length = STM_MIN(most, STM_MIN(end, in->offset + in->n) - at);
            if (pieces)
                pieces[count] = (stm_piece){.tensor = tensor, .first = at - in->offset, .n = length, .packed = packed};
            count++;
            packed += length;
            at += length;
        }
    }
    return count;
}

stm_status stm_pieces_list(const stm_model *model, const stm_shards *shards, int rank, size_t real_bytes,
                           stm_piece **pieces, size_t *n)
{
    *n = stm_pieces(model, shards, rank, real_bytes, NULL);
    STM_TRY(stm_alloc(*n, sizeof **pieces, pieces));
    stm_pieces(model, shards, rank, real_bytes, *pieces);
    return STM_OK;
}

/* The smallest number of a node above `node`, else the smallest of all: the nodes in a ring. */
static int next_node(const int *nodes, int n_ranks, int node)
{
    int above = -1, least = node;
    for (int q = 0; q < n_ranks; q++) {
        if (nodes[q] > node && (above < 0 || nodes[q] < nodes[above]))
            above = q;
        least = STM_MIN(least, nodes[q]);
    }
    return above < 0 ? least : nodes[above];
}

int stm_verifier_of(const int *nodes, int n_ranks, int r)
{
    const int next = next_node(nodes, n_ranks, nodes[r]);
    if (next == nodes[r])
        return (r + 1) % n_ranks;
    int place = 0, size = 0; /* of r on its node, of the next node */
    for (int q = 0; q < n_ranks; q++) {
        place += nodes[q] == nodes[r] && q < r;
        size += nodes[q] == next;
    }
    int found = -1;
    for (int q = 0, k = 0; q < n_ranks; q++)
        if (nodes[q] == next && k++ == place % size)
            found = q;
    return found;
}
