#include "reward/screen.h"

#include <stdlib.h>
#include <string.h>

/* A file of prompts gives an object among the fields of its line; a caller may give its text. */
json_t *stm_screen_answer(const stm_reward_input *input)
{
    json_t *fields = input->fields_json ? json_loads(input->fields_json, 0, NULL) : NULL;
    json_t *answer = input->answer ? json_loads(input->answer, 0, NULL) : NULL;
    if (!answer)
        answer = json_incref(json_object_get(fields, "answer"));
    json_decref(fields);
    if (json_is_string(json_object_get(answer, "action")))
        return answer;
    json_decref(answer);
    return NULL;
}

bool stm_screen_numbers(const json_t *answer, const char *key, size_t n, double *out)
{
    const json_t *list = json_object_get(answer, key);
    if (!list)
        return true;
    for (size_t i = 0; i < n; i++) {
        const json_t *number = json_array_get(list, i);
        if (!json_is_number(number))
            return false;
        out[i] = json_number_value(number);
    }
    return json_array_size(list) == n;
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

stm_span stm_screen_action(stm_span text)
{
    const stm_span none = {text.at, 0};
    size_t at = stm_span_find(text, "action", 0);
    if (at == STM_NOWHERE)
        return none;
    at += strlen("action");
    while (at < text.n && strchr("'\" :", text.at[at]))
        at++;
    size_t end = at;
    while (end < text.n && is_word(text.at[end]))
        end++;
    return stm_span_cut(text, at, end);
}

bool stm_screen_place(stm_span text, double place[2])
{
    for (size_t at = stm_span_find(text, "[", 0); at != STM_NOWHERE; at = stm_span_find(text, "[", at + 1)) {
        char *end;
        const double x = strtod(text.at + at + 1, &end);
        end += strspn(end, " ");
        if (*end != ',')
            continue;
        const double y = strtod(end + 1, &end);
        end += strspn(end, " ");
        if (*end != ']')
            continue;
        place[0] = x;
        place[1] = y;
        return true;
    }
    return false;
}
