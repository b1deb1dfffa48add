#include "mpi/collectives.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_BYTES = 1 << 29, SUM_BUCKET = 1 << 22, SMALL_BYTES = 1 << 16 };
enum { SUM_BLOCK = 512, SUM_ALONE = 1 << 16 }; /* reals: that are summed at a time; that one thread had better sum */

void *stm_scratch(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory)
        stm_mpi_abort(MPI_ERR_NO_MEM, "malloc for a collective", __FILE__, __LINE__);
    return memory;
}

void stm_scratch_free(void *memory)
{
    free(memory);
}

MPI_Datatype stm_mpi_real(size_t real_bytes)
{
    assert(real_bytes == 4 || real_bytes == 8);
    return real_bytes == 4 ? MPI_FLOAT : MPI_DOUBLE;
}

void stm_broadcast(MPI_Comm comm, int root, void *bytes, size_t n)
{
    for (size_t done = 0; done < n; done += PIECE_BYTES)
        STM_MPI(MPI_Bcast((char *)bytes + done, (int)STM_MIN(n - done, (size_t)PIECE_BYTES), MPI_BYTE, root, comm));
}

stm_status stm_broadcast_file(MPI_Comm comm, const char *path, char **text, size_t *n)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    char *bytes = NULL;
    size_t n_bytes = 0;
    STM_TRY(stm_agree_on(comm, rank == 0 ? stm_read_file(path, &bytes, &n_bytes) : STM_OK));
    stm_broadcast(comm, 0, &n_bytes, sizeof n_bytes);
    const stm_status status = stm_agree_on(comm, rank == 0 ? STM_OK : stm_alloc(n_bytes + 1, 1, &bytes));
    if (status != STM_OK) {
        free(bytes);
        return status;
    }
    stm_broadcast(comm, 0, bytes, n_bytes);
    *text = bytes;
    *n = n_bytes;
    return STM_OK;
}

stm_status stm_gather_bytes(MPI_Comm comm, const void *mine, size_t n, char **all, size_t *starts)
{
    int rank, n_ranks;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    starts[0] = 0;
    STM_MPI(MPI_Allgather(&n, sizeof n, MPI_BYTE, starts + 1, sizeof n, MPI_BYTE, comm));
    for (int r = 0; r < n_ranks; r++)
        starts[r + 1] += starts[r];

    char *bytes = NULL;
    const stm_status status = stm_agree_on(comm, stm_alloc(starts[n_ranks] + 1, 1, &bytes));
    if (status != STM_OK) {
        free(bytes);
        return status;
    }
    if (n)
        memcpy(bytes + starts[rank], mine, n);
    if (starts[n_ranks] <= PIECE_BYTES) {
        int *counts = stm_scratch(2 * (size_t)n_ranks * sizeof *counts), *places = counts + n_ranks;
        for (int r = 0; r < n_ranks; r++) {
            counts[r] = (int)(starts[r + 1] - starts[r]);
            places[r] = (int)starts[r];
        }
        STM_MPI(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, bytes, counts, places, MPI_BYTE, comm));
        stm_scratch_free(counts);
    } else {
        for (int r = 0; r < n_ranks; r++)
            stm_broadcast(comm, r, bytes + starts[r], starts[r + 1] - starts[r]);
    }
    *all = bytes;
    return STM_OK;
}

/* Elements [first, first + n) of the sum, n at most SUM_BLOCK; parts: [n_parts, stride]. */
static inline void add_block(size_t n_parts, size_t stride, size_t first, size_t n, const float *x, const double *y,
                             double *total)
{
    for (size_t i = 0; i < n; i++)
        total[i] = 0;
    for (size_t p = 0; p < n_parts; p++)
        for (size_t i = 0; i < n; i++)
            total[i] += x ? (double)x[p * stride + first + i] : y[p * stride + first + i];
}

void stm_add_in_order(size_t n_parts, size_t n, size_t real_bytes, const void *parts, void *sum)
{
#pragma omp parallel for schedule(static) if (n_parts * n > SUM_ALONE)
    for (size_t first = 0; first < n; first += SUM_BLOCK) {
        double total[SUM_BLOCK];
        const size_t m = STM_MIN(n - first, (size_t)SUM_BLOCK);
        if (real_bytes == sizeof(float)) {
            add_block(n_parts, n, first, m, parts, NULL, total);
            for (size_t i = 0; i < m; i++)
                ((float *)sum)[first + i] = (float)total[i];
        } else {
            add_block(n_parts, n, first, m, NULL, parts, total);
            memcpy((double *)sum + first, total, m * sizeof *total);
        }
    }
}

struct stm_summing {
    MPI_Comm comm;
    stm_shards shards;
    size_t real_bytes;
    int rank;
    int *send_counts, *send_starts, *counts, *starts; /* [n_ranks] each, one allocation */
    char *parts;                                      /* [n_ranks, largest share] */
};

stm_summing *stm_summing_create(MPI_Comm comm, const stm_shards *shards, size_t real_bytes)
{
    assert(STM_MIN(shards->bucket_n, shards->n) <= INT_MAX / 2);
    const size_t p = (size_t)shards->n_ranks, share = STM_MIN(shards->bucket_n, shards->n) / p + 1;
    stm_summing *s = stm_scratch(sizeof *s);
    *s = (stm_summing){.comm = comm, .shards = *shards, .real_bytes = real_bytes};
    STM_MPI(MPI_Comm_rank(comm, &s->rank));
    s->send_counts = stm_scratch(4 * p * sizeof(int));
    s->send_starts = s->send_counts + p;
    s->counts = s->send_starts + p;
    s->starts = s->counts + p;
    s->parts = stm_scratch(p * share * real_bytes);
    return s;
}

void stm_summing_destroy(stm_summing *summing)
{
    stm_scratch_free(summing->parts);
    stm_scratch_free(summing->send_counts);
    stm_scratch_free(summing);
}

void stm_summing_bucket(stm_summing *s, size_t i, const void *reals, void *share)
{
    const MPI_Datatype type = stm_mpi_real(s->real_bytes);
    size_t first, n;
    stm_shards_range(&s->shards, s->rank, i, &first, &n);
    stm_shards_cut(&s->shards, i, s->send_counts, s->send_starts);
    for (int r = 0; r < s->shards.n_ranks; r++) {
        s->counts[r] = (int)n;
        s->starts[r] = (int)((size_t)r * n);
    }
    const char *bucket = (const char *)reals + stm_shards_bucket(&s->shards, i) * s->real_bytes;
    STM_MPI(MPI_Alltoallv(bucket, s->send_counts, s->send_starts, type, s->parts, s->counts, s->starts, type, s->comm));
    stm_add_in_order((size_t)s->shards.n_ranks, n, s->real_bytes, s->parts, share);
}

/* The sum of a few numbers on every rank (root -1) or on root: one message a rank instead of two rounds. */
static void sum_small(MPI_Comm comm, int root, int rank, int n_ranks, void *reals, size_t n, size_t real_bytes)
{
    const MPI_Datatype type = stm_mpi_real(real_bytes);
    void *parts = stm_scratch((size_t)n_ranks * n * real_bytes);
    if (root < 0)
        STM_MPI(MPI_Allgather(reals, (int)n, type, parts, (int)n, type, comm));
    else
        STM_MPI(MPI_Gather(reals, (int)n, type, parts, (int)n, type, root, comm));
    if (root < 0 || root == rank)
        stm_add_in_order((size_t)n_ranks, n, real_bytes, parts, reals);
    stm_scratch_free(parts);
}

void stm_reduce_to(MPI_Comm comm, int root, void *reals, size_t n, size_t real_bytes)
{
    int rank, n_ranks;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    if (n_ranks == 1 || n == 0)
        return;
    if ((size_t)n_ranks * n * real_bytes <= SMALL_BYTES) {
        sum_small(comm, root, rank, n_ranks, reals, n, real_bytes);
        return;
    }
    const MPI_Datatype type = stm_mpi_real(real_bytes);
    const stm_shards shards = {.n = n, .bucket_n = SUM_BUCKET, .n_ranks = n_ranks};
    stm_summing *summing = stm_summing_create(comm, &shards, real_bytes);
    char *share = stm_scratch((SUM_BUCKET / (size_t)n_ranks + 1) * real_bytes);
    int *counts = stm_scratch(2 * (size_t)n_ranks * sizeof *counts), *starts = counts + n_ranks;
    for (size_t i = 0; i < stm_shards_n_ranges(&shards); i++) {
        stm_summing_bucket(summing, i, reals, share);
        stm_shards_cut(&shards, i, counts, starts);
        char *bucket = (char *)reals + i * shards.bucket_n * real_bytes;
        STM_MPI(MPI_Gatherv(share, counts[rank], type, bucket, counts, starts, type, root, comm));
    }
    stm_scratch_free(counts);
    stm_scratch_free(share);
    stm_summing_destroy(summing);
}

void stm_all_reduce(MPI_Comm comm, void *reals, size_t n, size_t real_bytes)
{
    int rank, n_ranks;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    if (n_ranks == 1 || n == 0)
        return;
    if ((size_t)n_ranks * n * real_bytes <= SMALL_BYTES) {
        sum_small(comm, -1, rank, n_ranks, reals, n, real_bytes);
        return;
    }
    const stm_shards shards = {.n = n, .bucket_n = SUM_BUCKET, .n_ranks = n_ranks};
    stm_reduce_scatter(comm, &shards, reals, real_bytes);
    stm_all_gather_shards(comm, &shards, reals, real_bytes);
}

void stm_all_reduce_max(MPI_Comm comm, double *values, size_t n)
{
    for (size_t done = 0; done < n; done += SUM_BUCKET)
        STM_MPI(MPI_Allreduce(MPI_IN_PLACE, values + done, (int)STM_MIN(n - done, (size_t)SUM_BUCKET), MPI_DOUBLE,
                              MPI_MAX, comm));
}

void stm_all_reduce_min(MPI_Comm comm, double *values, size_t n)
{
    for (size_t done = 0; done < n; done += SUM_BUCKET)
        STM_MPI(MPI_Allreduce(MPI_IN_PLACE, values + done, (int)STM_MIN(n - done, (size_t)SUM_BUCKET), MPI_DOUBLE,
                              MPI_MIN, comm));
}
