/* History-aware length (HAPO, arXiv:2505.11225): beside 1 for a right response, up to 1 more where it is shorter than
 * the shortest right one that its prompt has had (h). cosine: c = cos(pi/2 L/h) below 2h, else -1; right: max(-0.7, c),
 * wrong: min(0, c). linear: right: 1 - L/h below h, 0 up to 1.1h, then max(-0.7, -(L - 1.1h)/h); wrong: 0 below 1.1h,
 * else max(-1, -(L - 1.1h)/h). Without any h: nothing more. A step's responses all meet the h from before it; h then
 * becomes the shorter one (styles -mean: the mean of all right ones). Only what is judged to train on is remembered. A
 * prompt is known by its text and answer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "reward/text_length.h"

enum { COSINE, LINEAR, COSINE_MEAN, LINEAR_MEAN }; /* in the order of the styles */

typedef struct {
    uint64_t prompt; /* hash of its text and answer */
    double h, n_right;
} memory;

typedef struct {
    uint64_t prompt;
    double length;
} right_response;

typedef struct {
    size_t n, capacity;
    memory *items; /* [n], in the order of `prompt` */
    size_t n_new, new_capacity;
    right_response *news; /* [n_new]: of this step, in the order of their coming */
} history;

static stm_status begin(stm_reward_item *item)
{
    return stm_alloc(1, sizeof(history), &item->state);
}

static void end(void *state)
{
    history *h = state;
    if (h) {
        free(h->items);
        free(h->news);
    }
    free(h);
}

static uint64_t prompt_hash(const stm_reward_input *input)
{
    const uint64_t both[] = {stm_hash(input->prompt_text, strlen(input->prompt_text)),
                             stm_hash(input->answer, strlen(input->answer))};
    return stm_hash(both, sizeof both);
}

/* Where the prompt stands or would stand. */
static size_t place(const history *h, uint64_t prompt)
{
    size_t low = 0, high = h->n;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (h->items[middle].prompt < prompt)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static stm_status remember(history *h, uint64_t prompt, double length, bool mean)
{
    const size_t at = place(h, prompt);
    if (at == h->n || h->items[at].prompt != prompt) {
        STM_TRY(stm_reserve(&h->items, &h->capacity, h->n + 1, sizeof *h->items));
        memmove(h->items + at + 1, h->items + at, (h->n - at) * sizeof *h->items);
        h->items[at] = (memory){.prompt = prompt, .h = length};
        h->n++;
    }
    memory *m = &h->items[at];
    m->n_right += 1.0;
    m->h = mean ? m->h + (length - m->h) / m->n_right : STM_MIN(m->h, length);
    return STM_OK;
}

static double bonus(size_t style, bool right, double length, double h)
{
    if (style == COSINE || style == COSINE_MEAN) {
        const double c = length < 2.0 * h ? cos(1.57079632679489661923 * length / h) : -1.0;
        return right ? STM_MAX(-0.7, c) : STM_MIN(0.0, c);
    }
    const double over = -(length - 1.1 * h) / h;
    if (right && length < h)
        return 1.0 - length / h;
    return over > 0.0 ? 0.0 : STM_MAX(right ? -0.7 : -1.0, over);
}

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    stm_status status = STM_OK;
    history *h = item->state;
    bool *right, failed;
    STM_TRY(stm_alloc(n, sizeof *right, &right));
    for (size_t r = 0; r < n; r++) {
        right[r] = stm_reward_is_right(item, &inputs[r], complaint, &failed);
        out[r] = failed ? NAN : right[r] ? 1.0 : 0.0;
        if (failed)
            continue;
        const uint64_t prompt = prompt_hash(&inputs[r]);
        const size_t at = place(h, prompt);
        if (at < h->n && h->items[at].prompt == prompt && h->items[at].h > 0.0)
            out[r] += bonus(item->style, right[r], (double)inputs[r].n_tokens, h->items[at].h);
    }
    for (size_t r = 0; r < n; r++) {
        if (!right[r] || !inputs[r].practice)
            continue;
        STM_GOTO_OUT(stm_reserve(&h->news, &h->new_capacity, h->n_new + 1, sizeof *h->news));
        h->news[h->n_new++] = (right_response){prompt_hash(&inputs[r]), (double)inputs[r].n_tokens};
    }
out:
    free(right);
    return status;
}

static stm_status settle(const stm_reward_item *item)
{
    history *h = item->state;
    const bool mean = item->style == COSINE_MEAN || item->style == LINEAR_MEAN;
    for (size_t i = 0; i < h->n_new; i++)
        STM_TRY(remember(h, h->news[i].prompt, h->news[i].length, mean));
    h->n_new = 0;
    return STM_OK;
}

static stm_status save(const void *state, stm_kept *out)
{
    const history *h = state;
    return stm_kept_put(out, h->items, h->n * sizeof *h->items);
}

static stm_status restore(void *state, stm_kept_reader bytes, bool *good)
{
    history *h = state;
    const size_t n = bytes.n / sizeof *h->items;
    STM_TRY(stm_reserve(&h->items, &h->capacity, n, sizeof *h->items));
    *good = bytes.n == n * sizeof *h->items && stm_kept_take(&bytes, h->items, bytes.n);
    h->n = *good ? n : 0;
    for (size_t i = 1; i < h->n; i++)
        *good = *good && h->items[i - 1].prompt < h->items[i].prompt;
    return STM_OK;
}

const stm_reward_kind stm_reward_hapo = {
    .name = "hapo",
    .reads = STM_READS_RIGHT | STM_READS_STYLE,
    .styles = (const char *const[]){"cosine", "linear", "cosine-mean", "linear-mean", NULL},
    .needs_answer = stm_reward_always,
    .begin = begin,
    .end = end,
    .settle = settle,
    .save = save,
    .restore = restore,
    .all = score,
};
