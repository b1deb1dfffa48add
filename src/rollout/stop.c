#include "rollout/stop.h"

#include <stdlib.h>
#include <string.h>

struct stm_stop_state {
    const stm_sampling *sampling;
    stm_text_stream *text; /* NULL: no stop texts */
    size_t longest;        /* bytes of the longest stop text */
    size_t searched;       /* bytes of the text in which none was found */
};

stm_status stm_stop_create(const stm_sampling *sampling, stm_stop_state **out)
{
    stm_stop_state *state;
    STM_TRY(stm_alloc(1, sizeof *state, &state));
    state->sampling = sampling;
    stm_status status = STM_OK;
    if (sampling->stop && sampling->stop->n > 0 && sampling->tokenizer)
        status = stm_text_stream_create(sampling->tokenizer, true, &state->text);
    for (size_t i = 0; state->text && i < sampling->stop->n; i++)
        state->longest = STM_MAX(state->longest, strlen(sampling->stop->items[i]));
    *out = state;
    return status;
}

void stm_stop_destroy(stm_stop_state *state)
{
    if (!state)
        return;
    stm_text_stream_destroy(state->text);
    free(state);
}

void stm_stop_reset(stm_stop_state *state)
{
    state->searched = 0;
    if (state->text)
        stm_text_stream_reset(state->text);
}

static bool is_end(const stm_sampling *sampling, int32_t id)
{
    for (size_t i = 0; i < sampling->n_end; i++)
        if (sampling->end[i] == id)
            return true;
    return false;
}

stm_status stm_stop_add(stm_stop_state *state, int32_t id, bool *stops)
{
    *stops = is_end(state->sampling, id);
    if (*stops || !state->text)
        return STM_OK;
    STM_TRY(stm_text_stream_add(state->text, id));
    size_t n;
    const char *text = stm_text_stream_text(state->text, &n);
    const size_t overlap = STM_MIN(state->searched, state->longest); /* a stop text may have begun before */
    const size_t first = STM_MIN(n, state->searched - overlap);
    for (size_t i = 0; i < state->sampling->stop->n && !*stops; i++) {
        const char *stop = state->sampling->stop->items[i];
        *stops = *stop && memmem(text + first, n - first, stop, strlen(stop)) != NULL;
    }
    state->searched = n;
    return STM_OK;
}
