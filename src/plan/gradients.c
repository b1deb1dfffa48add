#include "plan/gradients.h"

#include <math.h>
#include <stdlib.h>

#include "train/optimizer.h"

stm_plan_exchange stm_plan_exchange_of(const stm_cost *cost, double n, double size, double n_stages,
                                       double ranks_per_node)
{
    enum { AT_ONCE = 16 }; /* messages of a bucket whose latencies overlap */
    const stm_machine *m = cost->machine;
    const double here = fmin(ranks_per_node, size), bytes = n * cost->real_bytes;
    stm_plan_exchange x = {.n_bytes = bytes, .size = size};
    if (size <= 1)
        return x;
    /* where a node has ranks of several stages, each stage sends */
    const double stages = fmax(1, fmin(n_stages, ranks_per_node / size));
    const double messages = ceil(n / (double)stm_optimizer_bucket((int)size)) * (size - 1) / AT_ONCE;
    const double latency = size > here ? m->between.latency_s : m->inside.latency_s;
    x.inside_bytes = stages * here * bytes * (here - 1) / size;
    x.between_bytes = stages * here * bytes * (size - here) / size;
    x.inside_s = cost->crowd * x.inside_bytes / (here * stages) / m->inside.bandwidth;
    x.between_s = x.between_bytes / m->between.bandwidth + messages * latency;
    return x;
}

double stm_plan_exchange_last_share(const stm_model *stage, double size)
{
    const double bucket = (double)stm_optimizer_bucket((int)size);
    const stm_model_config *c = &stage->config;
    const double attention = 2.0 * (double)((c->n_heads + c->n_kv_heads) * c->head_dim);
    const double layer = (double)c->hidden_size * (attention + 3.0 * (double)c->intermediate_size);
    const double n = layer + (stage->first_layer == 0 ? (double)(c->vocab_size * c->hidden_size) : 0);
    return fmin(1, ceil(n / bucket) * bucket / (double)stage->own.n);
}

double stm_plan_exchange_exposed_s(const stm_model *stage, double size, double sum_s, double tail_s)
{
    const double layers = (double)(stage->end_layer - stage->first_layer);
    return fmax(sum_s - tail_s * (layers - 1) / layers, sum_s * stm_plan_exchange_last_share(stage, size));
}

double stm_plan_exchange_sum_s(const stm_cost *cost, const stm_plan_exchange *x, const stm_model *stage, double tail_s)
{
    if (x->size <= 1)
        return 0;
    const double adding_s = cost->crowd * stm_cost_read_s(cost, x->n_bytes);
    if (cost->machine->devices > 0)
        return adding_s + stm_plan_exchange_exposed_s(stage, x->size, fmax(x->inside_s, x->between_s), tail_s);
    return adding_s + x->inside_s + stm_plan_exchange_exposed_s(stage, x->size, x->between_s, tail_s);
}

stm_status stm_plan_rounds_create(const stm_model *stages, size_t n_stages, int size, stm_rounds_options **out)
{
    stm_status status = stm_alloc(n_stages, sizeof **out, out);
    for (size_t s = 0; s < n_stages && status == STM_OK; s++) {
        size_t *bounds;
        (*out)[s] = (stm_rounds_options){.shards = stm_optimizer_cut(&stages[s], size, stm_optimizer_bucket(size)),
                                         .real_bytes = stages[s].backend->real_bytes};
        status = stm_optimizer_bounds(&stages[s], &(*out)[s], &bounds);
    }
    return status;
}

void stm_plan_rounds_clear(stm_rounds_options *rounds, size_t n_stages)
{
    for (size_t s = 0; rounds && s < n_stages; s++)
        free((void *)(uintptr_t)rounds[s].bounds);
    free(rounds);
}

double stm_plan_rounds_ends(const stm_rounds_options *r)
{
    return (double)(r->shards.n - (r->bounds[r->n_layers] - r->bounds[0]));
}
