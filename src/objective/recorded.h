/* src/objective/recorded.h: objectives on log-probs that a file of cases holds (data/cases.h), without a model. Local.
 */
#ifndef STM_OBJECTIVE_RECORDED_H
#define STM_OBJECTIVE_RECORDED_H

#include <jansson.h>

#include "config/options.h"

/* The options of a case, into initialised ones: its objective, for grpo the document's "defaults", then its own
 * "options", each a key of the section objective. Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_recorded_options(const json_t *document, const json_t *one, stm_options *options);

/* Adds "loss" and "dlogp" [group][response][token] of a case to the object `entry`; what is not finite is null. Fails:
 * STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_recorded_evaluate(const json_t *document, const json_t *one, json_t *entry);

#endif
