#include "checkpoint/pieces.h"

#include "checkpoint/hashes.h"

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
