/* `stemma generate`: samples a group of responses to each prompt, in the form that score and grad read. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "cli/session.h"
#include "data/groups_file.h"
#include "data/prompts.h"
#include "group/memory.h"
#include "rollout/rollout.h"
#include "train/environment.h"

static stm_status read_prompts(const stm_options *options, const stm_session *session, stm_prompts *prompts)
{
    const char *path = options->arguments.items[1];
    const stm_prompts_use use = {.overlong = options->data.overlong,
                                 .max_prompt_tokens = (size_t)options->data.max_prompt_tokens,
                                 .max_new_tokens = stm_sampling_longest(options),
                                 .has_environment = *options->rollout.environment,
                                 .end_token = -1};
    char *text;
    size_t n;
    STM_TRY(stm_broadcast_file(session->comm, path, &text, &n));
    const stm_status status = stm_prompts_read(path, text, n, &session->text, &use, prompts);
    free(text);
    return stm_agree_on(session->comm, status);
}

static stm_status make_batch(const stm_prompts *prompts, stm_batch *batch)
{
    STM_TRY(stm_alloc(prompts->n, sizeof *batch->groups, &batch->groups));
    for (; batch->n_groups < prompts->n; batch->n_groups++) {
        const stm_prompt *prompt = &prompts->items[batch->n_groups];
        stm_group *group = &batch->groups[batch->n_groups];
        STM_TRY(stm_alloc(prompt->n, sizeof *group->prompt, &group->prompt));
        memcpy(group->prompt, prompt->ids, prompt->n * sizeof *prompt->ids);
        group->n_prompt = prompt->n;
    }
    return STM_OK;
}

/* One group as a line, with decoded responses where there is a tokenizer. */
static stm_status write_group(const stm_tokenizer *tokenizer, const stm_group *group, const char *fields,
                              stm_string *out)
{
    char **texts;
    STM_TRY(stm_alloc(group->n_responses, sizeof *texts, &texts));
    stm_status status = STM_OK;
    for (size_t i = 0; tokenizer && i < group->n_responses && status == STM_OK; i++)
        status = stm_tokenizer_decode(tokenizer, group->responses[i].ids, group->responses[i].n, true, &texts[i], NULL);
    if (status == STM_OK)
        status = stm_group_write(group, fields, tokenizer ? (const char *const *)(void *)texts : NULL, out);
    for (size_t i = 0; i < group->n_responses; i++)
        free(texts[i]);
    free(texts);
    return status;
}

static stm_status write_file(const char *path, const stm_tokenizer *tokenizer, const stm_batch *batch,
                             const stm_prompts *prompts)
{
    stm_string text = {0};
    stm_status status = STM_OK;
    for (size_t g = 0; g < batch->n_groups && status == STM_OK; g++)
        status = write_group(tokenizer, &batch->groups[g], prompts->items[g].fields_json, &text);
    if (status == STM_OK)
        status = stm_write_file(path, text.bytes, text.n);
    free(text.bytes);
    return status;
}

/* Responses to the batch's prompts. */
static stm_status sample(const stm_options *options, const stm_session *session, const stm_prompts *prompts,
                         stm_batch *batch, stm_rollout_counts *counts)
{
    stm_environment *environment;
    stm_sampling sampling;
    STM_TRY(stm_agree(&session->grid, stm_environment_create(options, &session->text, &environment)));
    stm_sampling_init(options, session->model, session->tokenizer, STM_RANDOM_GENERATE, 0, &sampling);
    stm_environment_join(environment, prompts, NULL, &sampling);
    const stm_status status = stm_rollout(session->engine, session->model, &session->grid, &sampling, batch, counts);
    if (status == STM_OK && *stm_environment_complaint(environment))
        fprintf(stderr, "stemma: warning: %s\n", stm_environment_complaint(environment));
    stm_environment_destroy(environment);
    return status;
}

static stm_status generate(const stm_options *options, const stm_session *session, const stm_prompts *prompts,
                           stm_batch *batch)
{
    const stm_grid *grid = &session->grid;
    const double start = stm_now_s();
    stm_rollout_counts counts;
    STM_TRY(sample(options, session, prompts, batch, &counts));
    const double seconds = stm_now_s() - start;
    if (grid->rank == 0)
        printf("%zu prompts, %.0f of their tokens computed; %.0f tokens sampled in %.2f s: %.0f a second\n",
               batch->n_groups, counts.prompt_rows, counts.tokens, seconds, counts.tokens / seconds);
    stm_session_print_memory(session);
    return stm_agree(grid, grid->rank == 0 ? write_file(options->out, session->tokenizer, batch, prompts) : STM_OK);
}

static stm_status open_all(const stm_options *options, stm_session *session, stm_prompts *prompts)
{
    STM_TRY(stm_agree_on(MPI_COMM_WORLD, stm_check_output(options->out)));
    STM_TRY(stm_session_open(options, options->arguments.items[0], NULL, session));
    if (session->idle)
        return STM_OK;
    if (options->rollout.stop.n > 0 && !session->tokenizer)
        return stm_fail(STM_ERR_INPUT,
                        "rollout.stop: found %zu texts, expected none for a model without tokenizer.json",
                        options->rollout.stop.n);
    STM_TRY(stm_environment_check(options, &session->text));
    STM_TRY(read_prompts(options, session, prompts));
    STM_TRY(stm_session_grid(session, options, prompts->n));
    return stm_session_engine(session, options);
}

/* For the memory that is planned. */
static stm_status expect(const stm_options *options, const stm_session *session, stm_batch *batch)
{
    stm_sampling sampling;
    stm_sampling_init(options, session->model, session->tokenizer, STM_RANDOM_GENERATE, 0, &sampling);
    do
        STM_TRY(stm_agree(&session->grid,
                          stm_rollout_expect(session->engine, session->model, &session->grid, &sampling, batch)));
    while (stm_memory_spare(session->engine, &session->grid, options));
    return stm_memory_check(session->engine, &session->grid, options);
}

stm_status stm_cli_generate(const stm_options *options)
{
    stm_session session = {0};
    stm_prompts prompts = {0};
    stm_batch batch = {0};
    stm_status status = open_all(options, &session, &prompts);
    if (status == STM_OK && !session.idle)
        status = stm_agree(&session.grid, make_batch(&prompts, &batch));
    if (status == STM_OK && !session.idle)
        status = expect(options, &session, &batch);
    const bool works = status == STM_OK && !session.idle;
    if (works && options->check)
        stm_session_print_layout(&session);
    else if (works)
        status = generate(options, &session, &prompts, &batch);
    stm_batch_clear(&batch);
    stm_prompts_clear(&prompts);
    stm_session_close(&session);
    return status;
}
