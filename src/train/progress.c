#include "train/progress.h"

#include <jansson.h>
#include <math.h>

void stm_progress_init(stm_progress *progress)
{
    *progress = (stm_progress){.best = NAN, .last_eval = NAN};
}

static json_t *real_or_null(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

stm_status stm_progress_write(const stm_progress *p, const stm_calibration *c, char **json)
{
    json_t *object = json_pack(
        "{sI sI sI sI so sI sb sI sI sI sI sI sI s[ffff]}", "n_updates", (json_int_t)p->n_updates, "n_twin_updates",
        (json_int_t)p->n_twin_updates, "n_skipped_in_a_row", (json_int_t)p->n_skipped_in_a_row, "best_step",
        (json_int_t)p->best_step, "last_eval", real_or_null(p->last_eval), "evals_without_better",
        (json_int_t)p->evals_without_better, "eval_pending", (int)p->eval_pending, "reference_hash",
        (json_int_t)p->reference_hash, "n_ranks", (json_int_t)c->n_ranks, "n_stages", (json_int_t)c->n_stages,
        "ranks_per_node", (json_int_t)c->ranks_per_node, "limit_bytes", (json_int_t)c->limit_bytes, "chunk_rows",
        (json_int_t)c->chunk_rows, "rates", c->rates.dense, c->rates.attention, c->rates.latency_s, c->rates.bandwidth);
    *json = object ? json_dumps(object, JSON_REAL_PRECISION(17)) : NULL;
    json_decref(object);
    return *json ? STM_OK : stm_fail(STM_ERR_MEMORY, "out of memory");
}

stm_status stm_progress_read(const char *where, const char *json, stm_progress *p, stm_calibration *c)
{
    json_error_t error;
    json_int_t n_updates, n_skipped, best_step, without, n_ranks, n_stages = 1, per_node, limit, rows;
    stm_rates rates = {0};         /* an older checkpoint has none, */
    int pending = 0;               /* no evaluation that was left, */
    json_int_t reference_hash = 0; /* no average of models, */
    json_int_t n_twin_updates = 0; /* and no twin */
    json_t *last_eval, *object = json_loads(json, 0, &error);
    if (!object ||
        json_unpack_ex(object, &error, 0, "{sI s?I sI sI so sI s?b s?I sI s?I sI sI sI s?[FFFF]}", "n_updates",
                       &n_updates, "n_twin_updates", &n_twin_updates, "n_skipped_in_a_row", &n_skipped, "best_step",
                       &best_step, "last_eval", &last_eval, "evals_without_better", &without, "eval_pending", &pending,
                       "reference_hash", &reference_hash, "n_ranks", &n_ranks, "n_stages", &n_stages, "ranks_per_node",
                       &per_node, "limit_bytes", &limit, "chunk_rows", &rows, "rates", &rates.dense, &rates.attention,
                       &rates.latency_s, &rates.bandwidth) != 0) {
        json_decref(object);
        return stm_fail(STM_ERR_INPUT, "%s: /trainer: attribute trainer: %s", where, error.text);
    }
    p->n_updates = n_updates;
    p->n_twin_updates = n_twin_updates;
    p->n_skipped_in_a_row = n_skipped;
    p->best_step = best_step;
    p->last_eval = json_is_number(last_eval) ? json_number_value(last_eval) : NAN;
    p->evals_without_better = without;
    p->eval_pending = pending;
    p->reference_hash = (uint64_t)reference_hash;
    *c = (stm_calibration){.n_ranks = n_ranks,
                           .n_stages = n_stages,
                           .ranks_per_node = per_node,
                           .limit_bytes = limit,
                           .chunk_rows = rows,
                           .rates = rates};
    json_decref(object);
    return STM_OK;
}

bool stm_progress_evaluated(stm_progress *p, double mean_reward)
{
    if (isnan(mean_reward)) /* no prompt could be judged */
        return false;
    const bool better = isnan(p->best) || mean_reward > p->best;
    p->last_eval = mean_reward;
    p->evals_without_better = better ? 0 : p->evals_without_better + 1;
    if (better) {
        p->best = mean_reward;
        p->best_step = p->step;
    }
    return better;
}

const char *stm_progress_early_stop(const stm_progress *p, const stm_options *options)
{
    if (options->eval.stop_at_reward != 0 && p->last_eval >= options->eval.stop_at_reward)
        return "the evaluation has reached eval.stop_at_reward";
    if (options->eval.stop_after > 0 && p->evals_without_better >= options->eval.stop_after)
        return "eval.stop_after evaluations without a better one";
    return NULL;
}
