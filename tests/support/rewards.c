#include "support/rewards.h"
#include "config/table.h"
#include "support/support.h"

stm_reward_options reward_named(const char *name)
{
    stm_reward_options o = {.name = NULL};
    for (size_t i = 0; i < stm_n_reward_rows; i++) {
        if (stm_reward_rows[i].kind == STM_KIND_TEXT || stm_reward_rows[i].kind == STM_KIND_NUMBERS)
            continue; /* theirs would have to be freed */
        assert_ok(stm_option_set_preset(&stm_reward_rows[i], &o));
    }
    o.name = (char *)name;
    return o;
}

void rewards_of(stm_reward_options o, size_t n, const stm_reward_input *inputs, double *rewards)
{
    stm_reward_set *set;
    assert_ok(stm_reward_set_create(&o, 1, &set));
    assert_ok(stm_reward_set_run(set, n, inputs, rewards, NULL));
    stm_reward_set_destroy(set);
}

double reward_of_input(stm_reward_options o, const stm_reward_input *input)
{
    double reward;
    rewards_of(o, 1, input, &reward);
    return reward;
}

double reward_of_text(stm_reward_options o, const char *text, const char *answer)
{
    return reward_of_input(o, &(stm_reward_input){.prompt_text = "", .text = text, .n_tokens = 3, .answer = answer});
}

void reward_is_refused(stm_reward_options o, const char *words)
{
    stm_reward_set *set;
    const stm_reward_options items[] = {reward_named("exact"), o};
    assert_fails(stm_reward_set_create(items, 2, &set), STM_ERR_INPUT, words);
}
