/* src/reward/reward.h: rewards, and the one registry of them. A reward turns the text of a response into a number; a
 * run's reward is the weighted sum. Local: the caller decides which rank computes (rank 0 does today, since an external
 * command is one process). */
#ifndef STM_REWARD_REWARD_H
#define STM_REWARD_REWARD_H

#include "base/kept.h"
#include "config/options.h"

/* One response as a reward sees it. fields_json: the prompt's line of the data file (its "answer" and whatever else
 * stands there). */
typedef struct {
    const char *prompt_text, *text; /* decoded without special tokens */
    size_t n_tokens;
    size_t group;    /* responses to one prompt have the same number, and stand together */
    char **critique; /* where a reward that has words for the response leaves them, for the caller to free; NULL: nobody
                        reads them */
    bool practice;   /* judged to train on: rewards with a memory take note of it */
    bool truncated;  /* ended for length */
    const char *answer; /* the line's "answer" as text, or NULL */
    const char *fields_json;
    const double *environment_reward; /* of a rollout of several turns; NULL: none */
} stm_reward_input;

typedef struct stm_reward_set stm_reward_set;

/* Compiles the list of options (patterns, names; wrong ones: STM_ERR_INPUT "reward[1].pattern: .."). The caller
 * destroys *out. */
stm_status stm_reward_set_create(const stm_reward_options *items, size_t n, stm_reward_set **out);
void stm_reward_set_destroy(stm_reward_set *set);

/* True if some reward of the set reads the prompt's answer: then a data line without one is an error. */
bool stm_reward_set_needs_answer(const stm_reward_set *set);

/* Whether the rewards that judge this prompt (all, or those of the line's "judged_by") can do so by its answer (NULL:
 * it has none): numeric needs a number in it. Fails: STM_ERR_INPUT, naming the reward. */
stm_status stm_reward_set_check_prompt(const stm_reward_set *set, const char *answer, const char *fields_json);

/* total [n]: weighted sums; parts [n][n_rewards] unweighted, may be NULL. A reward that fails (command died, timed out,
 * printed no number): that response is NaN and the first message is stored for stm_failure, the status stays STM_OK;
 * the caller flags it. A reward that does not judge a prompt gives it 0. Fails: STM_ERR_MEMORY. */
stm_status stm_reward_set_run(stm_reward_set *set, size_t n, const stm_reward_input *inputs, double *total,
                              double *parts);

/* What rewards remember of responses that were judged for practice. settle: what has been judged since the last time
 * takes effect, so that all rounds of a step meet the memory from before it. save: what has, appended to *out, which
 * stays empty where no reward remembers anything. restore: the same into a set of the same entries; what an entry of
 * another name remembered is forgotten. where: for the message. Fails: STM_ERR_MEMORY; STM_ERR_INPUT for other bytes.
 */
stm_status stm_reward_set_settle(stm_reward_set *set);
stm_status stm_reward_set_save(const stm_reward_set *set, stm_kept *out);
stm_status stm_reward_set_restore(stm_reward_set *set, const char *where, const stm_kept *kept);

/* After a run, where some reward compares responses: the probability that the row's response is better, [m, m] of a
 * group of m responses, group after group; NaN: it could not be told. NULL: none does. Valid until the next run. */
const double *stm_reward_set_preferences(const stm_reward_set *set);

size_t stm_reward_names(const char *const **names); /* of the registry */

#endif
