/* src/reward/quantity.h: one answer: a formula with its unit, percent sign or currency; or a text. Local. */
#ifndef STM_REWARD_QUANTITY_H
#define STM_REWARD_QUANTITY_H

#include "reward/formula.h"

typedef struct {
    bool is_formula, is_percent;
    stm_formula formula;
    stm_span text;    /* without \text{..} around it; belongs to the text that was read */
    char unit[48];    /* "cm^2", "dollar", "apple"; "": none */
    const char *kind; /* what a known unit measures, with its power; NULL: unknown unit, or none */
    double factor;    /* in base units of that kind */
    int power;
} stm_quantity;

void stm_quantity_read(stm_span text, stm_quantity *out);

/* Units count where both have one: known ones are converted, others must be the same word. 50% equals both 50 and 0.5.
 */
bool stm_quantity_same(const stm_quantity *a, const stm_quantity *b);

#endif
