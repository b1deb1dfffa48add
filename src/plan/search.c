#include "plan/search.h"

#include <math.h>
#include <stdlib.h>

#include "mpi/grid.h"

typedef struct {
    stm_layout layout;
    double guess;
} candidate;

typedef struct {
    const stm_planner *planner;
    int64_t nodes, ranks_per_node;
    size_t n, capacity;
    candidate *items;
} candidates;

/* 1, 2, 3, 4, 6, 8, 12, 16, 24 ..: near enough to any number. */
static int64_t next_size(int64_t n)
{
    const bool is_power = (n & (n - 1)) == 0;
    return n < 4 ? n + 1 : is_power ? n + n / 2 : n / 3 * 4;
}

/* The same, and `most`; then one that is larger. */
static int64_t sooner(int64_t n, int64_t most)
{
    return n < most ? STM_MIN(next_size(n), most) : most + 1;
}

static stm_status add(candidates *c, int64_t pipeline, int64_t replica)
{
    const stm_layout layout = {
        .nodes = c->nodes, .ranks_per_node = c->ranks_per_node, .pipeline = pipeline, .replica = replica};
    for (size_t i = 0; i < c->n; i++)
        if (c->items[i].layout.pipeline == pipeline && c->items[i].layout.replica == replica)
            return STM_OK;
    STM_TRY(stm_reserve(&c->items, &c->capacity, c->n + 1, sizeof *c->items));
    c->items[c->n++] = (candidate){layout, stm_plan_guess(c->planner, &layout)};
    return STM_OK;
}

/* Teams of a stage of so many ranks: as given, as many as prompts, and what lies below. */
static stm_status add_teams(candidates *c, int64_t pipeline)
{
    const stm_options *o = c->planner->options;
    const int64_t size = c->nodes * c->ranks_per_node / pipeline;
    const int64_t most = STM_MIN(size, (int64_t)c->planner->batch->n_groups);
    if (o->parallel.replica != STM_AUTO)
        return o->parallel.replica <= size ? add(c, pipeline, o->parallel.replica) : STM_OK;
    if (o->parallel.suffix != STM_AUTO)
        return o->parallel.suffix <= size ? add(c, pipeline, STM_MAX(size / o->parallel.suffix, (int64_t)1)) : STM_OK;
    for (int64_t teams = 1; teams <= most; teams = sooner(teams, most))
        STM_TRY(add(c, pipeline, teams));
    return STM_OK;
}

static stm_status add_all(candidates *c)
{
    const int64_t given = c->planner->options->parallel.pipeline, n_ranks = c->nodes * c->ranks_per_node;
    const int64_t most = STM_MIN(n_ranks, (int64_t)c->planner->model->config.n_layers);
    if (given != STM_AUTO)
        return given <= most ? add_teams(c, given) : STM_OK;
    for (int64_t pipeline = 1; pipeline <= most; pipeline = sooner(pipeline, most))
        STM_TRY(add_teams(c, pipeline));
    return STM_OK;
}

static int compare_guesses(const void *left, const void *right)
{
    const candidate *a = left, *b = right;
    if (a->guess != b->guess)
        return a->guess < b->guess ? -1 : 1;
    if (a->layout.pipeline != b->layout.pipeline)
        return a->layout.pipeline < b->layout.pipeline ? -1 : 1;
    return a->layout.replica > b->layout.replica ? -1 : a->layout.replica < b->layout.replica;
}

/* Layouts of as many stages are guessed almost alike: those of other numbers that are nearly as quick come between
 * them.
 */
static void sort_by_guess(candidates *c)
{
    static const double WORSE = 0.03; /* for each before it */
    qsort(c->items, c->n, sizeof *c->items, compare_guesses);
    for (size_t i = c->n; i-- > 0;) {
        size_t n_before = 0;
        for (size_t k = 0; k < i; k++)
            n_before += c->items[k].layout.pipeline == c->items[i].layout.pipeline;
        c->items[i].guess *= 1 + WORSE * (double)n_before;
    }
    qsort(c->items, c->n, sizeof *c->items, compare_guesses);
}

static int compare_estimates(const void *left, const void *right)
{
    const stm_estimate *a = left, *b = right;
    if (a->fits != b->fits)
        return a->fits ? -1 : 1;
    if (!a->fits && a->memory.total != b->memory.total)
        return a->memory.total < b->memory.total ? -1 : 1;
    if (a->step_s != b->step_s)
        return a->step_s < b->step_s ? -1 : 1;
    return a->layout.pipeline != b->layout.pipeline ? (a->layout.pipeline < b->layout.pipeline ? -1 : 1)
                                                    : (a->layout.replica > b->layout.replica ? -1 : 1);
}

static stm_status estimate_best(candidates *c, size_t n_most, stm_estimates *out)
{
    if (c->n == 0)
        return stm_fail(STM_ERR_INPUT, "parallel: found no layout of %lld ranks, expected sizes that fit into them",
                        (long long)(c->nodes * c->ranks_per_node));
    sort_by_guess(c);
    STM_TRY(stm_alloc(STM_MIN(c->n, n_most), sizeof *out->items, &out->items));
    for (; out->n < STM_MIN(c->n, n_most) && (out->n == 0 || isfinite(c->items[out->n].guess)); out->n++)
        STM_TRY(stm_plan_estimate(c->planner, &c->items[out->n].layout, &out->items[out->n]));
    qsort(out->items, out->n, sizeof *out->items, compare_estimates);
    return STM_OK;
}

stm_status stm_plan_search(const stm_planner *planner, int64_t nodes, int64_t ranks_per_node, size_t n_most,
                           stm_estimates *out)
{
    candidates c = {.planner = planner, .nodes = nodes, .ranks_per_node = ranks_per_node};
    *out = (stm_estimates){0};
    stm_status status = add_all(&c);
    if (status == STM_OK)
        status = estimate_best(&c, n_most, out);
    free(c.items);
    return status;
}
