/* Which of two responses is better, as a command says that stays for the whole run (data/service.h). It is asked about
 * every two responses to a prompt,
 *
 *      {"pairs": [{"id", "group", "prompt", "response", "other", "answer", and the other fields of the line}, ..]}
 *
 * and answers {"id", "preference"}, the probability that `response` is better than `other`; of equal texts it is 1/2,
 * unasked. A response's reward is its mean probability to be better than another one of its group (1/2 where it is
 * alone): SPO's win rate, arXiv:2401.04056. Objectives with objective.oracle=recorded read the probabilities
 * themselves. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/service.h"
#include "reward/kinds.h"

typedef struct {
    stm_service *service;
    double *table; /* of the last run: [n, n] of a group of n, group after group; NaN: not told */
    size_t capacity;
} judge;

/* Two responses of the run, and the places of their probabilities in the table. */
typedef struct {
    size_t first, other, at, mirrored;
} pair;

static stm_status check(const stm_reward_item *item)
{
    if (item->options.command[0] == 0)
        return stm_fail(STM_ERR_INPUT, "%s.command: missing; the reward \"preference\" needs one", item->where);
    if (!(item->options.timeout_s > 0.0))
        return stm_fail(STM_ERR_INPUT, "%s.timeout_s: found %g, expected seconds above 0", item->where,
                        item->options.timeout_s);
    return STM_OK;
}

static stm_status begin(stm_reward_item *item)
{
    judge *j;
    STM_TRY(stm_alloc(1, sizeof *j, &j));
    item->state = j;
    return stm_service_create(item->options.command, "pairs", item->options.timeout_s, &j->service);
}

static void end(void *state)
{
    judge *j = state;
    if (j) {
        stm_service_destroy(j->service);
        free(j->table);
    }
    free(j);
}

static size_t group_end(size_t n, const stm_reward_input *inputs, size_t first)
{
    size_t last = first;
    while (last < n && inputs[last].group == inputs[first].group)
        last++;
    return last;
}

/* Elements of the table, of which there are more than pairs. */
static size_t table_size(size_t n, const stm_reward_input *inputs)
{
    size_t size = 0;
    for (size_t first = 0, last; first < n; first = last) {
        last = group_end(n, inputs, first);
        size += (last - first) * (last - first);
    }
    return size;
}

/* Lists the pairs to be asked about, and sets what is known beforehand. Returns how many. */
static size_t list_pairs(size_t n, const stm_reward_input *inputs, double *table, pair *pairs)
{
    size_t n_pairs = 0, start = 0;
    for (size_t first = 0, last; first < n; first = last) {
        last = group_end(n, inputs, first);
        const size_t size = last - first;
        for (size_t i = 0; i < size; i++)
            for (size_t k = 0; k < size; k++) {
                const bool equal = strcmp(inputs[first + i].text, inputs[first + k].text) == 0;
                const size_t at = start + i * size + k;
                table[at] = equal ? 0.5 : NAN;
                if (!equal && i < k)
                    pairs[n_pairs++] = (pair){first + i, first + k, at, start + k * size + i};
            }
        start += size * size;
    }
    return n_pairs;
}

static stm_status make_question(const stm_reward_input *inputs, const pair *p, json_t **question)
{
    const stm_reward_input *first = &inputs[p->first];
    json_t *q = stm_service_question(first->prompt_text, first->text, first->answer, first->fields_json);
    *question = q;
    if (!q || json_object_set_new(q, "other", stm_service_text(inputs[p->other].text)) != 0 ||
        json_object_set_new(q, "group", json_integer((json_int_t)first->group)) != 0)
        return stm_fail(STM_ERR_MEMORY, "out of memory");
    return STM_OK;
}

/* answer: NULL: none came, and `why`. */
static double read_answer(const stm_reward_item *item, const json_t *answer, const char *why, stm_complaint *complaint)
{
    const double p = json_number_value(json_object_get(answer, "preference")); /* 0 where it is none */
    const char *error = json_string_value(json_object_get(answer, "error"));
    if (json_is_number(json_object_get(answer, "preference")) && p >= 0.0 && p <= 1.0)
        return p;
    if (!answer || error)
        return stm_complain(complaint, "%s.command: %s", item->where, answer ? error : why);
    char *text = json_dumps(answer, JSON_ENSURE_ASCII);
    (void)stm_complain(complaint, "%s.command: answered %.200s, expected a number from 0 to 1 as \"preference\"",
                       item->where, text ? text : "");
    free(text);
    return NAN;
}

static stm_status ask(const stm_reward_item *item, const stm_reward_input *inputs, size_t n_pairs, const pair *pairs,
                      json_t **questions, json_t **answers, stm_complaint *complaint)
{
    judge *j = item->state;
    char why[512] = "";
    for (size_t i = 0; i < n_pairs; i++)
        STM_TRY(make_question(inputs, &pairs[i], &questions[i]));
    const stm_status status = stm_service_ask(j->service, n_pairs, questions, answers);
    if (status == STM_ERR_IO)
        snprintf(why, sizeof why, "%s", stm_failure());
    else
        STM_TRY(status);
    for (size_t i = 0; i < n_pairs; i++) {
        j->table[pairs[i].at] = read_answer(item, answers[i], why, complaint);
        j->table[pairs[i].mirrored] = 1.0 - j->table[pairs[i].at];
    }
    return STM_OK;
}

/* Means of the table's rows, without the diagonal. */
static void win_rates(const judge *j, size_t n, const stm_reward_input *inputs, double *out)
{
    const double *row = j->table;
    for (size_t first = 0, last; first < n; first = last) {
        last = group_end(n, inputs, first);
        const size_t size = last - first;
        for (size_t i = 0; i < size; i++, row += size) {
            double sum = 0.0;
            for (size_t k = 0; k < size; k++)
                sum += k == i ? 0.0 : row[k];
            out[first + i] = size > 1 ? sum / (double)(size - 1) : 0.5;
        }
    }
}

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    judge *j = item->state;
    pair *pairs = NULL;
    json_t **questions = NULL, **answers = NULL; /* [most] */
    const size_t most = table_size(n, inputs);
    stm_status status;
    STM_GOTO_OUT(stm_reserve(&j->table, &j->capacity, most, sizeof *j->table));
    STM_GOTO_OUT(stm_alloc(most, sizeof *pairs, &pairs));
    STM_GOTO_OUT(stm_alloc(most, sizeof *questions, &questions));
    STM_GOTO_OUT(stm_alloc(most, sizeof *answers, &answers));
    STM_GOTO_OUT(ask(item, inputs, list_pairs(n, inputs, j->table, pairs), pairs, questions, answers, complaint));
    win_rates(j, n, inputs, out);
out:
    stm_service_release(most, answers);
    stm_service_release(most, questions);
    free(pairs);
    return status;
}

static const double *table_of(const void *state)
{
    const judge *j = state;
    return j->table;
}

const stm_reward_kind stm_reward_preference = {
    .name = "preference",
    .reads = STM_READS_COMMAND | STM_READS_TIMEOUT,
    .needs_answer = stm_reward_never,
    .check = check,
    .begin = begin,
    .end = end,
    .all = score,
    .preferences = table_of,
};
