#include "support/options.h"

const char stm_test_input[] =
    "run:        { folder: runs/lookup, seed: 1, steps: 200 }\n"
    "model:      { path: inputs/lookup/model }\n"
    "data:       { prompts: inputs/lookup/train.jsonl, template: auto, shuffle: true }   # a line: {\"prompt\" | "
    "\"messages\", \"answer\", ...}\n"
    "rollout:    { prompts_per_step: 16, group_size: 8, temperature: 1.0, top_p: 1.0, top_k: 0, max_new_tokens: 64, "
    "stop: [\"\\n\\n\"] }\n"
    "reward:     [ { name: exact, weight: 1.0 }, { name: format, pattern: \"^<think>.*</think>\", weight: 0.1 } ]\n"
    "objective:  { name: grpo, clip_low: 0.2, clip_high: 0.28, kl_coef: 0.0, aggregate: token-mean }\n"
    "optim:      { lr: 1.0e-5, betas: [0.9, 0.95], weight_decay: 0.0, clip: 1.0, schedule: cosine, warmup_steps: 5 }\n"
    "update:     { epochs: 1, minibatch_groups: 0 }            # 0: the whole batch in one update\n"
    "parallel:   { pipeline: auto, suffix: auto, replica: auto }\n"
    "memory:     { limit: auto, recompute: auto, max_segment_tokens: 4096 }\n"
    "checkpoint: { every: 20, keep: 3 }\n"
    "eval:       { every: 50, prompts: inputs/lookup/test.jsonl, samples: 1 }\n";

stm_status stm_test_read_options(stm_options *o, const char *text)
{
    return stm_options_read_text(o, STM_COMMAND_TRAIN, "in.yaml", text, strlen(text));
}

void stm_test_given(stm_options *o, const char *text)
{
    assert_ok(stm_options_init(o));
    assert_ok(stm_test_read_options(o, text));
}

void stm_test_argument(stm_options *o, stm_command_bit command, const char *argument)
{
    char *argv[] = {(char *)argument};
    assert_ok(stm_options_read_arguments(o, command, 1, argv));
}

void stm_test_file_refused(const char *text, const char *message)
{
    stm_options o;
    assert_ok(stm_options_init(&o));
    assert_int_equal(stm_test_read_options(&o, text), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), message);
    stm_options_clear(&o);
}

void stm_test_line_refused_by(stm_command_bit command, const char *argument, const char *message)
{
    stm_options o;
    char *argv[] = {(char *)argument};
    assert_ok(stm_options_init(&o));
    assert_int_equal(stm_options_read_arguments(&o, command, 1, argv), STM_ERR_INPUT);
    assert_string_equal(stm_failure(), message);
    stm_options_clear(&o);
}

void stm_test_line_refused(const char *argument, const char *message)
{
    stm_test_line_refused_by(STM_COMMAND_TRAIN, argument, message);
}
