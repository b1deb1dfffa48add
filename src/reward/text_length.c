#include "reward/text_length.h"

const char *const stm_text_lengths[] = {"characters", "tokens", NULL};

double stm_text_length(const stm_reward_item *item, const stm_reward_input *input)
{
    size_t n = 0;
    if (item->style == 1)
        return (double)input->n_tokens;
    for (const char *c = input->text; *c; c++)
        n += ((unsigned char)*c & 0xC0) != 0x80;
    return (double)n;
}

size_t stm_group_end(const stm_reward_input *inputs, size_t n, size_t first)
{
    size_t end = first + 1;
    while (end < n && inputs[end].group == inputs[first].group)
        end++;
    return end;
}
