#include "plan/decoding.h"

#include <math.h>
#include <stdlib.h>

#include "rollout/decode.h"

typedef struct {
    size_t group, n; /* n: tokens to sample */
    size_t done;
} item;

typedef struct {
    stm_decoding *d;
    item *items; /* [n_items]: of the rank; those before `next` have begun */
    size_t n_items, next, n_slots;
    size_t *active, n_active; /* items in slots */
} sampling;

/* Tokens that two groups' prompts begin with in common. */
static size_t n_common(const stm_batch *batch, size_t g, size_t h)
{
    const stm_group *a = &batch->groups[g], *b = &batch->groups[h];
    size_t n = 0;
    while (n < a->n_prompt && n < b->n_prompt && a->prompt[n] == b->prompt[n])
        n++;
    return n;
}

/* Of the run of a team's rollouts, all [n_all], that is rank's. */
static void list_items(sampling *s, size_t rank, size_t team_size, size_t n_all, item *all)
{
    const size_t first = n_all * rank / team_size, end = n_all * (rank + 1) / team_size;
    s->items = all + first;
    s->n_items = end - first;
}

static void fill_slots(sampling *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_active; i++)
        if (s->items[s->active[i]].done < s->items[s->active[i]].n)
            s->active[n++] = s->active[i];
    for (; n < s->n_slots && s->next < s->n_items; s->next++)
        if (s->items[s->next].n > 0)
            s->active[n++] = s->next;
    s->n_active = n;
}

/* Rounds until the first of the active ones ends, and what the middle one of them is. */
static double next_rounds(const sampling *s, stm_round *round)
{
    size_t n = (size_t)-1;
    *round = (stm_round){.n_rows = (double)s->n_active};
    for (size_t i = 0; i < s->n_active; i++)
        n = STM_MIN(n, s->items[s->active[i]].n - s->items[s->active[i]].done);
    for (size_t i = 0; i < s->n_active; i++) {
        const item *x = &s->items[s->active[i]];
        const double prompt = (double)s->d->batch->groups[x->group].n_prompt;
        const double own = (double)x->done + (double)n / 2;
        const size_t before = i == 0 ? x->group : s->items[s->active[i - 1]].group;
        if (i == 0 || before != x->group)
            round->prompt_keys +=
                prompt - (i > 0 && s->d->shares ? (double)n_common(s->d->batch, before, x->group) : 0);
        round->own_keys += own;
        round->pairs += prompt + own;
    }
    return (double)n;
}

/* A stage works on a share of the slots while the others have theirs; a round is through when the slowest stage has had
 * all of them. */
static double round_s(const stm_decoding *d, const stm_round *all)
{
    const double parts = fmin((double)d->n_stages, fmax(1, all->n_rows));
    const stm_round part = {all->n_rows / parts, fmax(all->prompt_keys / parts, 0), all->own_keys / parts,
                            all->pairs / parts};
    double slowest_s = 0, path_s = 0;
    for (size_t s = 0; s < d->n_stages; s++) {
        const stm_model *stage = &d->stages[s];
        const double s_s =
            stm_cost_round_s(d->cost, &part, stage->end_layer - stage->first_layer, s + 1 == d->n_stages);
        slowest_s = fmax(slowest_s, s_s);
        path_s += s_s;
    }
    const double work_s = parts * path_s; /* of all ranks of the column */
    if (d->n_stages > 1) {
        const double hop_s = part.n_rows * (double)d->cost->config->hidden_size * d->cost->real_bytes /
                                 d->cost->machine->between.bandwidth +
                             d->cost->machine->between.latency_s;
        path_s += (double)d->n_stages * hop_s;
    }
    return fmax(fmax(parts * slowest_s, path_s), d->cost->crowd * work_s / (double)d->n_stages);
}

static stm_status run(sampling *s)
{
    stm_decoding *d = s->d;
    STM_TRY(stm_alloc(s->n_slots, sizeof *s->active, &s->active));
    for (fill_slots(s); s->n_active > 0; fill_slots(s)) {
        stm_round round;
        const double n = next_rounds(s, &round);
        d->seconds += n * round_s(d, &round);
        d->n_rounds += n;
        for (size_t i = 0; i < s->n_active; i++)
            s->items[s->active[i]].done += (size_t)n;
    }
    free(s->active);
    return STM_OK;
}

/* As many slots as have room on every stage, whose layers are not the same in number, and no more than rollouts. */
static void choose_slots(sampling *s)
{
    const stm_decoding *d = s->d;
    s->n_slots = d->slots;
    for (size_t i = 0; i < d->n_stages; i++)
        while (s->n_slots > 1 &&
               (double)stm_decode_slot_bytes(&d->stages[i], s->n_slots, d->max_new_tokens) > d->room_bytes)
            s->n_slots /= 2;
    s->n_slots = STM_MAX(STM_MIN(s->n_slots, s->n_items), 1);
}

/* No less than the longest response, nor than all tokens in all slots. */
static double least_rounds(const sampling *s)
{
    double n = 0, longest = 0;
    for (size_t i = 0; i < s->n_items; i++) {
        n += (double)s->items[i].n;
        longest = fmax(longest, (double)s->items[i].n);
    }
    return fmax(longest, n / (double)s->n_slots);
}

/* The team's rollouts: all[..n). */
static size_t list_team(const stm_decoding *d, size_t team, item *all)
{
    size_t n = 0;
    for (size_t g = 0; g < d->batch->n_groups; g++)
        for (size_t i = 0; i < d->batch->groups[g].n_responses && d->team_of[g] == (int)team; i++)
            all[n++] = (item){.group = g, .n = d->batch->groups[g].responses[i].n};
    return n;
}

stm_status stm_decoding_estimate(stm_decoding *d)
{
    sampling most = {.d = d}, other = {.d = d};
    size_t n_all = 0;
    item *all;
    for (size_t g = 0; g < d->batch->n_groups; g++)
        n_all += d->batch->groups[g].n_responses;
    STM_TRY(stm_alloc(n_all, sizeof *all, &all));
    for (size_t team = 0, first = 0; team < d->n_teams; team++) {
        const size_t n = list_team(d, team, all + first), size = (size_t)d->team_sizes[team];
        for (size_t rank = 0; rank < size; rank++) {
            list_items(&other, rank, size, n, all + first);
            choose_slots(&other);
            if (!most.items || least_rounds(&other) > least_rounds(&most))
                most = other;
        }
        first += n;
    }
    const stm_status status = run(&most);
    free(all);
    return status;
}

void stm_decoding_guess(stm_decoding *d)
{
    const double n_groups = (double)d->batch->n_groups;
    double n_ranks = 0, n_rollouts = 0, tokens = 0, longest = 0, prompt = 0;
    for (size_t g = 0; g < d->batch->n_groups; g++) {
        const stm_group *group = &d->batch->groups[g];
        prompt += (double)group->n_prompt / n_groups;
        for (size_t i = 0; i < group->n_responses; i++, n_rollouts++) {
            tokens += (double)group->responses[i].n;
            longest = fmax(longest, (double)group->responses[i].n);
        }
    }
    d->seconds = d->n_rounds = 0;
    if (tokens == 0)
        return;
    for (size_t team = 0; team < d->n_teams; team++)
        n_ranks += d->team_sizes[team];
    const double size = n_rollouts / n_groups, mean = tokens / n_rollouts;
    sampling s = {.d = d, .n_items = (size_t)ceil(n_rollouts / n_ranks)};
    choose_slots(&s);
    const double own = (double)s.n_items * mean;
    d->n_rounds = fmax(longest, own / (double)s.n_slots);
    const double rows = own / d->n_rounds;
    const stm_round round = {.n_rows = rows,
                             .prompt_keys = fmax(1, rows / size) * prompt,
                             .own_keys = rows * mean / 2,
                             .pairs = rows * (prompt + mean / 2)};
    d->seconds = d->n_rounds * round_s(d, &round);
}
