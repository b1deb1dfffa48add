#include "plan/cost.h"

#include <math.h>

void stm_cost_place(stm_cost *cost, int64_t ranks_per_node, int64_t threads)
{
    const stm_machine *m = cost->machine;
    const double ranks = (double)ranks_per_node;
    cost->share = m->devices > 0 ? 1 / (double)m->devices
                  : threads > 0  ? fmin(1, (double)threads / (double)m->cores)
                                 : 1 / ranks;
    cost->crowd = fmax(1, ranks * cost->share);
}

/* y at x, a line between points in logarithms. */
static double interpolate(const stm_numbers *xs, const stm_numbers *ys, double x)
{
    const size_t n = xs->n;
    size_t i = 0;
    if (x <= xs->items[0])
        return ys->items[0] * x / xs->items[0];
    if (x >= xs->items[n - 1])
        return ys->items[n - 1];
    while (xs->items[i + 1] < x)
        i++;
    const double t = log(x / xs->items[i]) / log(xs->items[i + 1] / xs->items[i]);
    return ys->items[i] * pow(ys->items[i + 1] / ys->items[i], t);
}

static const stm_machine_rates *rates_of(const stm_cost *cost)
{
    return &cost->machine->rates[cost->precision];
}

double stm_cost_gemm_rate(const stm_cost *cost, double n_rows)
{
    return cost->share * interpolate(&cost->machine->rows, &rates_of(cost)->gemm, fmax(n_rows, 1));
}

/* Bytes of memory. */
static double memory_s(const stm_cost *cost, double bytes)
{
    return bytes / (cost->share * cost->machine->memory_bandwidth);
}

/* Numbers that an operation reads and writes. */
typedef struct {
    double reals, activations;
} moved;

static double elementwise_s(const stm_cost *cost, moved n)
{
    return (n.reals * cost->real_bytes + n.activations * cost->activation_bytes) /
           (cost->share * rates_of(cost)->elementwise);
}

static double attention_s(const stm_cost *cost, double flops, bool backward)
{
    return flops / (cost->share * rates_of(cost)->attention.items[backward]);
}

/* A product of n_rows rows with n_weights weights. */
static double product_s(const stm_cost *cost, double n_rows, double n_weights)
{
    if (n_rows <= 0)
        return 0;
    const double weight_bytes =
        cost->precision == STM_BFLOAT16 ? cost->weight_bytes - cost->real_bytes : cost->real_bytes;
    return fmax(2 * n_rows * n_weights / stm_cost_gemm_rate(cost, n_rows), memory_s(cost, n_weights * weight_bytes));
}

static double operations_s(const stm_cost *cost, double n)
{
    return n * cost->machine->operation_s;
}

/* Widths of a layer, and numbers of its weights. */
typedef struct {
    double hidden, q, kv, intermediate; /* kv: K and V together */
    double kv_weights, other_weights;
} widths;

static widths widths_of(const stm_model_config *c)
{
    widths w = {.hidden = (double)c->hidden_size,
                .q = (double)(c->n_heads * c->head_dim),
                .kv = 2 * (double)(c->n_kv_heads * c->head_dim),
                .intermediate = (double)c->intermediate_size};
    w.kv_weights = w.hidden * w.kv;
    w.other_weights = w.hidden * (2 * w.q + 3 * w.intermediate);
    return w;
}

/* FLOPs of a pair in one layer, as in group/flops.c. */
static double pair_flops(const stm_cost *cost)
{
    return 4.0 * (double)(cost->config->n_heads * cost->config->head_dim);
}

double stm_cost_kv_bytes(const stm_cost *cost)
{
    return 2.0 * (double)(cost->config->n_kv_heads * cost->config->head_dim) * cost->activation_bytes;
}

double stm_cost_dkv_bytes(const stm_cost *cost)
{
    return 2.0 * (double)(cost->config->n_kv_heads * cost->config->head_dim) * cost->real_bytes;
}

static double pairs_of(const stm_segment *s)
{
    const double n = (double)s->n_rows;
    return n * ((double)stm_segment_first_position(s) + (n + 1) / 2);
}

stm_work stm_work_of(const stm_forest *forest, const size_t *segments, size_t n)
{
    stm_work work = {0};
    for (size_t i = 0; i < n; i++) {
        const stm_segment *s = &forest->segments[segments[i]];
        work.n_rows += (double)s->n_rows;
        work.pairs += pairs_of(s);
        if (s->n_uses == 0)
            continue;
        work.n_active += (double)s->n_rows;
        work.active_pairs += pairs_of(s);
    }
    return work;
}

/* Operations of a layer on arrays, and what they read and write of n rows with loss, and of others, which have K and V
 * alone. */
enum { FORWARD_OPERATIONS = 10, BACKWARD_OPERATIONS = 20 };

static moved of_forward(const widths *w, double n, double others)
{
    return (moved){n * 6 * w->hidden + others * w->hidden,
                   n * (2 * w->hidden + 2 * (w->q + w->kv) + 3 * w->intermediate) + others * (w->hidden + 2 * w->kv)};
}

static moved of_backward(const widths *w, double n, double others)
{
    return (moved){n * 12 * w->hidden + others * 3 * w->hidden,
                   n * (2 * w->hidden + 4 * (w->q + w->kv) + 6 * w->intermediate) + others * (w->hidden + 4 * w->kv)};
}

double stm_cost_forward_s(const stm_cost *cost, const stm_work *work, bool last)
{
    const widths w = widths_of(cost->config);
    const double n = last ? work->n_active : work->n_rows, pairs = last ? work->active_pairs : work->pairs;
    if (work->n_rows <= 0)
        return 0;
    return operations_s(cost, FORWARD_OPERATIONS) + product_s(cost, work->n_rows, w.kv_weights) +
           product_s(cost, n, w.other_weights) + attention_s(cost, pairs * pair_flops(cost), false) +
           elementwise_s(cost, of_forward(&w, n, work->n_rows - n));
}

/* Twice the products; attention forms its scores again. */
double stm_cost_backward_s(const stm_cost *cost, const stm_work *work, bool last)
{
    const widths w = widths_of(cost->config);
    const double n = last ? work->n_active : work->n_rows, pairs = last ? work->active_pairs : work->pairs;
    if (work->n_rows <= 0)
        return 0;
    return operations_s(cost, BACKWARD_OPERATIONS) + 2 * product_s(cost, work->n_rows, w.kv_weights) +
           2 * product_s(cost, n, w.other_weights) + attention_s(cost, 2 * pairs * pair_flops(cost), true) +
           elementwise_s(cost, of_backward(&w, n, work->n_rows - n));
}

/* model/head.h: blocks of rows; logits of a large vocabulary are formed again for the gradient. */
double stm_cost_head_s(const stm_cost *cost, double n_rows, bool gradient)
{
    enum { BLOCK_ROWS = 512, WHOLE_COLUMNS = 1 << 16 };
    const double vocab = (double)cost->config->vocab_size, hidden = (double)cost->config->hidden_size;
    const double products = gradient ? vocab > WHOLE_COLUMNS ? 4 : 3 : 1, passes = gradient ? 5 : 3;
    if (n_rows <= 0)
        return 0;
    const double rows = fmin(n_rows, BLOCK_ROWS), n_blocks = n_rows / rows;
    return n_blocks * products * product_s(cost, rows, vocab * hidden) +
           elementwise_s(cost, (moved){n_rows * vocab * passes, 0}) +
           ceil(n_blocks) * operations_s(cost, gradient ? 8 : 4);
}

double stm_cost_spread_s(const stm_cost *cost, double n_rows)
{
    enum { BLOCK_ROWS = 512, PASSES = 4 }; /* of reals: logits written, and read for the mean and the sums */
    const double vocab = (double)cost->config->vocab_size, hidden = (double)cost->config->hidden_size;
    if (n_rows <= 0)
        return 0;
    const double rows = fmin(n_rows, BLOCK_ROWS), n_blocks = n_rows / rows;
    return n_blocks * product_s(cost, rows, vocab * hidden) + elementwise_s(cost, (moved){n_rows * vocab * PASSES, 0}) +
           ceil(n_blocks) * operations_s(cost, 4);
}

double stm_cost_round_s(const stm_cost *cost, const stm_round *round, size_t n_layers, bool has_head)
{
    const widths w = widths_of(cost->config);
    const double n = round->n_rows, vocab = (double)cost->config->vocab_size;
    if (n <= 0)
        return 0;
    const double keys_s = memory_s(cost, (round->prompt_keys + round->own_keys) * stm_cost_kv_bytes(cost));
    const double layer_s = operations_s(cost, FORWARD_OPERATIONS + 2) +
                           product_s(cost, n, w.kv_weights + w.other_weights) +
                           fmax(keys_s, attention_s(cost, round->pairs * pair_flops(cost), false)) +
                           elementwise_s(cost, of_forward(&w, n, 0));
    /* sampling: a softmax, and the sum that is inverted */
    const double head_s =
        product_s(cost, n, vocab * w.hidden) + elementwise_s(cost, (moved){4 * n * vocab, 0}) + operations_s(cost, 8);
    return (double)n_layers * layer_s + (has_head ? head_s : 0);
}

double stm_cost_read_s(const stm_cost *cost, double bytes)
{
    return memory_s(cost, bytes);
}

double stm_cost_optimizer_s(const stm_cost *cost, double n_owned, double n_held)
{
    const double adamw = 7 * cost->real_bytes, norm = cost->real_bytes;
    const double rounding = cost->precision == STM_BFLOAT16 ? cost->weight_bytes : 0;
    return memory_s(cost, n_owned * (adamw + norm) + n_held * rounding);
}
