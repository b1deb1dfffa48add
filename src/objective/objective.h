/* src/objective/objective.h: objectives, and the one registry of them.
 *
 * An objective is a pure function of one group: no MPI, no allocation, no globals. Loss is minimised; the batch's loss
 * is the sum over groups, and nothing but the totals of the batch couples them. What it computes comes in this order:
 *
 *   prepare   advantages and totals, from rewards and whatever else is recorded: before any log-prob is known
 *   collect   numbers of the whole batch that need its log-probs (scope batch)
 *   tokens    loss and dL/dlogp of a range of one response (scope token), or of a whole one (scope response)
 *   group     the same of all responses of a group (scopes group and batch)
 *
 * The scope says how early the engine may call it: token on any range of one response, response when the last row of a
 * response has run, group and batch after a forward of the whole batch without gradient. Every rank holds the batch
 * and, where the scope needs them, its log-probs: nothing here sends a message. Local, all of it. */
#ifndef STM_OBJECTIVE_OBJECTIVE_H
#define STM_OBJECTIVE_OBJECTIVE_H

#include "config/options.h"
#include "data/groups.h"

/* What is known of the whole batch; beyond the first line only what the objective asked for. */
typedef struct {
    size_t n_groups, n_responses, n_tokens; /* responses: empty and fully masked ones too, members where they are parts
                                             * of such; tokens: with loss */
    size_t n_control, n_rest;               /* tokens with loss among the first control_tokens, and the others */
    size_t n_steps;                         /* steps of all responses */
    double reward_std;                      /* of all rewards, sample standard deviation */
    double whiten_mean, whiten_var;         /* of the advantages over tokens with loss; unbiased */
    double kl_mean;                         /* mean of old - logp over tokens with loss */
    size_t n_active, n_policy, n_other;     /* responses with a token with loss: all, of the policy, of other models */
    size_t n_pairs, n_paired_groups;        /* pairs, and groups that have some */
    size_t n_chosen_tokens;                 /* with loss, of the better response of each pair */
} stm_totals;

/* Tokens [first, first + n) of one response; arrays begin at the first of them. logp, entropy (or NULL): of this
 * forward; old may be NULL: ratio 1 with gradient. dlogp: += . */
typedef struct {
    const stm_response *response; /* what else is recorded of it, from its own first token on */
    size_t first, n, n_masked;    /* n_masked: tokens with loss of the whole response */
    const double *logp, *entropy, *old, *ref;
    const uint8_t *mask;
    const double *advantages; /* of token k: advantages[k * advantage_stride]; stride 0: one for the response */
    size_t advantage_stride;
    const double *token_weights;   /* NULL: 1 */
    double weight, control_weight; /* c of the aggregation; the latter for positions below control_tokens */
    double *dlogp;
} stm_tokens;

/* Sums over tokens with loss; added over ranges, ranks and groups. All plain sums, so that any split gives the same. */
typedef struct {
    double loss, n_tokens, n_clipped, kl_k3, entropy, ratio_minus_one_minus_log;
    double n_clamped;                /* responses of which a number was held at a bound */
    double n_sides, n_sides_clipped; /* p3o: terms that may clip, and those that did */
    /* Of pairs: their number, how many the policy orders as the labels do, h = log(policy / reference) of the members
     */
    double n_pairs, n_pairs_right, h_winners, h_losers;
    double n_samples, h_samples, rho, rho_squares; /* of the policy's responses: h, ratios to the sampling policy */
    double n_spread, spread;                       /* dpo: groups, entropy over the group of weights exp(h) */
    double logp_difference_max;
} stm_objective_sums; /* logp_difference_max is a maximum */

typedef enum { STM_SCOPE_TOKEN, STM_SCOPE_RESPONSE, STM_SCOPE_GROUP, STM_SCOPE_BATCH } stm_scope;

/* What must be recorded of every response (or-ed). Numbers that the options make superfluous are not asked for. */
typedef enum {
    STM_NEEDS_REWARDS = 1,
    STM_NEEDS_REFERENCE = 2,
    STM_NEEDS_OLD = 4,
    STM_NEEDS_PARTS = 8,     /* of the reward */
    STM_NEEDS_CLUSTERS = 16, /* of answers */
    STM_NEEDS_BUDGETS = 32,  /* segment, answer, and the group's scores */
    STM_NEEDS_STEPS = 64,
    STM_NEEDS_TWIN = 128, /* log-probs of other copies */
    STM_NEEDS_TARGET = 256,
    STM_NEEDS_PREFERENCES = 512,
    STM_NEEDS_ORIGINS = 1024, /* responses of other models beside the policy's */
    STM_NEEDS_LOG_Z = 2048    /* of the group's target (objective/target.h) */
} stm_objective_needs;

typedef struct stm_objective stm_objective;

/* A batch as its objective sees it. Responses are counted through all groups, tokens through all responses. */
typedef struct {
    const stm_objective *objective;
    const stm_objective_options *options;
    const stm_batch *batch;
    stm_scope scope;
    size_t n_responses, n_tokens;
    size_t *response_0;          /* [n_groups]: the group's first response */
    size_t *first_token;         /* [n_responses + 1] */
    size_t *n_masked;            /* [n_responses] */
    bool by_token;               /* advantages: of tokens, else of responses */
    double *advantages;          /* [n_tokens or n_responses] */
    const double *token_weights; /* [n_tokens], the caller's: in place of those recorded; NULL: none */
    double *work;                /* of the largest group, as the objective asks */
    stm_tokens *views;           /* [responses of the largest group] */
    stm_totals totals;
} stm_objective_batch;

struct stm_objective {
    const char *name, *summary;
    const char *const *reads; /* options of the section `objective` that it reads beside name and masks; ends in NULL */
    bool needs_rewards;       /* by nature, whatever the options: no rewards means no rollouts */
    unsigned (*needs)(const stm_objective_options *options);
    stm_status (*check)(const stm_objective_options *options); /* values that contradict each other; NULL: none do */
    stm_scope scope;
    stm_scope (*scope_by)(const stm_objective_options *options); /* where options decide it, else NULL */
    bool (*by_token)(const stm_objective_options *options);      /* NULL: never */
    stm_pairing usual_pairing;                                   /* what pairing=auto stands for */
    size_t work_per_response;                                    /* numbers, */
    size_t (*n_work)(const stm_group *group);                    /* and more; NULL: no more */
    void (*prepare)(stm_objective_batch *batch);                 /* NULL: advantages are 0 */
    void (*collect)(const stm_objective_batch *batch, const double *logp, stm_totals *totals); /* scope batch */
    void (*tokens)(const stm_objective_options *options, const stm_totals *totals, const stm_tokens *tokens,
                   stm_objective_sums *sums);
    /* views: one for each response, whole. */
    void (*group)(const stm_objective_options *options, const stm_totals *totals, const stm_group *group,
                  const stm_tokens *views, double *work, stm_objective_sums *sums);
};

/* NULL when there is none of that name; stm_objective_names lists them for messages. */
const stm_objective *stm_objective_find(const char *name);
size_t stm_objective_names(const char *const **names);

/* Fails: STM_ERR_INPUT "objective.name: found .., expected .. or ..; did you mean ..?" for a name that is not
 * registered. */
stm_status stm_objective_check_name(const char *name);

/* True if the objective reads the option objective.KEY, under some value of the others. */
bool stm_objective_reads(const stm_objective *objective, const char *key);

/* An option objective.KEY that is read only where another one, objective.OF, has one of some values, ending in NULL;
 * NULL behind the last of them. */
typedef struct {
    const char *key, *of, *values[4];
} stm_option_condition;
const stm_option_condition *stm_objective_condition(size_t i);

/* Who reads an option, for its help: "dpo, orpo", "not sft"; "" for those of other sections and those that all read. */
void stm_objective_readers(const char *name, char *text, size_t size);

/* Fails: STM_ERR_INPUT "objective.label: found .., expected .." for options that contradict each other, or that are set
 * and not read by the objective, which is registered; STM_ERR_MEMORY. */
stm_status stm_objective_check_options(const stm_options *options);

/* Fails: STM_ERR_INPUT where the objective needs what no rollout has: steps, responses of another model, a twin that
 * nothing trains, preferences. */
stm_status stm_objective_check_online(const stm_objective_options *options, bool has_preferences, bool has_others);

/* Fails: STM_ERR_INPUT "group 0, response 2: found no cluster, .." where a batch to train on lacks what the objective
 * needs. What the trainer makes itself may be missing: log-probs of the reference, log Z of a target. */
stm_status stm_objective_check_recorded(const stm_objective_options *options, const stm_batch *batch);

/* Counts, prepares. The batch and the options must outlive *out; the caller clears it, also after a failure. Fails:
 * STM_ERR_INPUT where something that is needed was not recorded ("group 0, response 2: found no ref_logprobs, ..");
 * STM_ERR_MEMORY. */
stm_status stm_objective_batch_create(const stm_objective *objective, const stm_objective_options *options,
                                      const stm_batch *batch, stm_objective_batch *out);
void stm_objective_batch_clear(stm_objective_batch *batch);

/* A range of a response; arrays logp, entropy (or NULL) and dlogp begin at its first token. */
stm_tokens stm_objective_view(const stm_objective_batch *batch, size_t group, size_t response, size_t first, size_t n,
                              const double *logp, const double *entropy, double *dlogp);

/* Any scope, all at once: logp, entropy (or NULL) and dlogp [n_tokens], as laid out by first_token. Of group g alone;
 * with scope batch, collect must have been called. dlogp: += . */
void stm_objective_collect(stm_objective_batch *batch, const double *logp);
void stm_objective_group(const stm_objective_batch *batch, size_t g, const double *logp, const double *entropy,
                         double *dlogp, stm_objective_sums *sums);

/* Takes the loss from responses whose advantages are all below options->min_advantage in size, so that nothing is
 * computed of them; *n: how many had some. What they need must be recorded. Fails as stm_objective_batch_create. */
stm_status stm_objective_drop(const stm_objective *objective, const stm_objective_options *options, stm_batch *batch,
                              size_t *n);

/* How early the engine may call it, with these options. */
stm_scope stm_objective_scope(const stm_objective *objective, const stm_objective_options *options);

/* True if the objective asks which model sampled a response. */
bool stm_objective_reads_origins(const stm_objective_options *options);

/* True if the objective reads log-probs of a reference at some step. */
bool stm_objective_has_reference(const stm_objective_options *options);

/* True if tokens are weighed by how far the distributions of a group's members are from each other
 * (group/token_weights.h), which the caller finds out. */
bool stm_objective_weighs_tokens(const stm_objective *objective, const stm_objective_options *options);

/* True if groups whose rewards are all equal give no gradient and need not be computed. */
bool stm_objective_skips_equal(const stm_objective *objective, const stm_objective_options *options);

#endif
