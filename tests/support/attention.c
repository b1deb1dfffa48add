#include "support/attention.h"

size_t attention_n_q(const attention *p)
{
    return p->n_rows * p->n_heads * p->head_dim;
}

size_t attention_source_size(const attention *p)
{
    return p->n_kv_heads * p->kv_stride * p->head_dim;
}

void attention_fill(attention *p, bool rounded)
{
    const size_t n_q = attention_n_q(p), n_kv = p->n_sources * attention_source_size(p);
    p->q = random_numbers(1, n_q);
    p->k = random_numbers(2, n_kv);
    p->v = random_numbers(3, n_kv);
    p->d_o = random_numbers(4, n_q);
    for (size_t i = 0; i < n_q; i++)
        p->q[i] *= 3;
    if (!rounded)
        return;
    round_to_bf16(p->q, n_q), round_to_bf16(p->d_o, n_q);
    round_to_bf16(p->k, n_kv), round_to_bf16(p->v, n_kv);
}

void attention_empty(attention *p)
{
    free(p->q), free(p->k), free(p->v), free(p->d_o);
}

static attention_answer room(const attention *p)
{
    const size_t kv = p->n_sources * attention_source_size(p), n_q = attention_n_q(p);
    return (attention_answer){calloc(n_q, 8), calloc(p->n_rows * p->n_heads, 8), calloc(n_q, 8), calloc(kv, 8),
                              calloc(kv, 8)};
}

void attention_discard(attention_answer *x)
{
    free(x->o), free(x->lse), free(x->dq), free(x->dk), free(x->dv);
}

static bool sees(const part_shape *part, size_t row, size_t key)
{
    return row >= part->first_row && row < part->first_row + part->n_rows && key < part->n_keys &&
           (!part->causal || key <= row - part->first_row + part->diagonal);
}

/* One query and its keys, in the order of parts. */
typedef struct {
    size_t n, q;                  /* q: where its numbers begin in q, o, dq, d_o */
    size_t *kv;                   /* [n]: where those of each key begin in k, v, dk, dv */
    double *p, *dp, delta, doubt; /* weights [n], and d_o times v; d_o times o, and times the magnitude of o */
    double lse;
} query;

static void find_keys(const attention *p, size_t row, size_t head, query *x)
{
    const size_t kv_head = head / (p->n_heads / p->n_kv_heads);
    x->q = (row * p->n_heads + head) * p->head_dim;
    x->n = 0;
    for (size_t i = 0; i < p->n_parts; i++)
        for (size_t key = 0; key < p->parts[i].n_keys; key++)
            if (sees(&p->parts[i], row, key))
                x->kv[x->n++] = ((p->parts[i].source * p->n_kv_heads + kv_head) * p->kv_stride + key) * p->head_dim;
}

static double dot(const double *x, const double *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

static void weigh_keys(const attention *p, double scale, query *x)
{
    double sum = 0, most = -INFINITY;
    for (size_t i = 0; i < x->n; i++) {
        x->p[i] = scale * dot(p->q + x->q, p->k + x->kv[i], p->head_dim);
        x->dp[i] = dot(p->d_o + x->q, p->v + x->kv[i], p->head_dim);
        most = fmax(most, x->p[i]);
    }
    for (size_t i = 0; i < x->n; i++)
        sum += exp(x->p[i] - most);
    x->lse = most + log(sum);
    x->delta = x->doubt = 0;
    for (size_t i = 0; i < x->n; i++) {
        x->p[i] = exp(x->p[i] - x->lse);
        x->delta += x->p[i] * x->dp[i];
        for (size_t d = 0; d < p->head_dim; d++)
            x->doubt += x->p[i] * fabs(p->d_o[x->q + d] * p->v[x->kv[i] + d]);
    }
}

attention_answer attention_expected(const attention *p, attention_answer *magnitude)
{
    const double scale = 1 / sqrt((double)p->head_dim);
    const size_t most = p->n_parts * p->kv_stride;
    attention_answer x = room(p), size = room(p);
    query one = {.kv = malloc(most * sizeof *one.kv), .p = malloc(most * 8), .dp = malloc(most * 8)};
    for (size_t i = 0; i < p->n_rows * p->n_heads; i++) {
        find_keys(p, i / p->n_heads, i % p->n_heads, &one);
        weigh_keys(p, scale, &one);
        x.lse[i] = one.lse;
        for (size_t j = 0; j < one.n; j++) {
            const double weight = one.p[j], ds = scale * weight * (one.dp[j] - one.delta);
            const double ds_size = fabs(ds) + scale * weight * one.doubt;
            for (size_t d = 0; d < p->head_dim; d++) {
                const size_t q = one.q + d, kv = one.kv[j] + d;
                x.o[q] += weight * p->v[kv], size.o[q] += weight * fabs(p->v[kv]);
                x.dv[kv] += weight * p->d_o[q], size.dv[kv] += weight * fabs(p->d_o[q]);
                x.dk[kv] += ds * p->q[q], size.dk[kv] += ds_size * fabs(p->q[q]);
                x.dq[q] += ds * p->k[kv], size.dq[q] += ds_size * fabs(p->k[kv]);
            }
        }
    }
    free(one.kv), free(one.p), free(one.dp);
    if (magnitude)
        *magnitude = size;
    else
        attention_discard(&size);
    return x;
}

enum { MORE_ROWS = 3 };
static const double START = 0.5;

static void *start_accumulator(device *dev, const attention *p)
{
    const size_t n = p->n_sources * p->n_kv_heads * (p->kv_stride + MORE_ROWS) * p->head_dim;
    double *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = START;
    void *memory = device_reals(dev, x, n);
    free(x);
    return memory;
}

static void read_accumulator(device *dev, const attention *p, const void *memory, double *added)
{
    const size_t stride = (p->kv_stride + MORE_ROWS) * p->head_dim, used = p->kv_stride * p->head_dim;
    const size_t n_heads = p->n_sources * p->n_kv_heads;
    double *x = malloc(n_heads * stride * sizeof *x);
    device_read(dev, memory, x, n_heads * stride);
    for (size_t i = 0; i < n_heads * stride; i++)
        if (i % stride < used)
            added[i / stride * used + i % stride] = x[i] - START;
        else
            assert_true(x[i] == START);
    free(x);
}

attention_answer attention_found(device *dev, const attention *p, bool backward)
{
    attention_answer x = room(p);
    const stm_backend *b = dev->backend;
    const size_t n_q = attention_n_q(p), kv = attention_source_size(p), all = p->n_sources * kv;
    void *k = device_activations(dev, p->k, all), *v = device_activations(dev, p->v, all);
    void *dk = start_accumulator(dev, p), *dv = start_accumulator(dev, p);
    const size_t dkv = p->n_kv_heads * (p->kv_stride + MORE_ROWS) * p->head_dim;
    stm_attend_part parts[MAX_PARTS];
    for (size_t i = 0; i < p->n_parts; i++) {
        const part_shape *from = &p->parts[i];
        parts[i] = (stm_attend_part){.first_row = from->first_row, .n_rows = from->n_rows, .n_keys = from->n_keys};
        parts[i].kv_stride = p->kv_stride;
        parts[i].dkv_stride = p->kv_stride + MORE_ROWS;
        parts[i].causal = from->causal;
        parts[i].diagonal = from->diagonal;
        parts[i].k = stm_activation_at(b, k, from->source * kv);
        parts[i].v = stm_activation_at(b, v, from->source * kv);
        parts[i].dk = stm_at(b, dk, from->source * dkv);
        parts[i].dv = stm_at(b, dv, from->source * dkv);
        if (p->grown[i] == 0)
            continue;
        const int32_t grown = (int32_t)p->grown[i];
        parts[i].n_keys -= p->grown[i];
        parts[i].most_grown = p->grown[i] + 300 * (i % 2); /* any bound will do */
        parts[i].grown = device_bytes(dev, &grown, sizeof grown);
    }
    stm_attend a = {.n_rows = p->n_rows, .n_heads = p->n_heads, .n_kv_heads = p->n_kv_heads, .head_dim = p->head_dim};
    a.scale = 1 / sqrt((double)p->head_dim);
    a.q = device_activations(dev, p->q, n_q);
    a.n_parts = p->n_parts;
    a.parts = parts;
    if (p->on_device)
        a.device_parts = device_bytes(dev, parts, p->n_parts * sizeof *parts);
    a.o = device_activations(dev, NULL, n_q);
    a.lse = device_reals(dev, NULL, p->n_rows * p->n_heads);
    a.d_o = device_activations(dev, p->d_o, n_q);
    a.dq = device_activations(dev, NULL, n_q);
    assert_ok(b->attend(dev->stream, &a));
    device_read_activations(dev, a.o, x.o, n_q);
    device_read(dev, a.lse, x.lse, p->n_rows * p->n_heads);
    if (backward) {
        assert_ok(b->attend_backward(dev->stream, &a));
        device_read_activations(dev, a.dq, x.dq, n_q);
        read_accumulator(dev, p, dk, x.dk);
        read_accumulator(dev, p, dv, x.dv);
    }
    device_release(dev);
    return x;
}
