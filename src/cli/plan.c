/* `stemma plan`: what a training step will cost on a machine that need not be at hand, and the best layout for it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/open.h"
#include "cli/commands.h"
#include "data/text_context.h"
#include "model/layout.h"
#include "model/stages.h"
#include "mpi/grid.h"
#include "plan/report.h"
#include "rollout/rollout.h"
#include "text/template.h"
#include "train/prompt_sets.h"
#include "train/refine.h"
#include "train/replay.h"

enum { MOST_LAYOUTS = 16, MOST_LAYOUTS_OF_TABLE = 6 };

typedef struct {
    const stm_options *options;
    stm_machine machine;
    stm_backend backend; /* says how large numbers are; computes nothing */
    stm_model *model;
    stm_tokenizer *tokenizer;
    stm_template *chat;
    stm_prompt_set prompts, eval;
    bool has_prompts, supervised;
    int64_t ranks_per_node;
    stm_plan_turns turns;
    stm_batch longest;
    stm_budgets *budgets;
    stm_planner planner;
    stm_plan_report report;
} plan_run;

static void choose_backend(plan_run *run)
{
    static const stm_apart device = {.piece_bytes = (size_t)1 << 20}; /* as cuda/ has it */
    static const char *const names[] = {
        [STM_FLOAT32] = "float32", [STM_FLOAT64] = "float64", [STM_BFLOAT16] = "bfloat16"};
    const stm_precision precision = run->options->precision;
    const size_t real_bytes = precision == STM_FLOAT64 ? sizeof(double) : sizeof(float), rounded_bytes = 2;
    const bool rounds_activations = precision == STM_BFLOAT16 && run->machine.devices > 0; /* as cuda/ does */
    run->backend =
        (stm_backend){.name = "plan",
                      .describe = stm_backend_cpu_f32.describe, /* the memory is as the machine says */
                      .precision = names[precision],
                      .real_bytes = real_bytes,
                      .apart = run->machine.devices > 0 ? &device : NULL,
                      .activation_bytes = rounds_activations ? rounded_bytes : real_bytes,
                      .head_columns = run->machine.devices > 0 ? STM_HEAD_COLUMNS_OF_DEVICE : STM_HEAD_COLUMNS_OF_HOST,
                      .chunk_rows = run->machine.devices > 0 ? STM_ROWS_OF_DEVICE : STM_ROWS_OF_HOST,
                      .weight_bytes = real_bytes + (precision == STM_BFLOAT16 ? rounded_bytes : 0)};
}

/* Lengths */

static stm_status read_prompts(plan_run *run)
{
    const stm_options *o = run->options;
    const stm_model *model = run->model;
    stm_text_context text = {.vocab_size = model->config.vocab_size, .max_positions = model->config.max_positions};
    if (model->tokenizer_json)
        STM_TRY(stm_tokenizer_parse(o->model.path, model->tokenizer_json, strlen(model->tokenizer_json),
                                    model->tokenizer_config_json, &run->tokenizer));
    const stm_status status =
        stm_template_choose(o->data.template_name, o->model.path, model->tokenizer_config_json, NULL, &run->chat);
    if (status != STM_OK && strcmp(o->data.template_name, "auto") != 0)
        return stm_fail_context(status, "data.template");
    text.tokenizer = run->tokenizer;
    text.chat = run->chat;
    if (stm_prompt_sets_read(MPI_COMM_WORLD, o, model, &text, &run->prompts, &run->eval) != STM_OK)
        return stm_fail_context(STM_ERR_INPUT, "--prompt-tokens is auto, and the prompts cannot be read");
    run->has_prompts = true;
    return STM_OK;
}

/* Where no tokenizer can say how many tokens close thinking, as many as may be. */
static stm_status choose_budgets(plan_run *run)
{
    const stm_options *o = run->options;
    const stm_text_context text = {.tokenizer = run->tokenizer, .vocab_size = run->model->config.vocab_size};
    if (o->rollout.budgets.n == 0 || run->tokenizer)
        return stm_budgets_create(o, &text, &run->budgets);
    const size_t n_closing = stm_sampling_closing_tokens(o);
    STM_TRY(stm_alloc(1, sizeof *run->budgets, &run->budgets));
    *run->budgets = (stm_budgets){.n = o->rollout.budgets.n,
                                  .n_summaries = (size_t)o->rollout.summaries,
                                  .tokens = o->rollout.budgets.items,
                                  .n_closing = n_closing};
    return stm_alloc(n_closing, sizeof *run->budgets->closing, &run->budgets->closing);
}

/* Of a step: what is sampled and learnt, and, for memory, responses of full length, with what an environment may say in
 * them. */
static stm_status draw(const plan_run *run, int64_t group_size, stm_plan_turns *turns, stm_batch *longest)
{
    const stm_options *o = run->options;
    const int64_t most = o->rollout.max_new_tokens;
    const int64_t mean = o->plan.answer_tokens == STM_AUTO ? (most + 1) / 2 : o->plan.answer_tokens;
    const stm_prompts *prompts = run->has_prompts ? &run->prompts.prompts : NULL;
    const stm_workload workload = {.n_groups = (size_t)o->rollout.prompts_per_step,
                                   .group_size = run->supervised ? 1 : (size_t)group_size,
                                   .n_prompt = (size_t)o->plan.prompt_tokens,
                                   .n_answer = (size_t)mean,
                                   .most_answer = (size_t)most,
                                   .spread = o->plan.spread,
                                   .seed = (uint64_t)o->run.seed};
    stm_workload full = workload;
    full.n_answer = full.most_answer = stm_sampling_longest(o);
    full.spread = 0;
    *longest = (stm_batch){0};
    STM_TRY(stm_plan_turns_draw(o, &workload, prompts, run->budgets, run->supervised, turns));
    return stm_workload_draw(&full, prompts, o->data.shuffle, run->supervised, longest);
}

static stm_status check_lengths(const plan_run *run)
{
    const stm_options *o = run->options;
    const size_t most = run->model->config.max_positions;
    if (o->plan.answer_tokens != STM_AUTO && o->plan.answer_tokens > o->rollout.max_new_tokens)
        return stm_fail(STM_ERR_INPUT,
                        "command line: --answer-tokens: found %lld, expected at most rollout.max_new_tokens, %lld",
                        (long long)o->plan.answer_tokens, (long long)o->rollout.max_new_tokens);
    if (o->plan.prompt_tokens != STM_AUTO && (size_t)(o->plan.prompt_tokens + o->rollout.max_new_tokens) > most)
        return stm_fail(STM_ERR_INPUT,
                        "command line: --prompt-tokens: found %lld, expected at most %zu less rollout.max_new_tokens, "
                        "%lld: the model's positions",
                        (long long)o->plan.prompt_tokens, most, (long long)o->rollout.max_new_tokens);
    return STM_OK;
}

static stm_status open_plan(plan_run *run)
{
    const stm_options *o = run->options;
    STM_TRY(stm_machine_read(o->plan.machine, &run->machine));
    choose_backend(run);
    STM_TRY(stm_model_describe_on(MPI_COMM_WORLD, o->model.path, &run->model));
    run->model->backend = &run->backend;
    run->supervised = stm_is_supervised(o);
    STM_TRY(check_lengths(run));
    if (o->plan.prompt_tokens == STM_AUTO)
        STM_TRY(read_prompts(run));
    STM_TRY(choose_budgets(run));
    size_t most_said;
    const stm_text_context text = {.tokenizer = run->tokenizer,
                                   .vocab_size = run->model->config.vocab_size,
                                   .max_positions = run->model->config.max_positions};
    STM_TRY(stm_refine_most_said(o, &text, run->has_prompts ? &run->prompts.prompts : NULL, &most_said));
    if (*o->out)
        STM_TRY(stm_check_output(o->out));
    STM_TRY(draw(run, o->rollout.group_size, &run->turns, &run->longest));
    run->ranks_per_node = o->plan.ranks_per_node == STM_AUTO ? run->machine.ranks : o->plan.ranks_per_node;
    run->planner = (stm_planner){.options = o,
                                 .machine = &run->machine,
                                 .model = run->model,
                                 .batch = &run->turns.batch,
                                 .turns = &run->turns,
                                 .group_size = run->supervised ? 1 : o->rollout.group_size,
                                 .longest = &run->longest,
                                 .eval = run->eval.present ? &run->eval.prompts : NULL,
                                 .budgets = run->budgets,
                                 .replay_bytes = stm_replay_bytes(o, run->has_prompts ? &run->prompts.prompts : NULL,
                                                                  (size_t)o->plan.prompt_tokens),
                                 .most_said = most_said,
                                 .threads = o->plan.threads == STM_AUTO ? 0 : o->plan.threads,
                                 .supervised = run->supervised};
    return STM_OK;
}

/* Tables */

static stm_status find_best(const plan_run *run, const stm_planner *planner, int64_t nodes, stm_estimate *best)
{
    stm_estimates found;
    const stm_status status = stm_plan_search(planner, nodes, run->ranks_per_node, MOST_LAYOUTS_OF_TABLE, &found);
    if (status == STM_OK)
        *best = found.items[0];
    free(found.items);
    return status;
}

static bool are_axes_given(const stm_options *o)
{
    return o->parallel.pipeline != STM_AUTO || o->parallel.suffix != STM_AUTO || o->parallel.replica != STM_AUTO;
}

/* Where the axes are given, fewer nodes may have no such layout: their rows are left out. */
static stm_status fill_nodes(plan_run *run)
{
    stm_plan_report *r = &run->report;
    const int64_t most = run->options->plan.max_nodes;
    size_t n = 0;
    for (int64_t nodes = 1; nodes <= most; nodes *= 2)
        n++;
    STM_TRY(stm_alloc(n, sizeof *r->nodes_rows, &r->nodes_rows));
    for (int64_t nodes = 1; nodes <= most; nodes *= 2) {
        const stm_status status = find_best(run, &run->planner, nodes, &r->nodes_rows[r->n_nodes_rows]);
        if (status != STM_OK && !are_axes_given(run->options))
            return status;
        r->n_nodes_rows += status == STM_OK;
    }
    return STM_OK;
}

static stm_status fill_sizes(plan_run *run)
{
    stm_plan_report *r = &run->report;
    const stm_numbers *sizes = &run->options->plan.group_sizes;
    if (run->supervised)
        return STM_OK;
    STM_TRY(stm_alloc(sizes->n, sizeof *r->size_rows, &r->size_rows));
    STM_TRY(stm_alloc(sizes->n, sizeof *r->sizes, &r->sizes));
    for (size_t i = 0; i < sizes->n; i++) {
        stm_plan_turns turns;
        stm_batch longest;
        stm_planner planner = run->planner;
        r->sizes[i] = (int64_t)sizes->items[i];
        stm_status status = draw(run, r->sizes[i], &turns, &longest);
        planner.batch = &turns.batch;
        planner.turns = &turns;
        planner.longest = &longest;
        planner.group_size = r->sizes[i];
        if (status == STM_OK)
            status = find_best(run, &planner, run->options->plan.nodes, &r->size_rows[i]);
        stm_plan_turns_clear(&turns);
        stm_batch_clear(&longest);
        STM_TRY(status);
        r->n_size_rows++;
    }
    return STM_OK;
}

static stm_status plan(plan_run *run)
{
    const stm_options *o = run->options;
    stm_plan_report *r = &run->report;
    r->planner = &run->planner;
    r->machine_file = o->plan.machine;
    r->nodes = o->plan.nodes;
    r->ranks_per_node = run->ranks_per_node;
    STM_TRY(stm_plan_search(&run->planner, o->plan.nodes, run->ranks_per_node, MOST_LAYOUTS, &r->best));
    STM_TRY(fill_nodes(run));
    STM_TRY(fill_sizes(run));
    stm_plan_print(r);
    return *o->out ? stm_plan_write(r, o->out) : STM_OK;
}

static void clear(plan_run *run)
{
    free(run->report.best.items);
    free(run->report.nodes_rows);
    free(run->report.size_rows);
    free(run->report.sizes);
    stm_plan_turns_clear(&run->turns);
    stm_batch_clear(&run->longest);
    stm_budgets_destroy(run->budgets);
    stm_prompt_set_clear(&run->prompts);
    stm_prompt_set_clear(&run->eval);
    stm_template_destroy(run->chat);
    stm_tokenizer_destroy(run->tokenizer);
    stm_model_destroy(run->model);
    stm_machine_clear(&run->machine);
}

stm_status stm_cli_plan(const stm_options *options)
{
    plan_run run = {.options = options};
    int rank;
    STM_MPI(MPI_Comm_rank(MPI_COMM_WORLD, &rank));
    stm_status status = open_plan(&run);
    if (status == STM_OK && rank == 0)
        status = plan(&run);
    clear(&run);
    return stm_agree_on(MPI_COMM_WORLD, status);
}
