#include "train/rounds.h"

#include <stdlib.h>

#include "group/score.h"

void stm_round_clear(stm_round *round)
{
    free(round->which);
    stm_batch_clear(&round->batch);
    stm_batch_clear(&round->cuts);
    stm_verdicts_clear(&round->verdicts);
    *round = (stm_round){0};
}

bool stm_group_is_idle(const stm_group *group)
{
    return stm_group_is_judged(group) && stm_group_is_equal(group);
}

size_t stm_round_n_idle(const stm_round *round)
{
    size_t n = 0;
    for (size_t g = 0; g < round->batch.n_groups; g++)
        n += stm_group_is_idle(&round->batch.groups[g]);
    return n;
}

#define SWAP(type, a, b)                                                                                               \
    do {                                                                                                               \
        type kept_ = (a);                                                                                              \
        (a) = (b);                                                                                                     \
        (b) = kept_;                                                                                                   \
    } while (0)

/* What the judge said of a group; texts are on rank 0 alone. */
static void swap_verdicts(stm_verdicts *a, size_t first, stm_verdicts *b, size_t other, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        SWAP(double, a->total[first + i], b->total[other + i]);
        if (a->texts && b->texts)
            SWAP(char *, a->texts[first + i], b->texts[other + i]);
    }
    for (size_t i = 0; i < n * a->n_rewards; i++)
        SWAP(double, a->parts[first * a->n_rewards + i], b->parts[other * b->n_rewards + i]);
}

void stm_round_replace(stm_round *kept, stm_round *more)
{
    size_t other = 0;
    for (size_t g = 0; g < kept->n; g++) {
        if (!stm_group_is_idle(&kept->batch.groups[g]))
            continue;
        while (other < more->n &&
               (!stm_group_is_judged(&more->batch.groups[other]) || stm_group_is_equal(&more->batch.groups[other])))
            other++;
        if (other == more->n)
            return;
        const size_t size = kept->batch.groups[g].n_responses;
        swap_verdicts(&kept->verdicts, g * size, &more->verdicts, other * size, size);
        SWAP(stm_group, kept->batch.groups[g], more->batch.groups[other]);
        SWAP(size_t, kept->which[g], more->which[other]);
        other++;
    }
}
