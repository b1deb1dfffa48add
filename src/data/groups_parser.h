/* src/data/groups_parser.h: what the files that read a line of GROUPS.jsonl share; for src/data alone. Local. */
#ifndef STM_DATA_GROUPS_PARSER_H
#define STM_DATA_GROUPS_PARSER_H

#include "data/groups_file.h"

/* One line under way. */
typedef struct {
    const stm_text_context *context;
    const stm_json_lines *lines;
    unsigned use;
    size_t i; /* of the response */
} stm_groups_parser;

enum { STM_PLACE_BYTES = 64 };

/* "responses[3].mask" */
const char *stm_groups_place(const stm_groups_parser *p, const char *key, char where[STM_PLACE_BYTES]);

/* An array of one number for each of n ids, NULL where there is none. Fails: STM_ERR_INPUT. */
stm_status stm_groups_column(const stm_groups_parser *p, const json_t *object, const char *key, size_t n,
                             json_t **array);

/* What the numbers of such an array are, and how one is taken over; take: false for one that is none of these. */
typedef struct {
    size_t bytes;
    bool (*take)(const json_t *value, void *to);
    const char *expected; /* for messages */
} stm_groups_number;

/* The array's numbers in memory that the caller frees, *(type **)out; NULL where there is no array. Fails:
 * STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_groups_numbers(const stm_groups_parser *p, const json_t *object, const char *key, size_t n,
                              const stm_groups_number *kind, void *out);
stm_status stm_groups_doubles(const stm_groups_parser *p, const json_t *object, const char *key, size_t n,
                              double **out);

/* Fails: STM_ERR_INPUT "responses[3].mask[1]: found 2, expected 0 or 1". */
stm_status stm_groups_wrong(const stm_groups_parser *p, const char *key, size_t k, const json_t *value,
                            const char *expected);

/* What only some objectives read of a response; and of a group, whose responses are read: the scores of its members.
 * Fails: STM_ERR_INPUT, STM_ERR_MEMORY. */
stm_status stm_groups_notes(const stm_groups_parser *p, const json_t *object, stm_response *response);
stm_status stm_groups_scores(const stm_groups_parser *p, const json_t *object, stm_group *group);

#endif
