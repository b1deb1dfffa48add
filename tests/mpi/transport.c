/* What carries gradients and new weights among a stage's ranks (group/transport.h): whatever does, the bits are those
 * of stm_reduce_scatter and stm_all_gather_shards, of numbers that the device has yet to compute as they are offered.
 * Of a backend under test; NCCL is there where the environment's STEMMA_NCCL names its library. */
#include "group/transport.h"

#include <unistd.h>

#include "group/device_reach.h"
#include "mpi/gathering.h"
#include "mpi/reduction.h"
#include "support/device.h"
#include "support/mpi.h"

enum { FIRST = 11, N = 40007, BUCKET = 3001, BEHIND = 5, WHOLE = FIRST + N + BEHIND, TURNS = 3, STEPS = 3 };

typedef struct {
    const stm_backend *backend;
    stm_stream *stream;
    stm_device device;
    const stm_reach *reach;
    stm_grid grid;
    stm_shards shards;
    size_t real_bytes;
} fixture;

static void set_up(fixture *f, stm_precision precision)
{
    int rank;
    *f = (fixture){0};
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    assert_ok(stm_backend_find(backend_under_test(), precision, &f->backend));
    assert_ok(f->backend->choose_device(rank));
    assert_ok(f->backend->open(1, &f->stream));
    f->backend->describe(f->stream, &f->device);
    assert_ok(stm_grid_create(MPI_COMM_WORLD, &(stm_axes){1, STM_AUTO, STM_AUTO}, 8, &f->grid));
    assert_ok(stm_device_reach_open(f->backend, f->stream, &f->reach));
    assert_ok(stm_grid_take_reach(&f->grid, f->reach));
    f->shards = (stm_shards){.first = FIRST, .n = N, .bucket_n = BUCKET, .n_ranks = f->grid.stage_size};
    f->real_bytes = f->backend->real_bytes;
}

static void tear_down(fixture *f)
{
    stm_transport_close(&f->grid);
    stm_device_reach_close(f->reach);
    stm_grid_destroy(&f->grid);
    f->backend->close(f->stream);
}

/* Numbers of very different size, so that each order of adding has its own bits. */
static void *numbers(const fixture *f, uint64_t seed)
{
    double *x = random_numbers(seed * 64 + (uint64_t)f->grid.rank, WHOLE);
    float *single = (float *)x;
    for (size_t i = 0; i < WHOLE; i++) {
        x[i] *= i % 3 == 0 ? 1e9 : 1;
        if (f->real_bytes == sizeof(float))
            single[i] = (float)x[i];
    }
    return x;
}

static void *on_device(const fixture *f, const void *x)
{
    void *memory;
    assert_ok(f->backend->alloc(f->stream, WHOLE * f->real_bytes, &memory));
    if (x)
        assert_ok(f->backend->write(f->stream, memory, x, WHOLE * f->real_bytes));
    return memory;
}

/* to += TURNS * x: of the host, and queued on the device. */
static void add_here(const fixture *f, size_t first, size_t n, const void *x, void *to)
{
    for (int turn = 0; turn < TURNS; turn++)
        stm_reach_add(NULL, n, f->real_bytes, stm_at(f->backend, x, first), stm_at(f->backend, to, first));
}

static void add_there(const fixture *f, size_t first, size_t n, const void *x, void *to)
{
    for (int turn = 0; turn < TURNS; turn++)
        assert_ok(f->backend->add(f->stream, n, stm_at(f->backend, x, first), stm_at(f->backend, to, first)));
}

/* Both buffers hold numbers before, and after it those of all ranks in the cut. */
static void sum(const fixture *f, stm_reduction *reduction, const void *x, void *here, const void *x_there, void *there)
{
    enum { PIECES = 6 };
    add_here(f, 0, WHOLE, x, here);
    stm_reduce_scatter(f->grid.stage_comm, &f->shards, here, f->real_bytes);
    stm_reduction_begin(reduction, there);
    for (size_t k = PIECES; k-- > 0;) {
        const size_t begin = k * WHOLE / PIECES, end = (k + 1) * WHOLE / PIECES;
        if ((k + (size_t)f->grid.rank) % 3 == 0)
            usleep(2000);
        add_there(f, begin, end - begin, x_there, there);
        stm_reduction_ready(reduction, begin, end - begin);
        stm_reduction_drive(reduction);
    }
    stm_reduction_finish(reduction);
}

static void gather(const fixture *f, stm_gathering *gathering, const void *x, void *here, const void *x_there,
                   void *there)
{
    stm_gathering_begin(gathering, there);
    for (size_t i = 0; i < stm_shards_n_ranges(&f->shards); i++) {
        size_t first, n;
        stm_shards_range(&f->shards, f->grid.stage_rank, i, &first, &n);
        add_here(f, first, n, x, here);
        add_there(f, first, n, x_there, there);
        stm_gathering_offer(gathering, i + 1);
        stm_gathering_drive(gathering);
    }
    stm_all_gather_shards(f->grid.stage_comm, &f->shards, here, f->real_bytes);
    stm_gathering_finish(gathering);
}

static void assert_cut_equal(const fixture *f, const void *here, const void *there)
{
    char *found;
    assert_ok(stm_alloc(WHOLE, f->real_bytes, &found));
    assert_ok(f->backend->read(f->stream, found, there, WHOLE * f->real_bytes));
    assert_memory_equal(stm_at(f->backend, here, FIRST), found + FIRST * f->real_bytes, N * f->real_bytes);
    free(found);
}

static void carry(fixture *f)
{
    stm_reduction *reduction;
    stm_gathering *gathering;
    const stm_grid *grid = &f->grid;
    assert_ok(stm_reduction_create(grid->stage_comm, &f->shards, f->real_bytes, grid->stage_reach, &reduction));
    assert_ok(stm_gathering_create(grid->stage_comm, &f->shards, f->real_bytes, grid->stage_reach, &gathering));
    for (uint64_t step = 0; step < STEPS; step++) {
        void *x = numbers(f, step), *here = numbers(f, step + 100);
        void *x_there = on_device(f, x), *there = on_device(f, here);
        sum(f, reduction, x, here, x_there, there);
        gather(f, gathering, x, here, x_there, there);
        assert_cut_equal(f, here, there);
        f->backend->free(f->stream, x_there);
        f->backend->free(f->stream, there);
        free(x);
        free(here);
    }
    stm_reduction_destroy(reduction);
    stm_gathering_destroy(gathering);
}

static void every_transport_has_the_bits_of_the_collectives(void **state)
{
    static const stm_precision precisions[] = {STM_FLOAT32, STM_FLOAT64};
    static const stm_transport kinds[] = {STM_TRANSPORT_MPI, STM_TRANSPORT_AUTO, STM_TRANSPORT_NCCL};
    const char *library = getenv("STEMMA_NCCL");
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        fixture f;
        set_up(&f, precisions[i % 2]);
        const bool has_nccl = f.backend->apart && library;
        if (kinds[i / 2] != STM_TRANSPORT_NCCL || has_nccl) {
            assert_ok(stm_transport_open(kinds[i / 2], f.backend, f.stream, &f.device, &f.grid));
            const bool says = strncmp(f.grid.carrier, "NCCL ", 5) == 0;
            assert_true(says == (has_nccl && kinds[i / 2] != STM_TRANSPORT_MPI && f.grid.stage_size > 1));
            carry(&f);
        }
        tear_down(&f);
    }
}

static void nccl_is_refused_where_there_is_no_gpu(void **state)
{
    fixture f;
    (void)state;
    set_up(&f, STM_FLOAT32);
    if (!f.backend->apart) {
        assert_int_equal(stm_transport_open(STM_TRANSPORT_NCCL, f.backend, f.stream, &f.device, &f.grid),
                         STM_ERR_INPUT);
        assert_string_equal(stm_failure(), "parallel.transport: NCCL: it carries messages between GPUs, and the "
                                           "backend is cpu");
    }
    tear_down(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_transport_has_the_bits_of_the_collectives),
        cmocka_unit_test(nccl_is_refused_where_there_is_no_gpu),
    };
    return stm_mpi_tests(argc, argv, tests, sizeof tests / sizeof *tests);
}
