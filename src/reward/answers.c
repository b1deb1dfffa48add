#include "reward/answers.h"

#include <stdlib.h>
#include <string.h>

#include "reward/kinds.h"
#include "reward/span.h"

struct stm_answers {
    stm_reward_item item; /* what compares */
    stm_pattern *extract; /* NULL: the whole text */
};

static const stm_reward_kind *const kinds[] = {&stm_reward_math, &stm_reward_numeric, &stm_reward_exact,
                                               &stm_reward_choices};

stm_status stm_answers_create(const char *kind, const char *extract, stm_answers **out)
{
    stm_status status = STM_OK;
    stm_answers *answers;
    STM_TRY(stm_alloc(1, sizeof *answers, &answers));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i]->name, kind) == 0)
            answers->item.kind = kinds[i];
    if (!answers->item.kind)
        status =
            stm_fail(STM_ERR_INPUT, "rollout.answer: found \"%s\", expected math, numeric, exact or choices", kind);
    if (status == STM_OK && *extract) {
        status = stm_pattern_create(extract, &answers->extract);
        if (status != STM_OK)
            status = stm_fail_context(status, "rollout.answer_extract");
    }
    if (status == STM_OK)
        *out = answers;
    else
        stm_answers_destroy(answers);
    return status;
}

void stm_answers_destroy(stm_answers *answers)
{
    if (!answers)
        return;
    stm_pattern_destroy(answers->extract);
    free(answers);
}

/* A search that goes beyond its bounds finds none. */
static stm_span answer_of(const stm_answers *answers, const char *text)
{
    size_t start = 0, n = strlen(text);
    bool found = true;
    if (answers->extract && stm_pattern_last(answers->extract, text, n, &found, &start, &n) != STM_OK)
        found = false;
    return found ? stm_span_strip((stm_span){text + start, n}) : (stm_span){text, 0};
}

/* What cannot be compared, such as texts without a number, is not the same. */
static bool same(const stm_answers *answers, const char *a, const char *b)
{
    stm_complaint unused = {.given = true};
    const stm_reward_input input = {.text = a, .answer = b};
    return answers->item.kind->one(&answers->item, &input, &unused) >= 1.0;
}

/* found [n]: the answers as texts of their own, which the caller frees. */
static stm_status extract_all(const stm_answers *answers, size_t n, const char *const *texts, char **found)
{
    for (size_t i = 0; i < n; i++) {
        const stm_span answer = answer_of(answers, texts[i]);
        STM_TRY(stm_alloc(answer.n + 1, 1, &found[i]));
        memcpy(found[i], answer.at, answer.n);
    }
    return STM_OK;
}

stm_status stm_answers_cluster(const stm_answers *answers, size_t n, const char *const *texts, int64_t *cluster)
{
    char **found;
    STM_TRY(stm_alloc(n, sizeof *found, &found));
    const stm_status status = extract_all(answers, n, texts, found);
    for (size_t i = 0; status == STM_OK && i < n; i++) {
        size_t first = *found[i] ? 0 : i;
        while (first < i && !(cluster[first] == (int64_t)first && same(answers, found[i], found[first])))
            first++;
        cluster[i] = (int64_t)first;
    }
    for (size_t i = 0; i < n; i++)
        free(found[i]);
    free(found);
    return status;
}
