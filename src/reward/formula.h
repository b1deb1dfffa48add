/* src/reward/formula.h: the value of a formula in plain or LaTeX notation: numbers, + - * / ^ !, brackets, \frac,
 * \sqrt, mixed numbers, \pi, e, the usual functions, and letters as unknowns. Two formulas are held equal when they
 * have the same value at STM_FORMULA_POINTS choices of the unknowns, some of them negative. Local. */
#ifndef STM_REWARD_FORMULA_H
#define STM_REWARD_FORMULA_H

#include "reward/span.h"

enum { STM_FORMULA_POINTS = 4 };

typedef struct {
    double at[STM_FORMULA_POINTS]; /* NaN where it has no value */
} stm_formula;

/* False: it is none that is read here, or has numbers of more digits than a double holds. */
bool stm_formula_read(stm_span text, stm_formula *out);

/* Whole numbers must agree exactly, others up to rounding, at every point where either has a value. */
bool stm_formula_same(const stm_formula *a, const stm_formula *b);

#endif
