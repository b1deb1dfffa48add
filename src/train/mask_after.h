/* src/train/mask_after.h: no loss on the token that decides whether to think (AdaCoT, arXiv:2505.11896): the first one
 * behind a text such as <think>. Local. */
#ifndef STM_TRAIN_MASK_AFTER_H
#define STM_TRAIN_MASK_AFTER_H

#include "data/groups.h"
#include "text/tokenizer.h"

/* The first token behind the first `text` in the decoded response, special tokens included; response->n: there is none.
 * A token that holds the end of `text` and more belongs to it. Fails: STM_ERR_MEMORY. */
stm_status stm_token_after(const stm_tokenizer *tokenizer, const char *text, const stm_response *response,
                           size_t *token);

/* Takes the loss from that token of each response; *n: of how many. Fails: STM_ERR_MEMORY. */
stm_status stm_mask_after(const stm_tokenizer *tokenizer, const char *text, stm_batch *batch, size_t *n);

#endif
