/* The worked example: the share of vowels among the letters of a response. */
#include "stemma_reward.h"

#include <ctype.h>
#include <string.h>

STEMMA_REWARD;

static double share_of_vowels(const char *text)
{
    size_t letters = 0, vowels = 0;
    for (; *text; text++) {
        letters += isalpha((unsigned char)*text) != 0;
        vowels += strchr("aeiouAEIOU", *text) != NULL;
    }
    return letters > 0 ? (double)vowels / (double)letters : 0.0;
}

int stemma_reward(size_t n, const stemma_response *responses, double *rewards)
{
    for (size_t i = 0; i < n; i++)
        rewards[i] = share_of_vowels(responses[i].response);
    return 0;
}
