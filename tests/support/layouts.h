/* tests/support/layouts.h: a comparison on every pipeline x suffix x replica that the ranks of a test can take. */
#ifndef STM_TESTS_LAYOUTS_H
#define STM_TESTS_LAYOUTS_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

/* Compares on the ranks of comm, with axes = {pipeline, suffix (or STM_AUTO), replica} and n overrides of options. */
typedef void stm_test_compare(MPI_Comm comm, const void *fixture, const int64_t *axes, const char *const *overrides,
                              size_t n);

/* On all layouts of these pipelines [n_pipelines] with one and two replicas, of as many ranks of the world as the
 * stages have alike; those left over do nothing. The suffix axis is asked for where teams are equal. Each on the nodes
 * as they are, and with node_step, 2 * node_step .. nodes played, up to two. Collective over the world. */
typedef struct {
    stm_test_compare *compare;
    const int *pipelines;
    size_t n_pipelines;
    int node_step;
} stm_test_layouts;
void stm_test_on_layouts(const stm_test_layouts *layouts, const void *fixture, const char *const *overrides, size_t n);

/* Overrides as arguments. */
#define STM_TEST_ON_LAYOUTS(layouts, fixture, ...)                                                                     \
    stm_test_on_layouts((layouts), (fixture), (const char *const[]){__VA_ARGS__},                                      \
                        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

#endif
