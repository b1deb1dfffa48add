/* src/config/options.h: every option of the program, its value, and where it comes from.
 *
 * One table (options.c: name, type, default, range or choices, help, which commands take it, offset in stm_options)
 * feeds the YAML parser, the key=value overrides, --help, `stemma options` and the README's table. Code reads the plain
 * structs below and never a name. Strings belong to the options and live until stm_options_clear. Local, all of it. */
#ifndef STM_CONFIG_OPTIONS_H
#define STM_CONFIG_OPTIONS_H

#include "base/base.h"

#define STM_AUTO (-1) /* value of an integer option that says `auto` */

enum { STM_OPTIONS_MAX = 288 }; /* room for the table's rows; options.c asserts it */

typedef struct {
    size_t n;
    char **items;
} stm_strings;

typedef struct {
    size_t n;
    double *items;
} stm_numbers;

typedef enum { STM_FORWARD_TREE, STM_FORWARD_PROMPT, STM_FORWARD_REPEATED } stm_forward_mode;
typedef enum {
    STM_AGGREGATE_SEQUENCE_MEAN,
    STM_AGGREGATE_TOKEN_MEAN,
    STM_AGGREGATE_FIXED_LENGTH,
    STM_AGGREGATE_SEQUENCE_SUM,
    STM_AGGREGATE_CONTROL_SPLIT
} stm_aggregate;
typedef enum { STM_KL_K1, STM_KL_K2, STM_KL_K3 } stm_kl_estimator;
typedef enum { STM_KL_IN_LOSS, STM_KL_IN_REWARD, STM_KL_IN_REWARD_TO_GO } stm_kl_in;
typedef enum { STM_SCALE_STD, STM_SCALE_NONE, STM_SCALE_BATCH_STD, STM_SCALE_WHITEN } stm_advantage_scale;
typedef enum { STM_BASELINE_MEAN, STM_BASELINE_LEAVE_ONE_OUT, STM_BASELINE_NONE, STM_BASELINE_BRPO } stm_baseline;
typedef enum { STM_REWARDS_SUM, STM_REWARDS_NORMALIZE_THEN_SUM } stm_reward_combine;
typedef enum { STM_RATIO_TOKEN, STM_RATIO_SEQUENCE, STM_RATIO_TRAJECTORY } stm_ratio_level;
typedef enum {
    STM_SURROGATE_CLIP,
    STM_SURROGATE_NONE,
    STM_SURROGATE_LOG,
    STM_SURROGATE_CISPO,
    STM_SURROGATE_GEOMETRIC
} stm_surrogate;
typedef enum { STM_CORRECTION_NONE, STM_CORRECTION_TRUNCATE, STM_CORRECTION_MASK } stm_is_correction;
typedef enum { STM_IS_TOKEN, STM_IS_SEQUENCE } stm_is_level;
typedef enum { STM_SEED_LINEAR, STM_SEED_EXPONENTIAL, STM_SEED_RECIPROCAL } stm_seed_scale;
typedef enum { STM_SCORE_AUTO, STM_SCORE_LOGL, STM_SCORE_LRATIO, STM_SCORE_REWARD, STM_SCORE_WIN_RATE } stm_score_kind;
typedef enum {
    STM_PAIRING_AUTO,
    STM_PAIRING_BEST_WORST,
    STM_PAIRING_ALL,
    STM_PAIRING_EVERY,
    STM_PAIRING_HALVES,
    STM_PAIRING_ORIGIN
} stm_pairing;
typedef enum { STM_LABEL_HARD, STM_LABEL_ORACLE, STM_LABEL_BT } stm_label;
typedef enum { STM_ORACLE_RECORDED, STM_ORACLE_REWARD } stm_oracle;
typedef enum { STM_PAIR_MEAN, STM_PROMPT_MEAN } stm_pair_aggregate;
typedef enum { STM_LOSS_SIGMOID, STM_LOSS_ROBUST, STM_LOSS_HINGE, STM_LOSS_IPO } stm_pair_loss;
typedef enum { STM_LENGTH_SUM, STM_LENGTH_MEAN } stm_length;
typedef enum { STM_SFT_SUM, STM_SFT_MEAN } stm_sft_form;
typedef enum { STM_CHASE_FAST, STM_CHASE_SLOW } stm_chase_role;
typedef enum { STM_KL_FORM_TOKEN, STM_KL_FORM_SEQUENCE, STM_KL_FORM_SEQUENCE_LOO } stm_kl_form;
typedef enum { STM_KL_POINT_GIVEN, STM_KL_POINT_MISMATCHED } stm_kl_point;
typedef enum { STM_OPPONENT_GROUP, STM_OPPONENT_OTHER } stm_opponent;
typedef enum { STM_P3O_SEPARATE, STM_P3O_JOINT } stm_p3o_variant;
typedef enum {
    STM_DIVERGENCE_JS,
    STM_DIVERGENCE_KL,
    STM_DIVERGENCE_REVERSE_KL,
    STM_DIVERGENCE_TV,
    STM_DIVERGENCE_CHI2,
    STM_DIVERGENCE_REVERSE_CHI2
} stm_divergence;
typedef enum { STM_TARGET_EXPONENTIAL, STM_TARGET_CONSTRAINT } stm_target_kind;
typedef enum { STM_NORMALISER_GROUP, STM_NORMALISER_GIVEN, STM_NORMALISER_RUNNING } stm_normaliser;

/* Copies of the model whose log-probs an objective may read: at the start, when sampling, the other of two that are
 * trained, the one that a step began from. */
typedef enum { STM_ROW_REF, STM_ROW_OLD, STM_ROW_TWIN, STM_ROW_TARGET, STM_N_ROWS } stm_row;
typedef enum { STM_SCHEDULE_CONSTANT, STM_SCHEDULE_LINEAR, STM_SCHEDULE_COSINE } stm_schedule_kind;
typedef enum { STM_OVERLONG_ERROR, STM_OVERLONG_SKIP, STM_OVERLONG_TRUNCATE_LEFT } stm_overlong;
typedef enum { STM_SHARD_OPTIMIZER, STM_SHARD_GRADIENT } stm_shard;
typedef enum { STM_TRANSPORT_AUTO, STM_TRANSPORT_MPI, STM_TRANSPORT_NCCL } stm_transport;
typedef enum { STM_CONTEXT_AUTO, STM_CONTEXT_ON, STM_CONTEXT_OFF } stm_context;
typedef enum { STM_PREFIX_AUTO, STM_PREFIX_SEND, STM_PREFIX_RECOMPUTE } stm_prefix;
typedef enum { STM_SHARED_KV_AUTO, STM_SHARED_KV_OFF } stm_shared_kv;
typedef enum { STM_RECOMPUTE_AUTO, STM_RECOMPUTE_ALWAYS, STM_RECOMPUTE_NEVER } stm_recompute;

/* One entry of the list `reward:`. Every reward reads the fields that it knows; the table refuses the others by name.
 */
typedef struct {
    char *name; /* every text here and below is "" when it was not given, never NULL */
    double weight;
    char *pattern;                  /* regex: PCRE2 pattern, searched in the response */
    char *text;                     /* contains: the text to find; empty: the prompt's answer */
    char *command;                  /* command: run by /bin/sh, fed JSON lines, one number a line back */
    double timeout_s;               /* command */
    int64_t min_tokens, max_tokens; /* length: 1 inside, falling linearly to 0 at twice the excess */
    char *extract; /* exact, numeric: PCRE2 pattern whose first group (or whole match), last found, is the answer;
                      empty: the whole text */
    bool ignore_case;
    char *style;                            /* which form of it, for rewards that have several; empty: the first */
    char *right;                            /* the reward that tells which responses are right; empty: math */
    double scale;                           /* cosine: length of a half wave; 0: 1000 */
    stm_numbers reward_right, reward_wrong; /* cosine: at its two ends */
    int64_t buffer_tokens, ngram;
    char *library;         /* plugin */
    stm_numbers penalties; /* adacot: of a thought missing, a needless one, another form; empty: its own */
} stm_reward_options;

typedef struct {
    char *name; /* grpo, sft, ..: checked against the registry of objectives */
    /* Advantages */
    stm_baseline advantage_baseline;
    stm_advantage_scale advantage_scale;
    double advantage_eps, whiten_eps, min_advantage;
    stm_reward_combine reward_combine;
    stm_numbers reward_weights; /* of recorded parts; empty: the recorded reward stands */
    double seed_alpha;
    stm_seed_scale seed_scale;
    stm_numbers budget_probs;  /* empty: only the last budget counts */
    double token_weight_alpha; /* 0: off */
    /* Ratio and policy term */
    stm_ratio_level ratio_level;
    stm_surrogate surrogate;
    double clip_low, clip_high, dual_clip, off_policy_gamma, proximal_coef;
    stm_is_correction is_correction;
    stm_is_level is_level;
    double is_min, is_max;
    /* Reference */
    double kl_coef, kl_coef_start;
    int64_t kl_coef_steps; /* from kl_coef_start to kl_coef; 0: kl_coef at once */
    stm_kl_estimator kl_estimator;
    stm_kl_in kl_in;
    bool kl_unbiased;
    /* Aggregation */
    stm_aggregate aggregate;
    int64_t max_tokens; /* fixed-length: the divisor; 0: rollout.max_new_tokens */
    int64_t control_tokens;
    double control_coef;
    /* Of other objectives */
    stm_score_kind score;
    double tau, beta, positive_threshold, penalty_coef, kl_bound;
    bool mask_truncated, skip_equal_groups;
    char *mask_after;
    /* Pairs of a group */
    stm_pairing pairing;
    double pair_margin, pair_filter;
    int64_t max_pairs; /* 0: all */
    stm_label label;
    stm_oracle oracle;
    double label_scale;
    stm_pair_aggregate pair_aggregate;
    /* dpo, orpo */
    stm_pair_loss loss;
    double reference[STM_N_ROWS]; /* weights of copies */
    stm_length length;
    double target_margin, label_smoothing, sft_coef, chase_coef, explore_coef;
    stm_sft_form sft_form;
    stm_chase_role chase_role;
    stm_kl_form kl_form; /* and self_play */
    /* kto */
    double desirable_weight, undesirable_weight, desirable_threshold, kl_point;
    stm_kl_point kl_point_from;
    /* self_play */
    stm_opponent opponent;
    double prox_eta;        /* 0: no proximal term */
    int64_t prox_every;     /* steps */
    int64_t chase_interval; /* steps */
    double chase_lr_ratio;
    /* p3o */
    stm_p3o_variant variant;
    double clip;
    /* fdpg */
    stm_divergence divergence;
    stm_target_kind target;
    double target_beta, target_threshold, log_z, baseline;
    stm_normaliser normaliser;
    int64_t baseline_window; /* responses; 0: the baseline is a number */
} stm_objective_options;

typedef struct {
    struct {
        char *folder;
        int64_t seed, steps;
    } run;
    struct {
        char *path, *init;
    } model; /* init: file, random */
    struct {
        char *prompts, *groups, *template_name;
        bool shuffle;
        int64_t filter_samples;
        double thought_dropout;
        char *thought_begin, *thought_end;
        int64_t max_prompt_tokens;
        stm_overlong overlong;
    } data;
    struct {
        int64_t prompts_per_step, group_size;
        double temperature, top_p, min_p;
        int64_t top_k, max_new_tokens, min_new_tokens, slots; /* slots: sequences decoded at once on a rank */
        int64_t rounds_ahead;
        stm_strings stop;
        bool ignore_eos, dynamic;
        int64_t dynamic_rounds;
        bool refine;
        double refine_right;
        char *refine_text, *refine_praise, *refine_blame;
        char *save;          /* rollouts kept in the run folder: none, sample, all */
        stm_numbers budgets; /* of thinking, rising; empty: none */
        int64_t summaries;
        char *closing;
        char *answer, *answer_extract; /* how final answers are compared: math, numeric, exact, choices; and found */
        char *environment;             /* command that answers each turn; empty: a response is one turn */
        int64_t max_turns, max_environment_tokens;
        double environment_timeout_s;
    } rollout;
    struct {
        size_t n;
        stm_reward_options *items;
    } reward;
    struct {
        int64_t size; /* of a prompt's queue; 0: none */
        double min_reward, max_std, max_mean;
    } replay;
    stm_objective_options objective;
    struct {
        stm_strings paths;
        stm_numbers weights;
        int64_t samples;
        double mixture;
    } reference; /* its models; empty: the start model, equal weights */
    struct {
        double lr, betas[2], eps, weight_decay, clip;
        stm_schedule_kind schedule;
        int64_t warmup_steps;
        double min_lr_ratio;
    } optim;
    struct {
        int64_t epochs, minibatch_groups;
    } update;
    struct {
        int64_t pipeline, suffix, replica, prefixes_in_flight;
        stm_context context;
        stm_shared_kv shared_kv;
        stm_shard shard;
        stm_prefix prefix;
        stm_transport transport;
        char *machine;
    } parallel; /* STM_AUTO or a count */
    struct {
        int64_t limit_bytes;
        stm_recompute recompute;
        int64_t max_segment_tokens, chunk_tokens;
    } memory; /* limit, chunk_tokens: STM_AUTO or a number */
    struct {
        int64_t min_shared_tokens;
        bool across_groups;
    } tree;
    struct {
        int64_t every, keep;
        bool async;
    } checkpoint;
    struct {
        int64_t every;
        char *prompts;
        int64_t samples;
        double temperature;
        int64_t stop_after;
        double stop_at_reward;
    } eval; /* stop_after: evaluations without a better one; 0: never */
    struct {
        double timeout_s, io_timeout_s;
        int64_t max_skips;
    } fault;
    struct {
        char *model, *groups; /* --model, --groups; empty: random weights of the shape below, random tokens */
        int64_t hidden, layers, heads, kv_heads, intermediate, vocab;
        stm_numbers prompt, ratio, group_size; /* lists: every combination is a case; ratio: prompt / answer */
        int64_t answer, groups_n, repeats;
        stm_strings forwards;
        bool sweep;
        double limit_s; /* 0: none */
    } bench;
    struct {
        char *machine;                        /* --machine: its description */
        int64_t nodes, ranks_per_node;        /* --nodes, --ranks-per-node */
        int64_t threads;                      /* of a rank; STM_AUTO: its share of the cores */
        int64_t prompt_tokens, answer_tokens; /* means; STM_AUTO: of data.prompts; half of the longest */
        int64_t turns, reply_tokens;          /* of a response, with an environment; STM_AUTO: half of the most */
        double spread;                        /* of the responses' lengths */
        int64_t max_nodes;                    /* of the table; 0: none */
        stm_numbers group_sizes;              /* of the other table */
    } plan;
    stm_forward_mode forward;             /* --forward */
    stm_precision precision;              /* --precision */
    char *backend;                        /* --backend: cpu, cuda, auto */
    char *out, *resume;                   /* --out; --resume: auto, never or a path */
    char *objective_only;                 /* grad: --objective-only, a file of recorded log-probs */
    char *dtype, *to;                     /* export: --dtype bfloat16|float32, --to */
    double maxh, job_start;               /* --maxh, hours; 0: none; --job-start, seconds since 1970; 0: now */
    double score_temperature;             /* score --temperature; 0: the file's own, else 1 */
    bool check, special, help, markdown;  /* --check, --special, --help, options --markdown */
    stm_strings reward_entries;           /* "reward[1].weight=0.5" of the command line: set once the list is read */
    stm_strings arguments;                /* what is neither an option nor an override, in order */
    unsigned char given[STM_OPTIONS_MAX]; /* per row: who set it; read it with stm_options_given */
} stm_options;

/* The commands that take an option; a bit each in the table's row. */
typedef enum {
    STM_COMMAND_TRAIN = 1,
    STM_COMMAND_SCORE = 2,
    STM_COMMAND_GRAD = 4,
    STM_COMMAND_GENERATE = 8,
    STM_COMMAND_TOKENIZE = 16,
    STM_COMMAND_EVAL = 32,
    STM_COMMAND_INSPECT = 64,
    STM_COMMAND_EXPORT = 128,
    STM_COMMAND_BENCH = 256,
    STM_COMMAND_OPTIONS = 512,
    STM_COMMAND_PLAN = 1024,
    STM_COMMAND_CALIBRATE = 2048
} stm_command_bit;

/* Defaults for every row. Fails: STM_ERR_MEMORY. */
stm_status stm_options_init(stm_options *options);
void stm_options_clear(stm_options *options);

/* Brings the text of a file, which the caller frees: stm_read_file, or a function that sends it to all ranks. */
typedef stm_status stm_file_reader(const char *path, char **text, size_t *n);

/* Reads an input file (sections of keys, DESIGN.md section 5). Unknown sections or keys, wrong types, values out of
 * range, keys given twice: STM_ERR_INPUT, "file:line: section.key: found .., expected .., did you mean ..?". Missing
 * file: STM_ERR_INPUT. `include: PATH`, beside the file that says it, reads that one first, and each key of this one
 * replaces its value. What the command line gave stays, whichever is read first. After a failure the options may only
 * be cleared. */
stm_status stm_options_read_file(stm_options *options, stm_command_bit command, const char *path,
                                 stm_file_reader *read);

/* Same, from memory and without `include`; `name` stands for the path in messages. */
stm_status stm_options_read_text(stm_options *options, stm_command_bit command, const char *name, const char *text,
                                 size_t n);

/* argv[0..n): --name value, --name=value, section.key=value (value in YAML's spelling, also for lists),
 * reward[N].key=value (of entry N of the list, from 0, which may be read later), and plain arguments; the last of
 * several wins, and what follows `--` is plain. An option that this command does not take is an error that says so,
 * with the nearest name. */
stm_status stm_options_read_arguments(stm_options *options, stm_command_bit command, int n, char *const *argv);

/* What one value alone cannot tell: keys that this command needs and nobody gave, values that contradict each other. To
 * be called when all has been read. Fails: STM_ERR_INPUT. */
stm_status stm_options_check(const stm_options *options, stm_command_bit command);

/* True if the key was set by a file or an argument rather than by default ("objective.kl_coef"). */
bool stm_options_given(const stm_options *options, const char *name);

/* An option whose value is not its default, and both in YAML's flow spelling; stm_changed_option_clear frees them. */
typedef struct {
    const char *name; /* the table's */
    char *value, *preset;
} stm_changed_option;

/* The first one of the section from row *row on, which becomes the row behind it; all NULL where there is none. Fails:
 * STM_ERR_MEMORY. */
stm_status stm_options_next_changed(const stm_options *options, const char *section, size_t *row,
                                    stm_changed_option *out);
void stm_changed_option_clear(stm_changed_option *changed);

/* The value of an option of the table in YAML's flow spelling; the caller frees. Fails: STM_ERR_MEMORY. */
stm_status stm_options_value(const stm_options *options, const char *name, char **text);

/* Whole options as YAML, every default explicit, readable by stm_options_read_text. The caller frees. */
stm_status stm_options_print(const stm_options *options, stm_command_bit command, char **yaml);

/* The keys whose values differ, "optim.lr (saved 1.0e-05, now 2.0e-05), ..", apart from those that a resumed run may
 * change: steps, checkpoint.*, eval.*, paths, and all that the command line gave to `now`; "" when none. The caller
 * frees. */
stm_status stm_options_difference(const stm_options *saved, const stm_options *now, char **names);

/* Writes who reads the option of that name, "dpo, orpo", into text[size]; "" where that goes without saying. */
typedef void stm_option_readers(const char *name, char *text, size_t size);

/* The text of `stemma COMMAND --help` (command's options) or of `stemma options` (command 0: all), with readers,
 * defaults and ranges, at most 100 columns wide. The caller frees. */
stm_status stm_options_help(stm_command_bit command, stm_option_readers *readers, char **text);

/* All options as a table in Markdown, for the documents. The caller frees. */
stm_status stm_options_markdown(stm_option_readers *readers, char **text);

#endif
