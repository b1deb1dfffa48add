#include "train/mask_after.h"

#include <stdlib.h>
#include <string.h>

static stm_status holds(const stm_tokenizer *tokenizer, const char *text, const int32_t *ids, size_t n, bool *found)
{
    char *decoded;
    STM_TRY(stm_tokenizer_decode(tokenizer, ids, n, false, &decoded, NULL));
    *found = strstr(decoded, text) != NULL;
    free(decoded);
    return STM_OK;
}

/* The shortest beginning of the response that holds the text, by halving. */
stm_status stm_token_after(const stm_tokenizer *tokenizer, const char *text, const stm_response *response,
                           size_t *token)
{
    bool found;
    size_t low = 0, high = response->n; /* low tokens do not hold it, high do */
    STM_TRY(holds(tokenizer, text, response->ids, response->n, &found));
    while (found && high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        bool here;
        STM_TRY(holds(tokenizer, text, response->ids, middle, &here));
        if (here)
            high = middle;
        else
            low = middle;
    }
    *token = high;
    return STM_OK;
}

stm_status stm_mask_after(const stm_tokenizer *tokenizer, const char *text, stm_batch *batch, size_t *n)
{
    *n = 0;
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            stm_response *response = &batch->groups[g].responses[i];
            size_t token;
            STM_TRY(stm_token_after(tokenizer, text, response, &token));
            if (token == response->n || !response->mask[token])
                continue;
            response->mask[token] = 0;
            ++*n;
        }
    return STM_OK;
}
