#include "plan/memory.h"

#include <math.h>

#include "group/memory.h"
#include "model/stages.h"
#include "train/expect.h"
#include "train/optimizer.h"
#include "train/trainer.h"

enum { MOST_RANKS = 8 }; /* of a stage that are looked at */

double stm_plan_limit_bytes(const stm_planner *planner, int64_t ranks_per_node)
{
    static const double AUTO_SHARE = 0.9; /* as stm_engine_limit_bytes */
    const double ranks = fmax((double)ranks_per_node, (double)planner->machine->devices);
    return planner->options->memory.limit_bytes != STM_AUTO
               ? (double)planner->options->memory.limit_bytes
               : AUTO_SHARE * (double)planner->machine->memory_bytes / ranks;
}

void stm_plan_static(const stm_planner *planner, const stm_model *stage, int64_t stage_size, stm_plan_memory *out)
{
    const stm_options *o = planner->options;
    const int size = (int)stage_size;
    const double own = (double)stm_model_own_bytes(stage);
    const double updates = (double)stm_optimizer_bytes(stage, size, o->parallel.shard);
    const double copy = (double)stm_trainer_async_bytes(o, stage, size);
    *out = (stm_plan_memory){.weights = (double)stm_model_weights_bytes(stage),
                             .optimizer = (double)stm_optimizer_bytes(stage, size, STM_SHARD_OPTIMIZER) - own,
                             .reference = (double)stm_trainer_static_bytes(o, stage, size) - updates - copy,
                             .copy = copy,
                             .replay = (double)planner->replay_bytes,
                             .process = (double)stm_engine_process_bytes(stage)};
    out->gradient = updates - out->optimizer;
}

double stm_plan_static_bytes(const stm_plan_memory *m)
{
    return m->weights + m->gradient + m->optimizer + m->reference + m->copy + m->replay + m->process;
}

/* Thinking and its summaries take the place of the responses. */
static stm_status expect_budgets(const stm_planner *planner, const stm_policy *policy)
{
    stm_batch batch = {0};
    stm_status status;
    STM_GOTO_OUT(stm_batch_copy_prompts(planner->longest, &batch));
    STM_GOTO_OUT(stm_expect_rollouts(policy, &batch));
    STM_GOTO_OUT(stm_expect_updates(policy, &batch));
    status = planner->eval ? stm_expect_evaluation(policy, planner->eval) : STM_OK;
out:
    stm_batch_clear(&batch);
    return status;
}

static stm_status expect(const stm_planner *planner, const stm_policy *policy)
{
    if (policy->budgets && !planner->supervised)
        return expect_budgets(planner, policy);
    if (!planner->supervised)
        STM_TRY(stm_expect_rollouts(policy, planner->longest));
    STM_TRY(stm_expect_updates(policy, planner->longest));
    return planner->eval ? stm_expect_evaluation(policy, planner->eval) : STM_OK;
}

static void keep_most(const stm_engine *engine, stm_plan_memory *m, stm_plan_memory *most)
{
    const stm_footprint_parts parts = stm_engine_planned_parts(engine);
    m->kv = (double)parts.kv;
    m->activations = (double)parts.kept;
    m->scratch = (double)parts.scratch;
    m->messages = (double)parts.messages;
    m->slots = (double)parts.slots;
    m->total = (double)stm_engine_planned_bytes(engine);
    if (m->total > most->total)
        *most = *m;
}

/* A stage's own static bytes can be fewer than the most, by which every rank reckons its room. */
static stm_status add_rank(const stm_plan_ranks *ranks, int rank, double static_bytes, stm_plan_choice *choice,
                           stm_plan_memory *most)
{
    const stm_planner *planner = ranks->planner;
    const stm_layout *l = &ranks->layout;
    const stm_axes axes = {l->pipeline, STM_AUTO, l->replica};
    stm_model model = ranks->stages[rank / ranks->stage_size];
    stm_options options = *planner->options;
    stm_plan_memory memory;
    stm_grid grid;
    stm_engine *engine = NULL;
    stm_status status;
    options.memory.limit_bytes = (int64_t)most->limit;
    options.rollout.group_size = planner->group_size;
    STM_GOTO_OUT(stm_grid_imagine(&axes, (int)(ranks->stage_size * l->pipeline), rank, (int)l->ranks_per_node,
                                  planner->batch->n_groups, &grid));
    STM_GOTO_OUT(stm_engine_create(&model, &grid, &options, (size_t)static_bytes, &engine));
    stm_engine_settings *settings = stm_engine_settings_of(engine);
    settings->chunk_rows = choice->chunk_rows;
    settings->recompute = choice->recompute;
    settings->placement.rates = ranks->rates;
    settings->shares_kv = planner->machine->devices == 0 && options.parallel.shared_kv != STM_SHARED_KV_OFF;
    const stm_policy policy = {.options = &options,
                               .model = &model,
                               .grid = &grid,
                               .engine = engine,
                               .most_said = planner->most_said,
                               .budgets = planner->budgets};
    do
        STM_GOTO_OUT(expect(planner, &policy));
    while (stm_memory_spare(engine, &grid, &options));
    *choice = (stm_plan_choice){settings->chunk_rows, settings->recompute};
    stm_plan_static(planner, &model, ranks->stage_size, &memory);
    memory.limit = most->limit;
    keep_most(engine, &memory, most);
out:
    stm_engine_destroy(engine);
    stm_grid_destroy(&grid);
    return status;
}

/* The first stage has most chunks in flight, the last the head; between them the one that holds most counts. */
static bool is_looked_at(const stm_plan_ranks *ranks, int64_t stage, int64_t heaviest)
{
    return stage == 0 || stage == heaviest || stage + 1 == ranks->layout.pipeline;
}

stm_status stm_plan_memory_of(const stm_plan_ranks *ranks, stm_plan_choice *choice, stm_plan_memory *out)
{
    const int64_t size = ranks->stage_size, n = STM_MIN(size, (int64_t)MOST_RANKS);
    int64_t heaviest = 0;
    double static_bytes = 0;
    for (int64_t s = 0; s < ranks->layout.pipeline; s++) {
        stm_plan_memory memory;
        stm_plan_static(ranks->planner, &ranks->stages[s], size, &memory);
        if (stm_plan_static_bytes(&memory) > static_bytes) {
            static_bytes = stm_plan_static_bytes(&memory);
            heaviest = s;
        }
    }
    out->total = 0;
    for (int64_t s = 0; s < ranks->layout.pipeline; s++)
        for (int64_t i = 0; i < n && is_looked_at(ranks, s, heaviest); i++)
            STM_TRY(add_rank(ranks, (int)(s * size + i * size / n), static_bytes, choice, out));
    return STM_OK;
}
