/* src/data/groups.h: groups of responses to one prompt, as they stand in a GROUPS.jsonl file and as rollouts leave
 * them. Token ids only: text has been tokenised. Every rank holds the whole batch (ids are small); what is large is
 * spread. Local. */
#ifndef STM_DATA_GROUPS_H
#define STM_DATA_GROUPS_H

#include "base/base.h"

typedef enum { STM_FINISH_STOP, STM_FINISH_LENGTH } stm_finish;

/* What only some objectives read of a response; every array may be NULL. */
typedef struct {
    double *sampler_logprobs; /* [n]: of another engine that sampled */
    double *twin_logprobs;    /* [n]: of the other of two copies that are trained */
    double *target_logprobs;  /* [n]: of the copy that a proximal step began from */
    double *token_weights;    /* [n] */
    double *reward_parts;     /* [n_parts] */
    size_t n_parts;
    bool off_policy, has_cluster; /* off_policy: written by no policy of this run */
    bool other_origin;            /* sampled by another model than the policy, say the reference */
    int64_t cluster;              /* of equal answers: the same number */
    size_t member;                /* of the group's n_members */
    int64_t *segment, *answer;    /* [n]: budget of a token of thinking, and summary of one of an answer; -1: neither */
    int64_t *step;                /* [n]: of each token, counted from 0 */
    double *step_advantages;      /* [n_steps] */
    size_t n_steps;
} stm_response_notes;

/* What the environment said of a rollout of several turns. */
typedef struct {
    bool failed, has_reward;
    double reward;  /* of all turns */
    size_t n_turns; /* 0: there was no environment */
} stm_outcome;

typedef struct {
    size_t n;             /* tokens; 0 is legal */
    int32_t *ids;         /* [n] */
    uint8_t *mask;        /* [n]: 1 where the token has loss */
    double *old_logprobs; /* [n] or NULL: absent */
    double *ref_logprobs; /* [n] or NULL */
    double *kept_mass;    /* [n] or NULL */
    double reward;
    bool has_reward;
    stm_finish finish;
    stm_outcome outcome;       /* as rollouts leave it, the same on every rank; packing leaves it out */
    stm_response_notes *notes; /* NULL: none. They stay on the rank that read them: packing leaves them out */
} stm_response;

typedef struct {
    size_t n_prompt; /* at least 1 */
    int32_t *prompt; /* [n_prompt] */
    size_t n_responses;
    stm_response *responses;
    double temperature; /* > 0: of the log-probs; 1 when sampling was greedy */
    size_t n_members;   /* that have scores, of which responses are parts; 0: each response is one */
    size_t n_budgets, n_summaries;
    double *scores;      /* [n_members, n_budgets, n_summaries] of the summaries of a member at each budget, or NULL */
    double *preferences; /* [n_responses, n_responses]: probability that the row's response is better, or NULL */
    bool has_log_z;
    double log_z; /* logarithm of the sum of the target's numbers (objective/target.h), as a trainer keeps it */
} stm_group;

typedef struct {
    size_t n_groups;
    stm_group *groups; /* one malloc each for arrays: stm_batch_clear frees all */
} stm_batch;

void stm_batch_clear(stm_batch *batch);
void stm_response_clear(stm_response *response);

/* Whether a token of it has loss. */
bool stm_response_has_loss(const stm_response *response);

/* A copy, which stm_batch_clear frees with the batch that it is put into, also after a failure. Fails: STM_ERR_MEMORY.
 */
stm_status stm_group_copy(const stm_group *from, stm_group *to);

/* The groups' prompts and temperatures, without responses. The caller clears *to, also after a failure. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_batch_copy_prompts(const stm_batch *from, stm_batch *to);

/* A group without responses for each of n_each responses to every prompt: what was said so far, which is the prompt and
 * n_tokens that stand in for what followed, or fewer where there would be more than `most` of them all. For reckoning.
 * The caller clears *to, also after a failure. Fails: STM_ERR_MEMORY. */
stm_status stm_batch_continue_prompts(const stm_batch *from, size_t n_each, size_t n_tokens, size_t most,
                                      stm_batch *to);

/* Makes room for notes where the response has none. Fails: STM_ERR_MEMORY. */
stm_status stm_response_take_notes(stm_response *response);

/* Takes the loss from responses that ran out of length (objective.mask_truncated). */
void stm_batch_mask_truncated(stm_batch *batch);

/* Tokens that stand in for n of some text, which differ in every place from those of another number. For reckoning. */
void stm_unlike_tokens(size_t number, size_t n, int32_t *ids);

/* Rounds old and reference log-probs to single precision, which is what trainers built on PyTorch make of the numbers
 * in a file: gradients then agree with theirs to the last digits of float64. */
void stm_batch_round_recorded(stm_batch *batch);

/* The batch as bytes that any rank of the same program can turn back; the caller frees *bytes. Fails: STM_ERR_MEMORY.
 */
stm_status stm_batch_pack(const stm_batch *batch, char **bytes, size_t *n);
stm_status stm_batch_unpack(const char *bytes, size_t n, stm_batch *batch);

#endif
