/* src/reward/tokenize_13a.h: the tokens of mteval-v13a, which BLEU compares: punctuation and symbols stand alone, a
 * full stop or comma only where no digits are on both sides, a dash behind a digit. Local. */
#ifndef STM_REWARD_TOKENIZE_13A_H
#define STM_REWARD_TOKENIZE_13A_H

#include "base/base.h"
#include "reward/span.h"

/* *out: the tokens with white space between them, freed by the caller. Fails: STM_ERR_MEMORY. */
stm_status stm_tokenize_13a(stm_span text, char **out);

#endif
