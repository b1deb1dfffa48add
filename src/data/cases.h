/* src/data/cases.h: groups with recorded log-probs, as they stand in a file of cases for objectives.
 *
 * {"inputs": {NAME: {"groups": [GROUP, ..]}} | "groups": {NAME: GROUP}, "defaults": {..}, "cases": [{"name",
 * "objective", "options": {..}, "input": NAME | "groups": [NAME, ..]}, ..]}. A group holds a list for each response:
 * "logp", "mask", and, absent or null where there are none, "old", "ref", "sampler", "twin", "target", "token_weights",
 * "segment", "answer", "step", "step_advantage"; a value for each response: "rewards", "clusters", "off_policy",
 * "origin" ("policy" or else); "reward_parts" [parts][responses]; "pref" [responses][responses]; "scores"
 * [responses][budgets][summaries]. Other keys are left alone. Local, all of it. */
#ifndef STM_DATA_CASES_H
#define STM_DATA_CASES_H

#include <jansson.h>

#include "data/groups.h"

/* The groups of a case: ids and prompts are absent. *logp: of all tokens of all responses in their order. The caller
 * clears the batch and frees *logp, also after a failure. Fails: STM_ERR_INPUT, "inputs.main[0].old[2]: found ..,
 * expected .."; STM_ERR_MEMORY. */
stm_status stm_case_read(const json_t *document, const json_t *one, stm_batch *batch, double **logp);

#endif
