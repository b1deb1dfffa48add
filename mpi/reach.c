#include "mpi/reach.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/collectives.h"

/* Open MPI says so in a header of extensions, MPICH 4 in its own; others not at all. */
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

static bool library_says_so(void)
{
#if defined(MPIX_CUDA_AWARE_SUPPORT) || (defined(MPICH_NUMVERSION) && MPICH_NUMVERSION >= 40000000)
    return MPIX_Query_cuda_support() == 1;
#else
    return false;
#endif
}

bool stm_mpi_reaches_devices(MPI_Comm comm)
{
    const char *said = getenv("STEMMA_GPU_MPI");
    double all = said && *said ? strcmp(said, "1") == 0 : library_says_so();
    stm_all_reduce_min(comm, &all, 1);
    return all > 0;
}

stm_status stm_reach_alloc(const stm_reach *reach, size_t bytes, void *out)
{
    return reach ? reach->alloc(reach->device, bytes, out) : stm_alloc(bytes, 1, out);
}

void stm_reach_free(const stm_reach *reach, void *memory)
{
    if (!reach)
        free(memory);
    else if (memory)
        reach->free(reach->device, memory);
}

void stm_reach_follow(const stm_reach *reach)
{
    if (reach)
        reach->follow(reach->device);
}

void stm_reach_copy(const stm_reach *reach, void *to, const void *from, size_t bytes)
{
    if (reach)
        reach->copy(reach->device, to, from, bytes);
    else
        memcpy(to, from, bytes);
}

static void add(size_t n, size_t real_bytes, const void *x, void *y)
{
    if (real_bytes == sizeof(float))
        for (size_t i = 0; i < n; i++)
            ((float *)y)[i] += ((const float *)x)[i];
    else
        for (size_t i = 0; i < n; i++)
            ((double *)y)[i] += ((const double *)x)[i];
}

void stm_reach_add(const stm_reach *reach, size_t n, size_t real_bytes, const void *x, void *y)
{
    if (reach)
        reach->add(reach->device, n, real_bytes, x, y);
    else
        add(n, real_bytes, x, y);
}

void stm_reach_add_in_order(const stm_reach *reach, size_t n_parts, size_t n, size_t real_bytes, const void *parts,
                            void *sum)
{
    if (reach)
        reach->add_in_order(reach->device, n_parts, n, real_bytes, parts, sum);
    else
        stm_add_in_order(n_parts, n, real_bytes, parts, sum);
}
