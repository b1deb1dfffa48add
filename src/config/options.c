/* The table of options. Adding one: a field in options.h, a row here. */
#include "config/options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config/table.h"

/* Offset of a field, and a compile error where the field has another type than the row's kind stores. */
#define AT_IN(structure, type, field) (offsetof(structure, field) + 0 * _Generic(((structure *)NULL)->field, type : 1))
#define AT(type, field) AT_IN(stm_options, type, field)

#define ANY (-INFINITY), INFINITY
#define FROM(min) (double)(min), INFINITY
#define RANGE(min, max) (double)(min), (double)(max)
#define CHOICES(...) ((const char *const[]){__VA_ARGS__, NULL})

#define BOOLEAN(name, field, preset, commands, traits, help)                                                           \
    {                                                                                                                  \
        name, STM_KIND_BOOLEAN, AT(bool, field), preset, ANY, NULL, commands, traits, help                             \
    }
#define INTEGER(name, field, preset, range, commands, traits, help)                                                    \
    {                                                                                                                  \
        name, STM_KIND_INTEGER, AT(int64_t, field), preset, range, NULL, commands, traits, help                        \
    }
#define NUMBER(name, field, preset, range, commands, traits, help)                                                     \
    {                                                                                                                  \
        name, STM_KIND_NUMBER, AT(double, field), preset, range, NULL, commands, traits, help                          \
    }
#define TEXT(name, field, preset, commands, traits, help)                                                              \
    {                                                                                                                  \
        name, STM_KIND_TEXT, AT(char *, field), preset, ANY, NULL, commands, traits, help                              \
    }
#define WORD(name, field, preset, choices, commands, traits, help)                                                     \
    {                                                                                                                  \
        name, STM_KIND_TEXT, AT(char *, field), preset, ANY, choices, commands, traits, help                           \
    }
#define CHOICE(name, type, field, preset, choices, commands, traits, help)                                             \
    {                                                                                                                  \
        name, STM_KIND_CHOICE, AT(type, field), preset, ANY, choices, commands, traits, help                           \
    }
#define NUMBERS(name, field, preset, range, commands, traits, help)                                                    \
    {                                                                                                                  \
        name, STM_KIND_NUMBERS, AT(stm_numbers, field), preset, range, NULL, commands, traits, help                    \
    }

/* Commands. An input file serves train, eval and plan, so each of them takes every key of it. */
enum {
    PLAN = STM_COMMAND_PLAN,
    CALIBRATE = STM_COMMAND_CALIBRATE,
    INPUT = STM_COMMAND_TRAIN | STM_COMMAND_EVAL | PLAN,
    SCORE = STM_COMMAND_SCORE,
    GRAD = STM_COMMAND_GRAD,
    GENERATE = STM_COMMAND_GENERATE,
    BENCH = STM_COMMAND_BENCH,
    COMPUTE = INPUT | SCORE | GRAD | GENERATE | BENCH,
    EVERY = COMPUTE | CALIBRATE | STM_COMMAND_TOKENIZE | STM_COMMAND_INSPECT | STM_COMMAND_EXPORT | STM_COMMAND_OPTIONS
};

/* Traits, in short. */
enum {
    REQUIRED = STM_OPTION_REQUIRED,
    FLAG = STM_OPTION_FLAG,
    ONCE = STM_OPTION_FLAG | STM_OPTION_LINE_ONLY,
    FREE = STM_OPTION_MAY_CHANGE,
    AUTO = STM_OPTION_AUTO,
    ABOVE = STM_OPTION_ABOVE_MIN,
    BELOW = STM_OPTION_BELOW_MAX,
    WHOLE = STM_OPTION_WHOLE
};

/* clang-format off */
const stm_option_row stm_option_rows[] = {
    CHOICE("forward", stm_forward_mode, forward, "tree", CHOICES("tree", "prompt", "repeated"), INPUT | SCORE | GRAD, FLAG,
        "what is computed once: every shared segment, the prompt alone, or nothing"),
    CHOICE("precision", stm_precision, precision, "float32", CHOICES("float32", "float64", "bfloat16"), COMPUTE, FLAG,
        "of all numbers; bfloat16: kept in float32, operands of products rounded (AVX512-BF16 or AMX; GPUs keep "
        "activations in it)"),
    WORD("backend", backend, "auto", CHOICES("auto", "cpu", "cuda"), COMPUTE, FLAG, "device that computes; auto: GPUs where every rank finds one"),
    NUMBER("temperature", score_temperature, "0.0", FROM(0), SCORE, ONCE, "divides the logits; 0: the file's own, else 1"),
    TEXT("out", out, "", SCORE | GRAD | GENERATE | BENCH | PLAN | CALIBRATE | STM_COMMAND_TOKENIZE, ONCE | REQUIRED, "file to write"),
    TEXT("objective-only", objective_only, "", GRAD, ONCE, "evaluate recorded log-probs of this JSON file, without a model"),
    TEXT("model", bench.model, "", BENCH, ONCE, "Hugging Face folder or checkpoint; empty: random weights of the shape bench.hidden .. vocab"),
    TEXT("groups", bench.groups, "", BENCH, ONCE, "groups to compute, in the form that score reads; empty: random tokens"),
    BOOLEAN("special", special, "false", STM_COMMAND_TOKENIZE, ONCE, "add the tokenizer's own special tokens, such as BOS"),
    TEXT("to", to, "", STM_COMMAND_EXPORT, ONCE | REQUIRED, "folder to write"),
    WORD("dtype", dtype, "float32", CHOICES("float32", "bfloat16"), STM_COMMAND_EXPORT, ONCE, "of the exported weights"),
    TEXT("resume", resume, "auto", STM_COMMAND_TRAIN, ONCE,
        "auto: from the newest good checkpoint of the run folder; never; or the path of a checkpoint"),
    NUMBER("maxh", maxh, "0.0", FROM(0), STM_COMMAND_TRAIN, ONCE, "stop cleanly before so many hours have passed since the job's start; 0: no limit"),
    NUMBER("job-start", job_start, "0.0", FROM(0), STM_COMMAND_TRAIN, ONCE, "when the job began, for --maxh, in seconds since 1970; 0: with this process"),
    BOOLEAN("check", check, "false", COMPUTE & ~PLAN, ONCE, "read everything, print layout and memory per rank, stop"),
    TEXT("machine", plan.machine, "", PLAN, ONCE | REQUIRED, "description of the machine: inputs/machines, or what `stemma calibrate` wrote"),
    INTEGER("nodes", plan.nodes, "1", RANGE(1, 100000), PLAN, ONCE, "to plan for"),
    INTEGER("ranks-per-node", plan.ranks_per_node, "auto", RANGE(1, 10000), PLAN, ONCE | AUTO, "auto: as the machine's description says"),
    INTEGER("threads", plan.threads, "auto", RANGE(1, 10000), PLAN, ONCE | AUTO, "of a rank; auto: its share of the cores"),
    INTEGER("prompt-tokens", plan.prompt_tokens, "auto", RANGE(1, 10000000), PLAN, ONCE | AUTO, "of a prompt; auto: those of data.prompts"),
    INTEGER("answer-tokens", plan.answer_tokens, "auto", RANGE(1, 10000000), PLAN, ONCE | AUTO, "of a response, mean; auto: half of rollout.max_new_tokens"),
    INTEGER("turns", plan.turns, "auto", RANGE(1, 10000), PLAN, ONCE | AUTO, "of a response, with rollout.environment; auto: half of rollout.max_turns"),
    INTEGER("reply-tokens", plan.reply_tokens, "auto", RANGE(0, 10000000), PLAN, ONCE | AUTO,
        "that an environment adds to a response, in all; auto: half of rollout.max_environment_tokens"),
    NUMBER("spread", plan.spread, "0.5", RANGE(0, 10), PLAN, ONCE, "standard deviation of responses' lengths, to their mean"),
    INTEGER("max-nodes", plan.max_nodes, "1024", RANGE(0, 100000), PLAN, ONCE, "of the table over nodes 1, 2, 4 ..; 0: no table"),
    NUMBERS("group-sizes", plan.group_sizes, "[2, 4, 8, 16, 32, 64]", RANGE(1, 65536), PLAN, ONCE | WHOLE, "of a second table; empty: none"),
    BOOLEAN("markdown", markdown, "false", STM_COMMAND_OPTIONS, ONCE, "print the options as a table in Markdown"),
    BOOLEAN("help", help, "false", EVERY, ONCE, "print this text"),

    TEXT("run.folder", run.folder, "", INPUT, REQUIRED | FREE, "folder of the run: log, metrics, rollouts, checkpoints"),
    INTEGER("run.seed", run.seed, "1", FROM(0), INPUT | GENERATE | BENCH, 0, "of all random numbers"),
    INTEGER("run.steps", run.steps, "100", FROM(0), INPUT, FREE, "steps to train, those of earlier starts included"),

    TEXT("model.path", model.path, "", INPUT, REQUIRED | FREE, "Hugging Face folder, or a checkpoint, to start from"),
    WORD("model.init", model.init, "file", CHOICES("file", "random"), INPUT, 0,
        "start weights: those of model.path, or random ones by run.seed for its config.json"),

    TEXT("data.prompts", data.prompts, "", INPUT, REQUIRED | FREE, "JSON lines with prompt, messages or prompt_ids, and what rewards need"),
    TEXT("data.groups", data.groups, "", INPUT, FREE, "JSON lines of groups with responses, as grad reads them, to train on in place of rollouts; empty: none"),
    TEXT("data.template", data.template_name, "auto", COMPUTE, 0, "chat template for messages: auto, chatml, llama3, mistral, plain"),
    BOOLEAN("data.shuffle", data.shuffle, "true", INPUT, 0, "another order of the prompts in each epoch"),
    INTEGER("data.filter_samples", data.filter_samples, "0", FROM(0), INPUT, 0,
        "rollouts of each prompt before training; prompts without a reward above replay.min_reward are left out (ARPO: 16); 0: none"),
    NUMBER("data.thought_dropout", data.thought_dropout, "0.0", RANGE(0, 1), INPUT, 0,
        "sft: probability that a demonstration's thought is empty in an epoch (TON: 0.5)"),
    TEXT("data.thought_begin", data.thought_begin, "<think>", INPUT, 0, "text that a thought stands behind"),
    TEXT("data.thought_end", data.thought_end, "</think>", INPUT, 0, "text that it stands before"),
    INTEGER("data.max_prompt_tokens", data.max_prompt_tokens, "0", FROM(0), INPUT | GENERATE, 0,
        "longest prompt; 0: what the model's positions leave"),
    CHOICE("data.overlong", stm_overlong, data.overlong, "error", CHOICES("error", "skip", "truncate-left"), INPUT | GENERATE, 0,
        "what to do with a longer one"),

    INTEGER("rollout.prompts_per_step", rollout.prompts_per_step, "16", FROM(1), INPUT | GENERATE, 0, "prompts of a step, over all ranks"),
    INTEGER("rollout.group_size", rollout.group_size, "8", FROM(1), INPUT | GENERATE, 0, "rollouts of a prompt"),
    NUMBER("rollout.temperature", rollout.temperature, "1.0", FROM(0), INPUT | GENERATE, 0, "divides the logits; 0: greedy"),
    NUMBER("rollout.top_p", rollout.top_p, "1.0", RANGE(0, 1), INPUT | GENERATE, 0,
        "sample from the likeliest tokens that hold this probability; 1: from all"),
    INTEGER("rollout.top_k", rollout.top_k, "0", FROM(0), INPUT | GENERATE, 0, "sample from so many of the likeliest tokens; 0: from all"),
    NUMBER("rollout.min_p", rollout.min_p, "0.0", RANGE(0, 1), INPUT | GENERATE, 0,
        "drop tokens less likely than this share of the likeliest one"),
    INTEGER("rollout.max_new_tokens", rollout.max_new_tokens, "64", FROM(1), INPUT | GENERATE, 0, "longest response"),
    INTEGER("rollout.min_new_tokens", rollout.min_new_tokens, "0", FROM(0), INPUT | GENERATE, 0, "no end token before so many"),
    INTEGER("rollout.slots", rollout.slots, "64", FROM(1), INPUT | GENERATE | BENCH, 0, "sequences that a rank decodes at once"),
    INTEGER("rollout.rounds_ahead", rollout.rounds_ahead, "1", RANGE(0, 8), INPUT | GENERATE | BENCH, FREE,
        "rounds of decoding that a GPU has queued behind the one whose tokens are read (with stages: none), recorded as CUDA graphs; 0: none, nor recorded"),
    {"rollout.stop", STM_KIND_STRINGS, AT(stm_strings, rollout.stop), "[]", ANY, NULL, INPUT | GENERATE, 0,
        "texts that end a response, beside the model's own end tokens"},
    BOOLEAN("rollout.ignore_eos", rollout.ignore_eos, "false", INPUT | GENERATE, 0, "do not stop at the model's end tokens"),
    BOOLEAN("rollout.dynamic", rollout.dynamic, "false", INPUT, 0,
        "groups whose rewards are all equal give their places to groups of further prompts (DAPO)"),
    INTEGER("rollout.dynamic_rounds", rollout.dynamic_rounds, "4", FROM(1), INPUT, 0, "most rounds of such rollouts in a step; groups that are equal after it stay"),
    TEXT("rollout.environment", rollout.environment, "", INPUT | GENERATE, 0,
        "command that answers each turn, in JSON lines, and stays for the whole run; empty: a response is one turn"),
    INTEGER("rollout.max_turns", rollout.max_turns, "8", FROM(1), INPUT | GENERATE, 0, "turns of a response, with an environment"),
    INTEGER("rollout.max_environment_tokens", rollout.max_environment_tokens, "256", FROM(0), INPUT | GENERATE, 0,
        "tokens of the environment in a response, at most, beside rollout.max_new_tokens that are sampled"),
    NUMBER("rollout.environment_timeout", rollout.environment_timeout_s, "60.0", FROM(0), INPUT | GENERATE, ABOVE,
        "seconds that the environment may take for a turn of all responses"),
    BOOLEAN("rollout.refine", rollout.refine, "false", INPUT, 0,
        "each answer is criticised and answered again; the best of these joins the group (Critique-GRPO)"),
    NUMBER("rollout.refine_right", rollout.refine_right, "1.0", ANY, INPUT, 0, "an answer with at least this reward is right"),
    TEXT("rollout.refine_text", rollout.refine_text, "{critique}", INPUT, 0,
        "what is said to an answer; {critique} is a reward command's or one of the next two, {answer} the line's"),
    TEXT("rollout.refine_praise", rollout.refine_praise, "Right. Try again.", INPUT, 0, "critique of a right answer"),
    TEXT("rollout.refine_blame", rollout.refine_blame, "Wrong: {answer}. Try again.", INPUT, 0, "critique of another one"),
    WORD("rollout.save", rollout.save, "sample", CHOICES("none", "sample", "all"), INPUT, 0, "rollouts to keep in the run folder"),
    NUMBERS("rollout.budgets", rollout.budgets, "[]", RANGE(1, 10000000), INPUT, WHOLE,
        "tokens of thinking, rising, after which it is cut and answered (BRPO); the last one ends it; empty: none"),
    INTEGER("rollout.summaries", rollout.summaries, "4", RANGE(1, 65536), INPUT, 0, "answers of up to max_new_tokens at each cut, which rewards judge"),
    TEXT("rollout.closing", rollout.closing, "</think>", INPUT, 0, "text that ends thinking, put between a cut and its answers"),
    WORD("rollout.answer", rollout.answer, "math", CHOICES("math", "numeric", "exact", "choices"), INPUT, 0,
        "reward that tells which responses of a group have the same answer (objective.seed_alpha)"),
    TEXT("rollout.answer_extract", rollout.answer_extract, "", INPUT, 0,
        "PCRE2 pattern whose last match (its first group) is that answer; empty: as that reward finds it"),

    {"reward", STM_KIND_REWARDS, offsetof(stm_options, reward), "[]", ANY, NULL, INPUT, 0, "list of rewards, each a map of these keys; a response gets their weighted sum; reward[0].weight=2: of one entry"},

    INTEGER("replay.size", replay.size, "0", RANGE(0, 65536), INPUT, 0, "successes kept of a prompt, for groups without any (ARPO: 8); 0: none"),
    NUMBER("replay.min_reward", replay.min_reward, "0.1", ANY, INPUT, 0, "a response with more is a success"),
    NUMBER("replay.max_std", replay.max_std, "0.05", FROM(0), INPUT, 0, "a group needs one where its rewards deviate by less .."),
    NUMBER("replay.max_mean", replay.max_mean, "0.2", ANY, INPUT, 0, ".. and have a lower mean"),

    TEXT("objective.name", objective.name, "grpo", INPUT | GRAD, 0,
        "what is minimised: grpo, disco, copg, mdpo_regression, direct_advantage, dpo, orpo, kto, self_play, p3o, fdpg, or sft on lines with a response"),
    CHOICE("objective.advantage_baseline", stm_baseline, objective.advantage_baseline, "mean", CHOICES("mean", "leave-one-out", "none", "brpo"),
        INPUT | GRAD, 0, "taken off a reward: the group's mean, the mean of the others, nothing; brpo: by budgets of thinking"),
    CHOICE("objective.advantage_scale", stm_advantage_scale, objective.advantage_scale, "std", CHOICES("std", "none", "batch-std", "whiten"),
        INPUT | GRAD, 0, "divide by the deviation of the group's rewards, of all rewards, or whiten over all tokens"),
    NUMBER("objective.advantage_eps", objective.advantage_eps, "1.0e-6", FROM(0), INPUT | GRAD, 0, "added to the deviation of rewards"),
    NUMBER("objective.whiten_eps", objective.whiten_eps, "1.0e-8", FROM(0), INPUT | GRAD, 0, "added to the variance when whitening"),
    NUMBER("objective.min_advantage", objective.min_advantage, "0.0", FROM(0), INPUT | GRAD, 0, "no loss on responses whose advantage is smaller, of either sign (LOOP: 0.01)"),
    CHOICE("objective.reward_combine", stm_reward_combine, objective.reward_combine, "sum", CHOICES("sum", "normalize-then-sum"), INPUT | GRAD, 0,
        "several rewards: weighted sum, or weighted sum of each one's advantages"),
    NUMBERS("objective.reward_weights", objective.reward_weights, "[]", ANY, INPUT | GRAD, 0, "of the rewards; empty: their own weights"),
    NUMBER("objective.seed_alpha", objective.seed_alpha, "0.0", FROM(0), INPUT | GRAD, 0, "scale advantages down by the entropy of a group's answers; 0: not"),
    CHOICE("objective.seed_scale", stm_seed_scale, objective.seed_scale, "linear", CHOICES("linear", "exponential", "reciprocal"), INPUT | GRAD, 0,
        "how: 1 - a u, exp(-a u), 1 / (1 + a u)"),
    NUMBER("objective.token_weight_alpha", objective.token_weight_alpha, "0.0", FROM(0), INPUT | GRAD, 0,
        "weight of tokens at the position where a group's members differ most, 1 where they differ least; 0: off"),
    NUMBERS("objective.budget_probs", objective.budget_probs, "[]", FROM(0), INPUT | GRAD, 0, "weight of each budget of brpo; empty: only the last counts"),
    CHOICE("objective.ratio_level", stm_ratio_level, objective.ratio_level, "token", CHOICES("token", "sequence", "trajectory"), INPUT | GRAD, 0,
        "ratio to the sampling policy: of each token, the geometric mean over the response, or the product"),
    CHOICE("objective.surrogate", stm_surrogate, objective.surrogate, "clip", CHOICES("clip", "none", "log", "cispo", "geometric"), INPUT | GRAD, 0,
        "policy term: clipped ratio, ratio, log-prob, log-prob times clipped ratio, clipped geometric mean"),
    NUMBER("objective.clip_low", objective.clip_low, "0.2", FROM(0), INPUT | GRAD, 0, "the ratio is clipped below 1 minus this"),
    NUMBER("objective.clip_high", objective.clip_high, "0.28", FROM(0), INPUT | GRAD, 0, "the ratio is clipped above 1 plus this"),
    NUMBER("objective.dual_clip", objective.dual_clip, "0.0", FROM(0), INPUT | GRAD, 0, "largest ratio with a negative advantage; 0: none"),
    NUMBER("objective.off_policy_gamma", objective.off_policy_gamma, "0.1", FROM(0), INPUT | GRAD, 0, "off-policy responses: p / (p + this) in place of the ratio"),
    NUMBER("objective.proximal_coef", objective.proximal_coef, "0.0", FROM(0), INPUT | GRAD, 0, "weight of the divergence from the sampling policy (MDPO)"),
    CHOICE("objective.is_correction", stm_is_correction, objective.is_correction, "none", CHOICES("none", "truncate", "mask"), INPUT | GRAD, 0,
        "weigh by old over sampler_logprobs, limited, or 0 beyond the limits"),
    CHOICE("objective.is_level", stm_is_level, objective.is_level, "token", CHOICES("token", "sequence"), INPUT | GRAD, 0, "that weight: of each token, or of the response"),
    NUMBER("objective.is_min", objective.is_min, "0.0", FROM(0), INPUT | GRAD, 0, "its lower limit"),
    NUMBER("objective.is_max", objective.is_max, "2.0", FROM(0), INPUT | GRAD, 0, "its upper limit"),
    NUMBER("objective.kl_coef", objective.kl_coef, "0.0", FROM(0), INPUT | GRAD, 0, "weight of the KL term to the start model (dpo: on samples of the policy; p3o: in the reward); 0: none"),
    NUMBER("objective.kl_coef_start", objective.kl_coef_start, "0.0", FROM(0), INPUT | GRAD, 0, "that weight at the first step, if kl_coef_steps is given"),
    INTEGER("objective.kl_coef_steps", objective.kl_coef_steps, "0", FROM(0), INPUT | GRAD, 0, "steps in which it goes on a line to kl_coef; 0: at once"),
    CHOICE("objective.kl_estimator", stm_kl_estimator, objective.kl_estimator, "k3", CHOICES("k1", "k2", "k3"), INPUT | GRAD, 0,
        "how the KL term is estimated from the sampled token"),
    CHOICE("objective.kl_in", stm_kl_in, objective.kl_in, "loss", CHOICES("loss", "reward", "reward-to-go"), INPUT | GRAD, 0,
        "where the KL term stands; reward-to-go: each token pays for those from it on"),
    BOOLEAN("objective.kl_unbiased", objective.kl_unbiased, "false", INPUT | GRAD, 0, "KL term in the loss times the ratio, with its gradient"),
    CHOICE("objective.aggregate", stm_aggregate, objective.aggregate, "token-mean",
        CHOICES("sequence-mean", "token-mean", "fixed-length", "sequence-sum", "control-split"), INPUT | GRAD, 0, "how tokens are averaged"),
    INTEGER("objective.max_tokens", objective.max_tokens, "0", FROM(0), INPUT | GRAD, 0,
        "divisor of fixed-length; 0: rollout.max_new_tokens"),
    INTEGER("objective.control_tokens", objective.control_tokens, "1", FROM(0), INPUT | GRAD, 0, "first tokens, which control-split averages apart"),
    NUMBER("objective.control_coef", objective.control_coef, "1.0", FROM(0), INPUT | GRAD, 0, "their weight"),
    CHOICE("objective.score", stm_score_kind, objective.score, "auto", CHOICES("auto", "logl", "lratio", "reward", "win_rate"), INPUT | GRAD, 0,
        "a response's reward (auto), or win rate in the group; disco: its mean log-prob (auto), or mean ratio"),
    NUMBER("objective.tau", objective.tau, "1.0", FROM(0), INPUT | GRAD, 0, "temperature of disco's negatives, 0: their mean; of mdpo_regression's policy"),
    NUMBER("objective.beta", objective.beta, "0.1", FROM(0), INPUT | GRAD, 0,
        "scale of log-ratios; self_play: weight of the divergences; direct_advantage: divides the advantages"),
    NUMBER("objective.positive_threshold", objective.positive_threshold, "0.5", ANY, INPUT | GRAD, 0, "rewards above are positive"),
    NUMBER("objective.penalty_coef", objective.penalty_coef, "1000.0", FROM(0), INPUT | GRAD, 0, "weight of the divergence beyond kl_bound"),
    NUMBER("objective.kl_bound", objective.kl_bound, "1.0e-4", FROM(0), INPUT | GRAD, 0, "divergence from the sampling policy that is free"),
    BOOLEAN("objective.mask_truncated", objective.mask_truncated, "false", INPUT | GRAD, 0, "no loss on rollouts that ran out of length"),
    TEXT("objective.mask_after", objective.mask_after, "", INPUT, 0, "no loss on the first token of a rollout behind this text (AdaCoT: <think>); empty: none"),
    BOOLEAN("objective.skip_equal_groups", objective.skip_equal_groups, "false", INPUT | GRAD, 0,
        "do not compute groups whose rewards are all equal"),
    CHOICE("objective.pairing", stm_pairing, objective.pairing, "auto", CHOICES("auto", "best_worst", "all", "every", "halves", "origin"), INPUT | GRAD, 0,
        "pairs of a group: best with worst, all that differ, every two, halves, policy with other; auto: best_worst, p3o: every"),
    NUMBER("objective.pair_margin", objective.pair_margin, "0.0", FROM(0), INPUT | GRAD, 0, "the scores of a pair differ by more (best_worst, all)"),
    INTEGER("objective.max_pairs", objective.max_pairs, "0", FROM(0), INPUT | GRAD, 0, "of all pairs of a group so many, the widest margins; 0: no limit"),
    NUMBER("objective.pair_filter", objective.pair_filter, "0.0", FROM(0), INPUT | GRAD, 0,
        "pairs from a sample of the group (RSO): a response stays with probability exp((r - max r) / this); 0: all"),
    CHOICE("objective.label", stm_label, objective.label, "hard", CHOICES("hard", "oracle", "bt"), INPUT | GRAD, 0,
        "probability that a pair's winner is better: 1, the oracle's, or sigmoid(label_scale * difference of scores)"),
    CHOICE("objective.oracle", stm_oracle, objective.oracle, "recorded", CHOICES("recorded", "reward"), INPUT | GRAD, 0,
        "win probabilities: recorded with the group, or sigmoid(label_scale * difference of rewards)"),
    NUMBER("objective.label_scale", objective.label_scale, "1.0", FROM(0), INPUT | GRAD, ABOVE, "of soft labels and of an oracle made of rewards"),
    CHOICE("objective.pair_aggregate", stm_pair_aggregate, objective.pair_aggregate, "pair-mean", CHOICES("pair-mean", "prompt-mean"), INPUT | GRAD, 0,
        "pairs weigh the same, or prompts with pairs"),
    CHOICE("objective.loss", stm_pair_loss, objective.loss, "sigmoid", CHOICES("sigmoid", "robust", "hinge", "ipo"), INPUT | GRAD, 0, "of a pair"),
    {"objective.reference", STM_KIND_WEIGHTS, offsetof(stm_options, objective.reference), "{ref: 1.0}", ANY, CHOICES("ref", "old", "twin", "target"),
        INPUT | GRAD, 0, "weights of copies of the model that log-probs are taken against; {}: none"},
    CHOICE("objective.length", stm_length, objective.length, "sum", CHOICES("sum", "mean"), INPUT | GRAD, 0, "log-prob of a response: of its tokens, sum or mean"),
    NUMBER("objective.target_margin", objective.target_margin, "0.0", ANY, INPUT | GRAD, 0, "taken off beta times the difference"),
    NUMBER("objective.label_smoothing", objective.label_smoothing, "0.0", RANGE(0, 1), INPUT | GRAD, 0, "share of labels that are wrong"),
    NUMBER("objective.sft_coef", objective.sft_coef, "0.0", FROM(0), INPUT | GRAD, 0, "weight of the winners' log-likelihood (ORPO: 1)"),
    CHOICE("objective.sft_form", stm_sft_form, objective.sft_form, "sum", CHOICES("sum", "mean"), INPUT | GRAD, 0,
        "of the pair, or the mean over all winners' tokens"),
    NUMBER("objective.chase_coef", objective.chase_coef, "0.0", FROM(0), INPUT | GRAD, 0, "weight of the term against the twin (OFS-DPO)"),
    CHOICE("objective.chase_role", stm_chase_role, objective.chase_role, "fast", CHOICES("fast", "slow"), INPUT | GRAD, 0, "lead the twin, or close the gap; with rollouts the policy leads"),
    INTEGER("objective.chase_interval", objective.chase_interval, "10", FROM(1), INPUT, 0, "steps after which the twin takes the policy's place if its loss is lower"),
    NUMBER("objective.chase_lr_ratio", objective.chase_lr_ratio, "0.5", FROM(0), INPUT, 0, "learning rate of the twin, which is slow, over optim.lr"),
    NUMBER("objective.explore_coef", objective.explore_coef, "0.0", FROM(0), INPUT | GRAD, 0, "weight of log-probs of other models' responses (XPO)"),
    CHOICE("objective.kl_form", stm_kl_form, objective.kl_form, "token", CHOICES("token", "sequence", "sequence-loo"), INPUT | GRAD, 0,
        "KL term of each token, of the response, or that less the mean of the group's others"),
    NUMBER("objective.desirable_weight", objective.desirable_weight, "1.0", FROM(0), INPUT | GRAD, 0, "of responses above the threshold"),
    NUMBER("objective.undesirable_weight", objective.undesirable_weight, "1.0", FROM(0), INPUT | GRAD, 0, "of the others"),
    NUMBER("objective.desirable_threshold", objective.desirable_threshold, "0.0", ANY, INPUT | GRAD, 0, "rewards above are desirable"),
    NUMBER("objective.kl_point", objective.kl_point, "0.0", FROM(0), INPUT | GRAD, 0, "log-ratio that counts as neutral"),
    CHOICE("objective.kl_point_from", stm_kl_point, objective.kl_point_from, "given", CHOICES("given", "mismatched"), INPUT, 0,
        "that is kl_point, or the mean over responses below other prompts than their own, at least 0"),
    CHOICE("objective.opponent", stm_opponent, objective.opponent, "group", CHOICES("group", "other"), INPUT | GRAD, 0,
        "wins are counted against the group, or against other models' responses"),
    NUMBER("objective.prox_eta", objective.prox_eta, "0.0", FROM(0), INPUT | GRAD, 0, "beta over this weighs the divergence from the target copy; 0: none"),
    INTEGER("objective.prox_every", objective.prox_every, "2", FROM(1), INPUT, 0, "steps after which the target copy becomes the policy; 2: Nash-MP, with a step for each of its two problems"),
    CHOICE("objective.variant", stm_p3o_variant, objective.variant, "separate", CHOICES("separate", "joint"), INPUT | GRAD, 0,
        "clip the ratio of each response, or the difference of a pair's log-ratios"),
    NUMBER("objective.clip", objective.clip, "0.2", FROM(0), INPUT | GRAD, 0, "how far before clipping"),
    CHOICE("objective.divergence", stm_divergence, objective.divergence, "js", CHOICES("js", "kl", "reverse_kl", "tv", "chi2", "reverse_chi2"), INPUT | GRAD, 0,
        "from the target distribution"),
    CHOICE("objective.target", stm_target_kind, objective.target, "exponential", CHOICES("exponential", "constraint"), INPUT | GRAD, 0,
        "start model times exp(reward / target_beta), or where rewards are above target_threshold"),
    NUMBER("objective.target_beta", objective.target_beta, "1.0", FROM(0), INPUT | GRAD, ABOVE, "divides rewards"),
    NUMBER("objective.target_threshold", objective.target_threshold, "0.0", ANY, INPUT | GRAD, 0, "rewards above meet the constraint"),
    CHOICE("objective.normaliser", stm_normaliser, objective.normaliser, "group", CHOICES("group", "given", "running"), INPUT | GRAD, 0,
        "the target's sum, estimated from the group, or exp(log_z), or estimated from all samples of the prompt up to now"),
    NUMBER("objective.log_z", objective.log_z, "0.0", ANY, INPUT | GRAD, 0, "logarithm of the target's sum"),
    NUMBER("objective.baseline", objective.baseline, "0.0", ANY, INPUT | GRAD, 0, "taken off the advantages"),
    INTEGER("objective.baseline_window", objective.baseline_window, "0", FROM(0), INPUT, 0, "the baseline is the mean pseudo-reward of so many responses of earlier steps, the latest; 0: objective.baseline; the paper's: 1024"),

    {"reference.paths", STM_KIND_STRINGS, AT(stm_strings, reference.paths), "[]", ANY, NULL, INPUT, FREE,
        "folders or checkpoints whose average is the reference (SALSA), all of the model's configuration; empty: the start model"},
    NUMBERS("reference.weights", reference.weights, "[]", FROM(0), INPUT, ABOVE, "of each in that average; empty: equal ones"),
    INTEGER("reference.samples", reference.samples, "0", FROM(0), INPUT, 0, "responses of each group that the reference samples, in place of the policy"),
    NUMBER("reference.mixture", reference.mixture, "1.0", RANGE(0, 1), INPUT, 0, "share of the reference's logits in these samples, the rest is the policy's (Nash-MD: 0.5); 1: the reference alone; between, both are in memory whole"),

    NUMBER("optim.lr", optim.lr, "1.0e-5", FROM(0), INPUT, 0, "learning rate of AdamW after warm-up"),
    {"optim.betas", STM_KIND_PAIR, offsetof(stm_options, optim.betas), "[0.9, 0.95]", RANGE(0, 1), NULL, INPUT, BELOW, "decay of the two moments"},
    NUMBER("optim.eps", optim.eps, "1.0e-8", FROM(0), INPUT, ABOVE, "added to the root of the second moment"),
    NUMBER("optim.weight_decay", optim.weight_decay, "0.0", FROM(0), INPUT, 0, "decoupled from the gradient"),
    NUMBER("optim.clip", optim.clip, "1.0", FROM(0), INPUT, 0, "largest norm of the whole gradient; 0: no clipping"),
    CHOICE("optim.schedule", stm_schedule_kind, optim.schedule, "cosine", CHOICES("constant", "linear", "cosine"), INPUT, 0,
        "of the learning rate after warm-up"),
    INTEGER("optim.warmup_steps", optim.warmup_steps, "5", FROM(0), INPUT, 0, "steps in which the learning rate rises from 0"),
    NUMBER("optim.min_lr_ratio", optim.min_lr_ratio, "0.1", RANGE(0, 1), INPUT, 0, "share of the learning rate that is left at the end"),

    INTEGER("update.epochs", update.epochs, "1", FROM(1), INPUT, 0, "times that a batch of rollouts is used"),
    INTEGER("update.minibatch_groups", update.minibatch_groups, "0", FROM(0), INPUT, 0, "groups of one update; 0: the whole batch"),

    INTEGER("parallel.pipeline", parallel.pipeline, "auto", FROM(1), COMPUTE, AUTO, "stages that the layers are cut into; auto: as few as have room"),
    INTEGER("parallel.suffix", parallel.suffix, "auto", FROM(1), COMPUTE, AUTO, "ranks that share the rollouts of a prompt"),
    INTEGER("parallel.replica", parallel.replica, "auto", FROM(1), COMPUTE, AUTO, "teams that share the prompts"),
    INTEGER("parallel.prefixes_in_flight", parallel.prefixes_in_flight, "2", FROM(1), COMPUTE, 0, "prompts that a team holds at once"),
    CHOICE("parallel.context", stm_context, parallel.context, "auto", CHOICES("auto", "on", "off"), COMPUTE, 0,
           "pieces of a long prompt go round the ranks of a team; auto: where they are more than one's share"),
    CHOICE("parallel.shared_kv", stm_shared_kv, parallel.shared_kv, "auto", CHOICES("auto", "off"), COMPUTE, 0,
           "ranks of a team on one node read one copy of a prompt's keys and values; off: each has its own"),
    CHOICE("parallel.shard", stm_shard, parallel.shard, "optimizer", CHOICES("optimizer", "gradient"), INPUT, 0,
           "what the ranks of a stage divide; gradient: its sums, too: less memory, for a sum over ranks for each chunk"),
    CHOICE("parallel.prefix", stm_prefix, parallel.prefix, "auto", CHOICES("auto", "send", "recompute"), COMPUTE, 0,
           "what ranks of a team share: sent by the one that computes it, or computed by each; auto: the faster"),
    CHOICE("parallel.transport", stm_transport, parallel.transport, "auto", CHOICES("auto", "mpi", "nccl"), INPUT | GRAD | BENCH, FREE,
           "what carries gradients and new weights among GPUs, with the same bits; auto: nccl where it is found and each rank has a GPU of its own, but mpi between nodes where that is CUDA-aware"),
    TEXT("parallel.machine", parallel.machine, "auto", COMPUTE, 0,
           "rates that placement balances by; auto: measured when a run begins; none: FLOPs alone; or a file of calibrate"),

    {"memory.limit", STM_KIND_BYTES, AT(int64_t, memory.limit_bytes), "auto", FROM(1), NULL, COMPUTE, AUTO,
        "memory that a rank may use; auto: its share of the node, or of its GPU"},
    CHOICE("memory.recompute", stm_recompute, memory.recompute, "auto", CHOICES("auto", "always", "never"), COMPUTE, 0,
        "compute activations again in backward; auto: where memory.limit asks for it"),
    INTEGER("memory.max_segment_tokens", memory.max_segment_tokens, "4096", FROM(1), COMPUTE, 0, "longer segments are cut, and computed piece by piece"),
    INTEGER("memory.chunk_tokens", memory.chunk_tokens, "auto", FROM(1), COMPUTE, AUTO, "rows computed at once; auto: 1,024, on a GPU 8,192 by the stages, or fewer where memory.limit asks for it"),

    INTEGER("tree.min_shared_tokens", tree.min_shared_tokens, "16", FROM(1), COMPUTE, 0, "a shorter common beginning is not worth a segment"),
    BOOLEAN("tree.across_groups", tree.across_groups, "true", COMPUTE, 0, "share what prompts of several groups have in common, too"),

    INTEGER("checkpoint.every", checkpoint.every, "20", FROM(0), INPUT, FREE, "steps between checkpoints; 0: only at the end"),
    INTEGER("checkpoint.keep", checkpoint.keep, "3", FROM(1), INPUT, FREE, "newest checkpoints that stay; the best one stays beside them"),
    BOOLEAN("checkpoint.async", checkpoint.async, "false", INPUT, FREE,
        "go on while a thread writes a copy of the state, which takes memory: three times the parameters that a rank owns"),

    INTEGER("eval.every", eval.every, "50", FROM(0), INPUT, FREE, "steps between evaluations; 0: none"),
    TEXT("eval.prompts", eval.prompts, "", INPUT, FREE, "JSON lines to evaluate on; empty: no evaluation"),
    INTEGER("eval.samples", eval.samples, "1", FROM(1), INPUT, FREE, "responses of a prompt, for pass@k"),
    NUMBER("eval.temperature", eval.temperature, "1.0", FROM(0), INPUT, FREE, "divides the logits; 0: greedy"),
    INTEGER("eval.stop_after", eval.stop_after, "0", FROM(0), INPUT, FREE, "stop after so many evaluations without a better one; 0: never"),
    NUMBER("eval.stop_at_reward", eval.stop_at_reward, "0.0", ANY, INPUT, FREE, "stop when the mean reward of an evaluation reaches this; 0: never"),

    NUMBER("fault.timeout", fault.timeout_s, "20.0", FROM(1), COMPUTE | CALIBRATE, FREE,
        "seconds of silence after which a rank has stopped, and the job is ended"),
    NUMBER("fault.io_timeout", fault.io_timeout_s, "600.0", FROM(1), COMPUTE | CALIBRATE, FREE,
        "seconds that loading, a reward or a save may stand still; compute: ten times its longest"),
    INTEGER("fault.max_skips", fault.max_skips, "3", FROM(1), INPUT, FREE,
        "steps or updates in a row that may fail (not-a-number, rewards that fail) before the run ends"),

    INTEGER("bench.hidden", bench.hidden, "512", RANGE(1, 100000), BENCH, 0, "hidden size"),
    INTEGER("bench.layers", bench.layers, "8", RANGE(1, 1000), BENCH, 0, "layers"),
    INTEGER("bench.heads", bench.heads, "8", RANGE(1, 100000), BENCH, 0, "query heads"),
    INTEGER("bench.kv_heads", bench.kv_heads, "4", RANGE(1, 100000), BENCH, 0, "heads of keys and values"),
    INTEGER("bench.intermediate", bench.intermediate, "1376", RANGE(1, 100000), BENCH, 0, "width of the feed-forward part"),
    INTEGER("bench.vocab", bench.vocab, "8192", RANGE(2, 999999), BENCH, 0, "vocabulary"),
    NUMBERS("bench.prompt", bench.prompt, "2048", RANGE(1, 999999), BENCH, WHOLE, "tokens of a prompt; a list: a case for each"),
    INTEGER("bench.answer", bench.answer, "256", RANGE(1, 999999), BENCH, 0, "tokens of an answer, where bench.ratio is empty"),
    NUMBERS("bench.ratio", bench.ratio, "[]", RANGE(0.001, 1000), BENCH, 0, "tokens of a prompt to those of an answer; a list: a case for each"),
    NUMBERS("bench.group_size", bench.group_size, "8", RANGE(1, 65536), BENCH, WHOLE, "answers to a prompt; a list: a case for each"),
    INTEGER("bench.groups", bench.groups_n, "1", RANGE(1, 65536), BENCH, 0, "prompts of a batch"),
    INTEGER("bench.repeats", bench.repeats, "5", FROM(1), BENCH, 0, "times that each is measured"),
    {"bench.forwards", STM_KIND_STRINGS, AT(stm_strings, bench.forwards), "[]", ANY, CHOICES("tree", "prompt", "repeated", "decode"), BENCH, 0,
        "what to measure: updates by tree, by prompt and repeated, and sampling the answers; empty: all"},
    BOOLEAN("bench.sweep", bench.sweep, "false", BENCH, 0,
        "prompts of 4096, 8192, 16384, ratios of 1/2 to 32, groups of 2 to 16, where no other list is given"),
    NUMBER("bench.limit_s", bench.limit_s, "600.0", FROM(0), BENCH, 0,
        "leave out, and say so, what would take longer with all its repeats; 0: nothing"),
};

#undef AT
#define AT(type, field) AT_IN(stm_reward_options, type, field)

const stm_option_row stm_reward_rows[] = {
    TEXT("name", name, "", INPUT, REQUIRED, "which reward: exact, numeric, regex, format, contains, length, command, bleu, math, "
        "choices, cosine, length_group, overlong, repetition, hapo, "
        "tags, dianjin, thinkless, tool_call, otc, sql, ui_action, ton_gui, gui_critic, adacot, plugin, environment, preference"),
    NUMBER("weight", weight, "1.0", ANY, INPUT, 0, "factor in the sum"),
    TEXT("pattern", pattern, "", INPUT, 0, "regex, format: PCRE2 pattern that is searched in the response"),
    TEXT("text", text, "", INPUT, 0, "contains: text to find; empty: the prompt's answer; otc: how a call begins"),
    TEXT("command", command, "", INPUT, 0, "command, preference: run by /bin/sh, fed JSON lines, answers with a number a line (server, preference: with JSON lines)"),
    NUMBER("timeout_s", timeout_s, "60.0", FROM(0), INPUT, ABOVE, "command: seconds that it may take for a step"),
    INTEGER("min_tokens", min_tokens, "0", FROM(0), INPUT, 0, "length: shortest response with the whole reward"),
    INTEGER("max_tokens", max_tokens, "0", FROM(0), INPUT, 0, "length: longest response with the whole reward; 0: no limit"),
    TEXT("extract", extract, "", INPUT, 0, "exact, numeric, math, choices, bleu, sql, or what `right` names: PCRE2 pattern whose last match (its first group) is the answer"),
    BOOLEAN("ignore_case", ignore_case, "false", INPUT, 0, "compare without case"),
    TEXT("style", style, "", INPUT, 0,
        "bleu: sacrebleu or bleuberi; cosine, length_group: characters or tokens; hapo: cosine, linear, cosine-mean or linear-mean; "
        "tags: think-answer, think-action, end-think or tool; sql: ngram or schema; command: once (a step) or server"),
    TEXT("right", right, "", INPUT, 0, "cosine, length_group, hapo, dianjin, thinkless, otc, adacot: which reward tells right from wrong; empty: math"),
    NUMBER("scale", scale, "0.0", FROM(0), INPUT, 0, "cosine: length at which the second value is reached; 0: 1000"),
    NUMBERS("reward_right", reward_right, "[]", ANY, INPUT, 0, "cosine: of right responses without length, and at scale; empty: [1, 0.5]"),
    NUMBERS("reward_wrong", reward_wrong, "[]", ANY, INPUT, 0, "cosine: likewise of wrong ones; empty: [0, -0.5]"),
    INTEGER("buffer_tokens", buffer_tokens, "0", FROM(0), INPUT, 0, "overlong: tokens before max_tokens over which it falls to -1"),
    INTEGER("ngram", ngram, "0", RANGE(0, 8), INPUT, 0, "repetition: words in a row; 0: 3"),
    NUMBERS("penalties", penalties, "[]", FROM(0), INPUT, 0, "adacot: of a thought that is missing, a needless one, another form; empty: [0.5, 0.5, 1]"),
    TEXT("library", library, "", INPUT, 0, "plugin: shared object with the function of inputs/plugin/stemma_reward.h"),
};
/* clang-format on */

const size_t stm_n_option_rows = sizeof stm_option_rows / sizeof *stm_option_rows;
const size_t stm_n_reward_rows = sizeof stm_reward_rows / sizeof *stm_reward_rows;
_Static_assert(sizeof stm_option_rows / sizeof *stm_option_rows <= STM_OPTIONS_MAX,
               "stm_options.given has a byte per row");
_Static_assert(sizeof(stm_forward_mode) == sizeof(int), "an enum is stored as an int");

static const struct {
    const char *name, *help;
} sections[] = {
    {"run", "the run as a whole"},
    {"model", "what is trained"},
    {"data", "the prompts"},
    {"rollout", "how responses are sampled"},
    {"reward", "how responses are judged"},
    {"replay", "successes of earlier steps, for groups without any"},
    {"objective", "what the update minimises"},
    {"reference", "what the policy is held to"},
    {"optim", "AdamW and its schedule"},
    {"update", "how a batch is used"},
    {"parallel", "how ranks share the work"},
    {"memory", "how much of it is used, and for what"},
    {"tree", "which tokens are computed once"},
    {"checkpoint", "what is saved"},
    {"eval", "measuring while training"},
    {"fault", "what happens when something fails"},
    {"bench", "the shape of what is measured"},
};

const char *stm_section_name(size_t i)
{
    return i < sizeof sections / sizeof *sections ? sections[i].name : NULL;
}

const char *stm_section_help(const char *section)
{
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        if (strcmp(sections[i].name, section) == 0)
            return sections[i].help;
    return NULL;
}

size_t stm_option_section_length(const stm_option_row *row)
{
    return row->traits & STM_OPTION_FLAG ? 0 : strcspn(row->name, ".");
}

const char *stm_command_name(stm_command_bit command)
{
    switch (command) {
    case STM_COMMAND_TRAIN:
        return "train";
    case STM_COMMAND_SCORE:
        return "score";
    case STM_COMMAND_GRAD:
        return "grad";
    case STM_COMMAND_GENERATE:
        return "generate";
    case STM_COMMAND_TOKENIZE:
        return "tokenize";
    case STM_COMMAND_EVAL:
        return "eval";
    case STM_COMMAND_INSPECT:
        return "inspect";
    case STM_COMMAND_EXPORT:
        return "export";
    case STM_COMMAND_BENCH:
        return "bench";
    case STM_COMMAND_OPTIONS:
        return "options";
    case STM_COMMAND_PLAN:
        return "plan";
    case STM_COMMAND_CALIBRATE:
        return "calibrate";
    }
    return "";
}

const stm_option_row *stm_option_find(const stm_option_row *rows, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].name, name) == 0)
            return &rows[i];
    return NULL;
}

static const char *after_dot(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot ? dot + 1 : name;
}

stm_status stm_option_suggest(const stm_option_row *rows, size_t n, unsigned command, bool in_file, const char *name,
                              char **suggestion)
{
    const char *whole[STM_OPTIONS_MAX] = {0}, *keys[STM_OPTIONS_MAX];
    const stm_option_row *taken[STM_OPTIONS_MAX];
    size_t n_taken = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(rows[i].commands & command) || (in_file && (rows[i].traits & STM_OPTION_LINE_ONLY)))
            continue;
        taken[n_taken] = &rows[i];
        whole[n_taken] = rows[i].name;
        keys[n_taken++] = after_dot(rows[i].name);
    }
    const char *near = stm_nearest_name(name, whole, n_taken), *near_key = NULL;
    if (!near)
        near_key = stm_nearest_name(after_dot(name), keys, n_taken);
    for (size_t i = 0; i < n_taken; i++)
        if (whole[i] == near || (near_key && keys[i] == near_key))
            return stm_format(suggestion, "; did you mean %s%s?",
                              !in_file && (taken[i]->traits & STM_OPTION_FLAG) ? "--" : "", whole[i]);
    return stm_format(suggestion, "%s", "");
}

stm_status stm_options_init(stm_options *options)
{
    memset(options, 0, sizeof *options);
    for (size_t i = 0; i < stm_n_option_rows; i++) {
        const stm_status status = stm_option_set_preset(&stm_option_rows[i], options);
        if (status != STM_OK) {
            stm_options_clear(options);
            return status;
        }
    }
    return STM_OK;
}

void stm_options_clear(stm_options *options)
{
    for (size_t i = 0; i < stm_n_option_rows; i++)
        stm_option_clear(&stm_option_rows[i], options);
    for (size_t i = 0; i < options->arguments.n; i++)
        free(options->arguments.items[i]);
    for (size_t i = 0; i < options->reward_entries.n; i++)
        free(options->reward_entries.items[i]);
    free(options->arguments.items);
    free(options->reward_entries.items);
    memset(options, 0, sizeof *options);
}

bool stm_options_given(const stm_options *options, const char *name)
{
    const stm_option_row *row = stm_option_find(stm_option_rows, stm_n_option_rows, name);
    return row && options->given[row - stm_option_rows] != 0;
}

stm_status stm_stream_finish(FILE *stream, char **text)
{
    const bool failed = ferror(stream) != 0;
    if (fclose(stream) == 0 && !failed)
        return STM_OK;
    free(*text);
    *text = NULL;
    return stm_fail(STM_ERR_MEMORY, "out of memory");
}
