/* A reward of the user's own in a shared object: inputs/plugin/stemma_reward.h says what it must hold. */
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "inputs/plugin/stemma_reward.h"
#include "reward/kinds.h"

typedef int reward_function(size_t n, const stemma_response *responses, double *rewards);

typedef struct {
    void *library;
    reward_function *judge;
} plugin;

static void end(void *state)
{
    plugin *p = state;
    if (p && p->library)
        dlclose(p->library);
    free(p);
}

static stm_status load(const stm_reward_item *item, const char *path, plugin *p)
{
    p->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!p->library)
        return stm_fail(STM_ERR_INPUT, "%s.library: found no shared object: %s", item->where, dlerror());
    const int *version = dlsym(p->library, "stemma_reward_version");
    if (!version)
        return stm_fail(STM_ERR_INPUT,
                        "%s.library: %s: found no stemma_reward_version, expected STEMMA_REWARD in its source",
                        item->where, path);
    if (*version != STEMMA_REWARD_VERSION)
        return stm_fail(STM_ERR_INPUT, "%s.library: %s: found version %d of stemma_reward.h, expected %d", item->where,
                        path, *version, STEMMA_REWARD_VERSION);
    void *symbol = dlsym(p->library, "stemma_reward");
    if (!symbol)
        return stm_fail(STM_ERR_INPUT, "%s.library: %s: found no function stemma_reward", item->where, path);
    memcpy(&p->judge, &symbol, sizeof p->judge); /* ISO C casts no object to a function */
    return STM_OK;
}

static stm_status begin(stm_reward_item *item)
{
    char *path;
    const char *name = item->options.library;
    if (name[0] == 0)
        return stm_fail(STM_ERR_INPUT, "%s.library: missing; the reward \"plugin\" needs one", item->where);
    STM_TRY(stm_alloc(1, sizeof(plugin), &item->state));
    STM_TRY(stm_format(&path, "%s%s", strchr(name, '/') ? "" : "./", name)); /* a bare name would be sought elsewhere */
    const stm_status status = load(item, path, item->state);
    free(path);
    return status;
}

static stm_status score(const stm_reward_item *item, size_t n, const stm_reward_input *inputs, double *out,
                        stm_complaint *complaint)
{
    const plugin *p = item->state;
    stemma_response *responses;
    STM_TRY(stm_alloc(n, sizeof *responses, &responses));
    for (size_t r = 0; r < n; r++) {
        out[r] = NAN;
        responses[r] = (stemma_response){.prompt = inputs[r].prompt_text,
                                         .response = inputs[r].text,
                                         .answer = inputs[r].answer,
                                         .line = inputs[r].fields_json,
                                         .n_tokens = inputs[r].n_tokens,
                                         .group = inputs[r].group,
                                         .truncated = inputs[r].truncated};
    }
    const int code = p->judge(n, responses, out);
    free(responses);
    for (size_t r = 0; r < n; r++) {
        if (code != 0)
            out[r] = stm_complain(complaint, "%s: %s returned %d", item->where, item->options.library, code);
        else if (!isfinite(out[r]))
            out[r] = stm_complain(complaint, "%s: %s gave %g to response %zu, expected a finite number", item->where,
                                  item->options.library, out[r], r);
    }
    return STM_OK;
}

const stm_reward_kind stm_reward_plugin = {
    .name = "plugin",
    .reads = STM_READS_LIBRARY,
    .needs_answer = stm_reward_never,
    .begin = begin,
    .end = end,
    .all = score,
};
