#include "plan/rates.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/calibrate.h"

static double round_to_power(double x)
{
    return x > 0 ? exp2(round(log2(x))) : 0;
}

static stm_rates rounded(stm_rates r)
{
    return (stm_rates){.dense = round_to_power(r.dense),
                       .attention = round_to_power(r.attention),
                       .latency_s = round_to_power(r.latency_s),
                       .bandwidth = round_to_power(r.bandwidth)};
}

stm_rates stm_rates_of_machine(const stm_machine *m, stm_precision precision, int64_t ranks_per_node, bool between)
{
    const stm_machine_rates *rates = &m->rates[precision];
    if (!stm_machine_knows(m, precision))
        return (stm_rates){0};
    const double forward = rates->attention.items[0], backward = rates->attention.items[1];
    const double share = 1.0 / (double)ranks_per_node;
    return rounded((stm_rates){.dense = share * rates->gemm.items[rates->gemm.n - 1],
                               .attention = share * 3 / (1 / forward + 2 / backward),
                               .latency_s = between ? m->between.latency_s : m->inside.latency_s,
                               .bandwidth = between ? m->between.bandwidth : m->inside.bandwidth});
}

/* Whether a team of the grid has ranks on several nodes. */
static bool teams_span_nodes(const stm_grid *grid)
{
    double spans = 0;
    for (int i = 1; i < grid->team_size; i++)
        if (grid->team_nodes[i] != grid->team_nodes[0])
            spans = 1;
    stm_all_reduce_max(grid->world, &spans, 1);
    return spans > 0;
}

static stm_status read_rates(const char *path, stm_precision precision, const stm_grid *grid, bool between,
                             stm_rates *out)
{
    stm_machine machine = {0};
    char *text;
    size_t n;
    STM_TRY(stm_broadcast_file(grid->world, path, &text, &n));
    stm_status status = stm_machine_read_text(path, text, n, &machine);
    if (status == STM_OK && !stm_machine_knows(&machine, precision))
        status =
            stm_fail(STM_ERR_INPUT, "parallel.machine: %s has no rates of this run's precision, expected them", path);
    if (status == STM_OK)
        *out = stm_rates_of_machine(&machine, precision, grid->node_size, between);
    stm_machine_clear(&machine);
    free(text);
    return stm_agree(grid, status);
}

stm_status stm_rates_find(const stm_options *options, const stm_grid *grid, const stm_backend *backend, bool measures,
                          stm_rates *out)
{
    const char *machine = options->parallel.machine;
    *out = (stm_rates){0};
    if (strcmp(machine, "none") == 0 || grid->n_ranks == 1)
        return STM_OK;
    const bool between = teams_span_nodes(grid);
    if (strcmp(machine, "auto") != 0)
        return read_rates(machine, options->precision, grid, between, out);
    if (!measures)
        return STM_OK;
    STM_TRY(stm_calibrate_rates(grid, backend, between, out));
    *out = rounded(*out);
    return STM_OK;
}
