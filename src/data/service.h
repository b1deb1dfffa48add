/* src/data/service.h: an external command that stays for the whole run and is asked in JSON lines.
 *
 *      asked      {"responses": [{"id": 8, ..}, {"id": 9, ..}, ..]}     one line a batch
 *      answers    {"id": 9, ..}                                         one line each, in any order
 *                 {"id": 8, ..}
 *
 * A number never comes twice, so that an answer cannot be taken for another's. The process starts with the first batch
 * (base/helper.h: beside the rank, in a group of its own, gone when the rank is). When it dies or answers nonsense, it
 * is started once more within the batch's time and asked for what it has not answered; what is left then has no answer,
 * and the next batch starts it anew. It learns that the run is over when its stdin ends. Local; one rank asks. */
#ifndef STM_DATA_SERVICE_H
#define STM_DATA_SERVICE_H

#include <jansson.h>

#include "base/base.h"

typedef struct stm_service stm_service;

/* Starts nothing yet. key: "responses". The command and key must outlive it; the caller destroys *out. timeout_s: for a
 * whole batch, starts included. Fails: STM_ERR_MEMORY. */
stm_status stm_service_create(const char *command, const char *key, double timeout_s, stm_service **out);
void stm_service_destroy(stm_service *service); /* NULL is fine */

/* questions [n]: objects, which get their "id". answers [n]: the caller gives them back; NULL where none came, and then
 * the status is STM_ERR_IO and stm_failure says why. Fails: STM_ERR_MEMORY, too. */
stm_status stm_service_ask(stm_service *service, size_t n, json_t *const *questions, json_t **answers);

/* Gives back objects [n], some of which may be NULL, and their array; NULL is fine. */
void stm_service_release(size_t n, json_t **objects);

/* {"prompt", "response", "answer" (NULL: none), and the other fields of the prompt's line (JSON; NULL: none)}. Text
 * that is not UTF-8 (a response cut inside a character) has "?" for every byte beyond ASCII. NULL: no memory. */
json_t *stm_service_question(const char *prompt, const char *response, const char *answer, const char *fields_json);
json_t *stm_service_text(const char *text); /* a JSON string, likewise */

#endif
