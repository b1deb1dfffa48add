/* src/reward/kinds.h: what one kind of reward is; for src/reward alone. A kind is one file and one row of the table in
 * reward.c. Local. */
#ifndef STM_REWARD_KINDS_H
#define STM_REWARD_KINDS_H

#include "reward/pattern.h"
#include "reward/reward.h"

/* The options of an entry that a kind reads; others that were set are refused. weight and name belong to all. */
typedef enum {
    STM_READS_PATTERN = 1,
    STM_READS_TEXT = 2,
    STM_READS_COMMAND = 4,
    STM_READS_TIMEOUT = 8,
    STM_READS_LENGTHS = 16, /* min_tokens, max_tokens */
    STM_READS_EXTRACT = 32,
    STM_READS_IGNORE_CASE = 64,
    STM_READS_STYLE = 128,
    STM_READS_RIGHT = 256, /* right, with its extract and ignore_case */
    STM_READS_SCALE = 512, /* scale, reward_right, reward_wrong */
    STM_READS_BUFFER = 1024,
    STM_READS_NGRAM = 2048,
    STM_READS_LIBRARY = 4096,
    STM_READS_PENALTIES = 8192
} stm_reward_reads;

/* The first thing that went wrong in a run. */
typedef struct {
    bool given;
    char text[1024];
} stm_complaint;

/* Keeps the first message and returns NaN, the reward of a response that could not be judged. */
double stm_complain(stm_complaint *complaint, const char *format, ...) __attribute__((format(printf, 2, 3)));

typedef struct stm_reward_kind stm_reward_kind;

typedef struct stm_reward_item stm_reward_item;

/* One entry of the list `reward:`, ready to run. */
struct stm_reward_item {
    const stm_reward_kind *kind;
    stm_reward_options options; /* strings belong to the caller's options; never NULL here */
    stm_pattern *pattern;       /* of `pattern` or `extract`; NULL: none */
    size_t style;               /* of kind->styles */
    stm_reward_item *right;     /* of STM_READS_RIGHT: the reward that tells which responses are right */
    void *state;                /* what a kind with `begin` keeps from step to step */
    char where[32];             /* "reward[1]" */
};

struct stm_reward_kind {
    const char *name;
    unsigned reads;            /* stm_reward_reads */
    const char *const *styles; /* of STM_READS_STYLE, the first one by default; ends in NULL */
    bool (*needs_answer)(const stm_reward_options *options);
    stm_status (*check)(const stm_reward_item *item);                            /* of the options; may be NULL */
    stm_status (*check_answer)(const stm_reward_item *item, const char *answer); /* may be NULL */
    stm_status (*begin)(stm_reward_item *item); /* makes the state; `end` frees it, also NULL; both may be NULL */
    void (*end)(void *state);
    const double *(*preferences)(const void *state); /* of the last run, as stm_reward_set_preferences; may be NULL */
    /* What a state remembers (reward.h); all three or none. restore is false for bytes that save would not write. */
    stm_status (*settle)(const stm_reward_item *item);
    stm_status (*save)(const void *state, stm_kept *out);
    stm_status (*restore)(void *state, stm_kept_reader bytes, bool *good);
    /* Exactly one of the two is there: one response, or all of them at once ([n] rewards into out). */
    double (*one)(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint);
    stm_status (*all)(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                      stm_complaint *complaint);
};

struct stm_reward_set {
    size_t n;
    stm_reward_item *items; /* [n] */
};

extern const stm_reward_kind stm_reward_exact, stm_reward_numeric, stm_reward_regex, stm_reward_format,
    stm_reward_contains, stm_reward_length, stm_reward_command, stm_reward_bleu, stm_reward_math, stm_reward_choices,
    stm_reward_cosine, stm_reward_length_group, stm_reward_overlong, stm_reward_repetition, stm_reward_hapo,
    stm_reward_tags, stm_reward_dianjin, stm_reward_thinkless, stm_reward_tool_call, stm_reward_otc, stm_reward_sql,
    stm_reward_ui_action, stm_reward_ton_gui, stm_reward_gui_critic, stm_reward_adacot, stm_reward_plugin,
    stm_reward_environment, stm_reward_preference;

/* Whether a response is right, as the entry's reward `right` says. *failed: it could not tell. */
bool stm_reward_is_right(const stm_reward_item *item, const stm_reward_input *input, stm_complaint *complaint,
                         bool *failed);

/* For needs_answer. */
bool stm_reward_always(const stm_reward_options *options);
bool stm_reward_never(const stm_reward_options *options);

/* What `extract` takes from a response: the last match's first group (the whole match without groups), or the whole
 * text when there is no such option. False: nothing matched, or (with a complaint) the search failed. */
bool stm_reward_extract(const stm_reward_item *item, const char *text, size_t *start, size_t *n,
                        stm_complaint *complaint, bool *failed);

#endif
