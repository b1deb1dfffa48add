#include "plan/estimate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "group/engine.h"
#include "model/stages.h"
#include "objective/objective.h"
#include "plan/decoding.h"
#include "plan/gradients.h"
#include "plan/memory.h"
#include "plan/rates.h"
#include "plan/replay.h"
#include "rollout/decode.h"
#include "train/copies.h"
#include "train/optimizer.h"
#include "train/trainer.h"

const char *stm_plan_part_name(stm_plan_part part)
{
    static const char *const names[STM_PLAN_N_PARTS] = {
#define STM_PLAN_PART_NAME(NAME, name, what) name,
        STM_PLAN_PARTS(STM_PLAN_PART_NAME)
#undef STM_PLAN_PART_NAME
    };
    return names[part];
}

typedef struct {
    const stm_planner *planner;
    const stm_options *options;
    stm_cost cost;
    stm_model *stages;                              /* [pipeline] */
    size_t n_stages, n_teams, stage_size, heaviest; /* heaviest: the stage that holds most */
    int *team_sizes;                                /* [n_teams] */
    stm_rounds_options *rounds;                     /* [n_stages]; NULL: gradients are summed behind backward */
    size_t room_bytes;
    stm_recompute recompute;
    stm_batch minibatch; /* what one update is of; not owned */
    double n_updates;
    int *team_of;       /* [n_groups] */
    size_t team;        /* the one that has most to do */
    int64_t first_rank; /* its first among those of a stage */
    stm_estimate *out;
} estimate;

/* The layout */

static double static_bytes_of(const estimate *e, const stm_model *stage)
{
    stm_plan_memory m;
    stm_plan_static(e->planner, stage, (int64_t)e->stage_size, &m);
    return stm_plan_static_bytes(&m);
}

static stm_status lay_out(estimate *e)
{
    const stm_layout *l = &e->out->layout;
    const int64_t n_ranks = l->nodes * l->ranks_per_node;
    e->n_stages = (size_t)l->pipeline;
    e->stage_size = (size_t)(n_ranks / l->pipeline);
    e->n_teams = (size_t)l->replica;
    e->out->layout.idle_ranks = n_ranks % l->pipeline;
    e->out->layout.suffix = ((int64_t)e->stage_size + l->replica - 1) / l->replica;
    STM_TRY(stm_alloc(e->n_teams, sizeof *e->team_sizes, &e->team_sizes));
    for (size_t t = 0; t < e->n_teams; t++)
        e->team_sizes[t] = (int)(e->stage_size / e->n_teams + (t < e->stage_size % e->n_teams));
    STM_TRY(stm_alloc(e->n_stages, sizeof *e->stages, &e->stages));
    for (size_t s = 0; s < e->n_stages; s++) {
        e->stages[s] = *e->planner->model;
        stm_model_hold_stage(&e->stages[s], e->n_stages, s);
        if (static_bytes_of(e, &e->stages[s]) > static_bytes_of(e, &e->stages[e->heaviest]))
            e->heaviest = s;
    }
    if (stm_optimizer_in_rounds(e->options->parallel.shard, (int)e->stage_size))
        return stm_plan_rounds_create(e->stages, e->n_stages, (int)e->stage_size, &e->rounds);
    return STM_OK;
}

/* Memory */

/* Whether there is room for what is static and the smallest chunk; if so, for how much. */
static bool fits_at_all(estimate *e)
{
    stm_plan_memory *m = &e->out->memory;
    size_t least = 0;
    stm_plan_static(e->planner, &e->stages[e->heaviest], (int64_t)e->stage_size, m);
    m->limit = stm_plan_limit_bytes(e->planner, e->out->layout.ranks_per_node);
    m->total = stm_plan_static_bytes(m);
    e->room_bytes = m->limit > m->total ? (size_t)(m->limit - m->total) : 0;
    for (size_t s = 0; s < e->n_stages; s++) {
        const size_t rows = stm_engine_chunk_rows(e->options, &e->stages[s], (int)e->n_stages, e->room_bytes);
        least = STM_MAX(least, stm_engine_least_bytes(&e->stages[s]));
        e->out->chunk_rows = s == 0 ? rows : STM_MIN(rows, e->out->chunk_rows);
    }
    return e->room_bytes >= least;
}

/* Groups and teams */

/* further: of a turn below responses. */
static stm_forest_options forest_options(const estimate *e, bool prompts, bool further)
{
    stm_forest_options o = stm_engine_forest_options(e->options);
    o.across_groups = o.across_groups || further;
    if (prompts)
        o.mode = STM_FORWARD_TREE;
    o.max_segment_tokens = stm_engine_segment_tokens(o.max_segment_tokens, e->out->chunk_rows, e->team_sizes[0]);
    return o;
}

typedef struct {
    stm_sequence *items;
    size_t n;
} sequences;

/* team_of NULL: of all groups; else of those of the team. prompts: without their responses. */
static stm_status list(const estimate *e, const stm_batch *batch, const int *team_of, bool prompts, sequences *out)
{
    size_t most = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        most += prompts ? 1 : batch->groups[g].n_responses;
    *out = (sequences){0};
    STM_TRY(stm_alloc(most, sizeof *out->items, &out->items));
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        if (team_of && team_of[g] != (int)e->team)
            continue;
        for (size_t i = 0; i < (prompts ? 1 : group->n_responses); i++)
            out->items[out->n++] =
                (stm_sequence){g, prompts ? STM_NONE : i, group->n_prompt + (prompts ? 0 : group->responses[i].n)};
    }
    return STM_OK;
}

/* Tokens of a group, each shared one once. */
static double tokens_of(const stm_group *group, bool prompts)
{
    double n = (double)group->n_prompt;
    for (size_t i = 0; i < group->n_responses && !prompts; i++)
        n += (double)group->responses[i].n;
    return n;
}

/* As a run would find them on such nodes. */
static stm_rates placement_rates(const estimate *e)
{
    const int64_t per_node = e->out->layout.ranks_per_node;
    if (strcmp(e->options->parallel.machine, "none") == 0 || e->n_stages * e->stage_size == 1)
        return (stm_rates){0};
    return stm_rates_of_machine(e->planner->machine, e->options->precision, per_node,
                                (int64_t)e->stage_size > per_node);
}

static stm_status assign(estimate *e, const stm_batch *batch, bool prompts, bool further)
{
    const stm_rates rates = placement_rates(e);
    const stm_forest_options options = forest_options(e, prompts, further);
    double *load;
    sequences all;
    stm_status status = list(e, batch, NULL, prompts, &all);
    if (status == STM_OK)
        status = stm_teams_assign(batch, all.items, all.n, &options, &e->planner->model->config, &rates,
                                  (int)e->n_teams, e->team_sizes, e->team_of);
    free(all.items);
    STM_TRY(status);
    STM_TRY(stm_alloc(e->n_teams, sizeof *load, &load));
    for (size_t g = 0; g < batch->n_groups; g++)
        load[e->team_of[g]] += tokens_of(&batch->groups[g], prompts) / e->team_sizes[e->team_of[g]];
    e->team = 0;
    e->first_rank = 0;
    for (size_t t = 1; t < e->n_teams; t++)
        if (load[t] > load[e->team])
            e->team = t;
    for (size_t t = 0; t < e->team; t++)
        e->first_rank += e->team_sizes[t];
    free(load);
    return STM_OK;
}

/* Memory of all that a step does. */
static stm_status add_memory(estimate *e)
{
    stm_plan_memory *m = &e->out->memory;
    const stm_plan_ranks ranks = {.planner = e->planner,
                                  .stages = e->stages,
                                  .layout = e->out->layout,
                                  .stage_size = (int64_t)e->stage_size,
                                  .rates = placement_rates(e)};
    stm_plan_choice choice = {e->out->chunk_rows, e->options->memory.recompute};
    STM_TRY(stm_plan_memory_of(&ranks, &choice, m));
    e->out->chunk_rows = choice.chunk_rows;
    e->recompute = choice.recompute;
    e->out->fits = m->total <= m->limit;
    return STM_OK;
}

/* Passes */

/* Of the links of the nodes that a team and its columns are on, what is not other teams'. */
static double link_share(const estimate *e)
{
    const double size = e->team_sizes[e->team], per_node = (double)e->out->layout.ranks_per_node;
    return fmin(1, size / fmin(per_node, (double)e->stage_size));
}

static stm_status replay(estimate *e, const stm_forest *forest, stm_pass_kind kind, stm_replayed *out)
{
    const int team_size = e->team_sizes[e->team];
    const stm_placement_options placing = {.in_flight = (size_t)e->options->parallel.prefixes_in_flight,
                                           .context = e->options->parallel.context,
                                           .prefix = e->options->parallel.prefix,
                                           .rates = placement_rates(e),
                                           .activation_bytes = e->planner->model->backend->activation_bytes,
                                           .real_bytes = e->planner->model->backend->real_bytes};
    const stm_schedule_options options = {
        .chunk_rows = e->out->chunk_rows, .recompute = e->recompute, .room_bytes = e->room_bytes};
    const stm_replay r = {.cost = &e->cost,
                          .stages = e->stages,
                          .n_stages = e->n_stages,
                          .team_size = team_size,
                          .forest = forest,
                          .kind = kind,
                          .stage_size = (int64_t)e->stage_size,
                          .first_rank = e->first_rank,
                          .ranks_per_node = e->out->layout.ranks_per_node,
                          .shares_kv =
                              e->planner->machine->devices == 0 && e->options->parallel.shared_kv != STM_SHARED_KV_OFF,
                          .rounds = kind == STM_PASS_GRADIENT ? e->rounds : NULL,
                          .link_share = link_share(e)};
    stm_placement placement = {0};
    const stm_model_config *config = &e->planner->model->config;
    stm_status status = kind == STM_PASS_PREFILL
                            ? stm_placement_create_shared(forest, config, team_size, &placing, &placement)
                            : stm_placement_create(forest, config, team_size, &placing, &placement);
    if (status == STM_OK)
        status = stm_replay_pass(&r, &placement, &options, out);
    stm_placement_clear(&placement);
    return status;
}

/* Bytes that leave a node: those of the team, as often as teams are on it. */
static void add_bytes(estimate *e, const stm_replayed *r, double times)
{
    const double ranks = (double)(e->n_stages * (size_t)e->team_sizes[e->team]);
    const double nodes = fmax(1, ranks / (double)e->out->layout.ranks_per_node);
    const double teams =
        fmax(1, fmin((double)e->out->layout.ranks_per_node, (double)(e->n_stages * e->stage_size)) / ranks);
    e->out->inside_bytes += times * teams * r->inside_bytes / nodes;
    e->out->between_bytes += times * teams * r->between_bytes / nodes;
}

/* Over the sequences that a team has of the batch. */
static stm_status run_pass(estimate *e, const stm_batch *batch, stm_pass_kind kind, bool further, double times,
                           stm_replayed *out)
{
    const bool prompts = kind == STM_PASS_PREFILL;
    const stm_forest_options options = forest_options(e, prompts, further);
    sequences mine;
    stm_forest forest = {0};
    STM_TRY(assign(e, batch, prompts, further));
    stm_status status = list(e, batch, e->team_of, prompts, &mine);
    if (status == STM_OK)
        status = stm_forest_create(batch, mine.items, mine.n, &options, &forest);
    if (status == STM_OK)
        status = replay(e, &forest, kind, out);
    stm_forest_clear(&forest);
    free(mine.items);
    if (status == STM_OK)
        add_bytes(e, out, times);
    return status;
}

/* Rollout */

static stm_decoding decoding_of(const estimate *e, const stm_plan_turn *turn)
{
    return (stm_decoding){.cost = &e->cost,
                          .stages = e->stages,
                          .n_stages = e->n_stages,
                          .batch = &turn->batch,
                          .shares = e->options->tree.across_groups || turn->further,
                          .team_of = e->team_of,
                          .team_sizes = e->team_sizes,
                          .n_teams = e->n_teams,
                          .slots = (size_t)e->options->rollout.slots,
                          .max_new_tokens = turn->most,
                          .room_bytes = (double)e->room_bytes / (2 * (double)turn->n_models)};
}

static stm_status add_turn(estimate *e, const stm_plan_turn *turn)
{
    stm_estimate *out = e->out;
    const double n_models = (double)turn->n_models;
    stm_replayed prefill;
    stm_decoding decoding = decoding_of(e, turn);
    STM_TRY(run_pass(e, &turn->batch, STM_PASS_PREFILL, turn->further, n_models, &prefill));
    STM_TRY(stm_decoding_estimate(&decoding));
    out->parts[STM_PLAN_PREFILL] += n_models * prefill.seconds;
    out->parts[STM_PLAN_DECODE] += n_models * decoding.seconds;
    return STM_OK;
}

static stm_status add_rollout(estimate *e)
{
    for (size_t i = 0; i < e->planner->turns->n; i++)
        STM_TRY(add_turn(e, &e->planner->turns->items[i]));
    return STM_OK;
}

/* Gradients */

static stm_plan_exchange exchange_of(const estimate *e, double n)
{
    return stm_plan_exchange_of(&e->cost, n, (double)e->stage_size, (double)e->n_stages,
                                (double)e->out->layout.ranks_per_node);
}

/* What is summed behind backward: all, or the ends of what rounds have summed. */
static void add_sum(estimate *e, const stm_replayed *gradient, const stm_plan_exchange *whole)
{
    const stm_model *stage = &e->stages[e->heaviest];
    const stm_plan_exchange ends = e->rounds ? exchange_of(e, stm_plan_rounds_ends(&e->rounds[e->heaviest])) : *whole;
    const double hides_s = e->rounds ? 0 : gradient->tail_s;
    stm_estimate *out = e->out;
    out->parts[STM_PLAN_GRADIENTS] += e->n_updates * stm_plan_exchange_sum_s(&e->cost, &ends, stage, hides_s);
    out->inside_bytes += e->n_updates * ends.inside_bytes;
    out->between_bytes += e->n_updates * ends.between_bytes;
}

static void add_optimizer(estimate *e, const stm_replayed *gradient)
{
    const stm_model *stage = &e->stages[e->heaviest];
    const double own = (double)stage->own.n, size = (double)e->stage_size, held = (double)stm_model_n_held(stage);
    const stm_plan_exchange x = exchange_of(e, own);
    stm_estimate *out = e->out;
    add_sum(e, gradient, &x);
    out->parts[STM_PLAN_OPTIMIZER] = e->n_updates * e->cost.crowd * stm_cost_optimizer_s(&e->cost, own / size, held);
    /* shares leave as they are written (mpi/gathering.h), and all are awaited */
    out->parts[STM_PLAN_GATHER] = e->n_updates * fmax(x.inside_s, x.between_s);
    out->inside_bytes += e->n_updates * x.inside_bytes;
    out->between_bytes += e->n_updates * x.between_bytes;
}

/* Update */

static void choose_minibatch(estimate *e)
{
    const stm_options *o = e->options;
    const size_t n = e->planner->batch->n_groups;
    const size_t size = o->update.minibatch_groups > 0 ? STM_MIN((size_t)o->update.minibatch_groups, n) : n;
    e->minibatch = (stm_batch){.n_groups = size, .groups = e->planner->batch->groups};
    e->n_updates = (stm_copies_have_twin(o) ? 2.0 : 1.0) * (double)o->update.epochs * (double)n / (double)size;
}

/* Log-probs of other models than the policy; kto compares responses below other prompts with two of them. */
static size_t count_scores(const stm_options *o)
{
    const size_t n_mismatched = o->objective.kl_point_from == STM_KL_POINT_MISMATCHED ? 2 : 0;
    return (size_t)stm_objective_has_reference(&o->objective) + stm_copies_n_scores(o) + n_mismatched;
}

/* Of the rows of a rank, were they shared out. */
static double rows_of_rank(const estimate *e, const stm_batch *batch)
{
    double n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++)
            n += (double)batch->groups[g].responses[i].n;
    return n / (double)e->stage_size;
}

/* What an update must know before its first backward (group/score.c, group/token_weights.c). */
static stm_status add_ahead(estimate *e)
{
    const stm_objective_options *o = &e->options->objective;
    const stm_objective *objective = stm_objective_find(o->name);
    const stm_scope scope = objective->scope_by ? objective->scope_by(o) : objective->scope;
    const bool weighs = stm_objective_weighs_tokens(objective, o);
    const double n_passes = (scope == STM_SCOPE_GROUP || scope == STM_SCOPE_BATCH ? 1.0 : 0.0) + (weighs ? 1.0 : 0.0);
    stm_replayed ahead;
    if (n_passes == 0)
        return STM_OK;
    STM_TRY(run_pass(e, &e->minibatch, STM_PASS_SCORE, false, e->n_updates * n_passes, &ahead));
    e->out->parts[STM_PLAN_AHEAD] = e->n_updates * n_passes * ahead.seconds;
    if (weighs)
        e->out->parts[STM_PLAN_AHEAD] +=
            e->n_updates * e->cost.crowd * stm_cost_spread_s(&e->cost, rows_of_rank(e, &e->minibatch));
    return STM_OK;
}

static stm_status add_update(estimate *e)
{
    static const stm_plan_part from[STM_REPLAY_N_PARTS] = {[STM_REPLAY_FORWARD] = STM_PLAN_FORWARD,
                                                           [STM_REPLAY_AGAIN] = STM_PLAN_AGAIN,
                                                           [STM_REPLAY_BACKWARD] = STM_PLAN_BACKWARD,
                                                           [STM_REPLAY_HEAD] = STM_PLAN_HEAD,
                                                           [STM_REPLAY_KV] = STM_PLAN_KV,
                                                           [STM_REPLAY_SUMS] = STM_PLAN_GRADIENTS,
                                                           [STM_REPLAY_STAGE] = STM_PLAN_STAGE,
                                                           [STM_REPLAY_IDLE] = STM_PLAN_IDLE};
    stm_estimate *out = e->out;
    stm_replayed gradient, score;
    const size_t n_scored = count_scores(e->options);
    if (n_scored > 0) {
        STM_TRY(run_pass(e, e->planner->batch, STM_PASS_SCORE, false, (double)n_scored, &score));
        out->parts[STM_PLAN_REFERENCE] = (double)n_scored * score.seconds;
    }
    choose_minibatch(e);
    STM_TRY(add_ahead(e));
    STM_TRY(run_pass(e, &e->minibatch, STM_PASS_GRADIENT, false, e->n_updates, &gradient));
    for (size_t p = 0; p < STM_REPLAY_N_PARTS; p++)
        out->parts[from[p]] = e->n_updates * gradient.parts[p];
    out->n_chunks = gradient.n_chunks;
    add_optimizer(e, &gradient);
    return STM_OK;
}

/* All of it */

static void add_up(estimate *e)
{
    stm_estimate *out = e->out;
    for (size_t p = 0; p < STM_PLAN_N_PARTS; p++)
        *(p <= STM_PLAN_DECODE ? &out->rollout_s : &out->update_s) += out->parts[p];
    out->step_s = out->rollout_s + out->update_s;
}

/* Of sequences of a batch, or of its prompts, each shared token once. *rows: of them. */
static stm_status flops_of(const estimate *e, const stm_batch *batch, bool prompts, bool further, stm_flops *flops,
                           double *rows)
{
    const stm_forest_options options = forest_options(e, prompts, further);
    stm_forest forest = {0};
    sequences all;
    stm_status status = list(e, batch, NULL, prompts, &all);
    if (status == STM_OK)
        status = stm_forest_create(batch, all.items, all.n, &options, &forest);
    if (status == STM_OK)
        stm_flops_of_forest(&e->planner->model->config, &forest, flops);
    for (size_t i = 0; status == STM_OK && i < forest.n_segments; i++)
        *rows += (double)forest.segments[i].n_rows;
    stm_forest_clear(&forest);
    free(all.items);
    return status;
}

static stm_status count_flops(const estimate *e)
{
    const stm_model_config *config = &e->planner->model->config;
    stm_flops update = {0}, rollout = {0};
    double unused = 0;
    STM_TRY(flops_of(e, e->planner->batch, false, false, &update, &e->out->rows));
    for (size_t k = 0; !e->planner->supervised && k < e->planner->turns->n; k++) {
        const stm_plan_turn *turn = &e->planner->turns->items[k];
        for (size_t m = 0; m < turn->n_models; m++)
            STM_TRY(flops_of(e, &turn->batch, true, turn->further, &rollout, &unused));
        for (size_t g = 0; g < turn->batch.n_groups; g++)
            for (size_t i = 0; i < turn->n_models * turn->batch.groups[g].n_responses; i++)
                stm_flops_add_sampling(config, turn->batch.groups[g].n_prompt,
                                       turn->batch.groups[g].responses[i / turn->n_models].n, &rollout);
    }
    e->out->flops = (double)e->options->update.epochs * stm_flops_update(&update) + stm_flops_forward(&rollout);
    return STM_OK;
}

static stm_status begin(const stm_planner *planner, const stm_layout *layout, stm_estimate *out, estimate *e)
{
    const stm_precision precision = planner->options->precision;
    *out = (stm_estimate){.layout = *layout};
    *e = (estimate){.planner = planner, .options = planner->options, .out = out};
    e->cost = (stm_cost){.machine = planner->machine,
                         .config = &planner->model->config,
                         .precision = precision,
                         .real_bytes = (double)planner->model->backend->real_bytes,
                         .activation_bytes = (double)planner->model->backend->activation_bytes,
                         .weight_bytes = (double)planner->model->backend->weight_bytes};
    stm_cost_place(&e->cost, layout->ranks_per_node, planner->threads);
    if (!stm_machine_knows(planner->machine, precision))
        return stm_fail(STM_ERR_INPUT, "machine: found no rates for --precision %s, expected gemm.%s",
                        planner->model->backend->precision, planner->model->backend->precision);
    size_t most_groups = planner->batch->n_groups;
    for (size_t i = 0; planner->turns && i < planner->turns->n; i++)
        most_groups = STM_MAX(most_groups, planner->turns->items[i].batch.n_groups);
    STM_TRY(stm_alloc(most_groups, sizeof *e->team_of, &e->team_of));
    return lay_out(e);
}

static void end(estimate *e)
{
    stm_plan_rounds_clear(e->rounds, e->n_stages);
    free(e->stages);
    free(e->team_sizes);
    free(e->team_of);
}

stm_status stm_plan_estimate(const stm_planner *planner, const stm_layout *layout, stm_estimate *out)
{
    estimate e;
    stm_status status;
    STM_GOTO_OUT(begin(planner, layout, out, &e));
    if (!fits_at_all(&e))
        goto out;
    STM_GOTO_OUT(add_memory(&e));
    if (!out->fits)
        goto out;
    if (!planner->supervised)
        STM_GOTO_OUT(add_rollout(&e));
    STM_GOTO_OUT(add_update(&e));
    STM_GOTO_OUT(count_flops(&e));
    add_up(&e);
out:
    end(&e);
    return status;
}

/* All work at its rate, shared by the ranks that have some; the bubble of the pipeline. */
static double guess_pass_s(const estimate *e)
{
    const stm_batch *batch = e->planner->batch;
    double rows = 0, units = 0;
    for (size_t g = 0; g < batch->n_groups; g++) {
        rows += tokens_of(&batch->groups[g], false);
        units += (double)batch->groups[g].n_responses + 1;
    }
    const double columns = fmin((double)e->stage_size, units), column_rows = rows / columns;
    const double n_chunks = fmax(1, ceil(column_rows / (double)e->out->chunk_rows));
    const stm_work work = {.n_rows = column_rows / n_chunks, .n_active = column_rows / n_chunks};
    const double layer_s = e->cost.crowd * n_chunks *
                           (stm_cost_forward_s(&e->cost, &work, false) + stm_cost_backward_s(&e->cost, &work, false));
    const double layers = (double)e->planner->model->config.n_layers / (double)e->n_stages;
    return layers * layer_s * (1 + ((double)e->n_stages - 1) / n_chunks);
}

static double guess_decoding_s(const estimate *e)
{
    double seconds = 0;
    for (size_t i = 0; !e->planner->supervised && i < e->planner->turns->n; i++) {
        stm_decoding decoding = decoding_of(e, &e->planner->turns->items[i]);
        stm_decoding_guess(&decoding);
        seconds += (double)e->planner->turns->items[i].n_models * decoding.seconds;
    }
    return seconds;
}

/* Passes over all groups, the exchange of gradients and parameters in each update, and decoding. */
double stm_plan_guess(const stm_planner *planner, const stm_layout *layout)
{
    stm_estimate out;
    estimate e;
    double guess = INFINITY;
    if (begin(planner, layout, &out, &e) == STM_OK && fits_at_all(&e)) {
        choose_minibatch(&e);
        const double n_passes = e.n_updates * (double)e.minibatch.n_groups / (double)planner->batch->n_groups;
        const stm_plan_exchange sum = exchange_of(&e, (double)e.stages[e.heaviest].own.n);
        guess =
            n_passes * guess_pass_s(&e) + e.n_updates * 2 * fmax(sum.inside_s, sum.between_s) + guess_decoding_s(&e);
    }
    end(&e);
    return guess;
}
