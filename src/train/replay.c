#include "train/replay.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "rollout/rollout.h"

struct stm_replay {
    const stm_options *options;
    size_t n_rewards;
    stm_batch queues; /* a group for each prompt, its oldest success first; parts of rewards are in their notes */
    stm_batch news;   /* of this step, in the same form: a group for each that was noted */
    size_t n_room, n_news_room;
};

stm_status stm_replay_create(const stm_options *options, stm_replay **out)
{
    STM_TRY(stm_alloc(1, sizeof **out, out));
    **out = (stm_replay){.options = options, .n_rewards = options->reward.n};
    return STM_OK;
}

void stm_replay_destroy(stm_replay *replay)
{
    if (!replay)
        return;
    stm_batch_clear(&replay->queues);
    stm_batch_clear(&replay->news);
    free(replay);
}

bool stm_replay_is_needed(const stm_options *options, const stm_group *group)
{
    const double n = (double)group->n_responses;
    double mean = 0, squares = 0;
    for (size_t i = 0; i < group->n_responses; i++) {
        if (!group->responses[i].has_reward)
            return false;
        mean += group->responses[i].reward / n;
    }
    for (size_t i = 0; i < group->n_responses; i++)
        squares += (group->responses[i].reward - mean) * (group->responses[i].reward - mean);
    return n > 0 && sqrt(squares / n) < options->replay.max_std && mean < options->replay.max_mean;
}

/* The prompt's queue, or NULL. */
static stm_group *find(const stm_replay *replay, const stm_group *group)
{
    const size_t bytes = group->n_prompt * sizeof *group->prompt;
    for (size_t q = 0; q < replay->queues.n_groups; q++) {
        stm_group *queue = &replay->queues.groups[q];
        if (queue->n_prompt == group->n_prompt && memcmp(queue->prompt, group->prompt, bytes) == 0)
            return queue;
    }
    return NULL;
}

/* Copies */

static stm_status copy_array(const void *from, size_t n, size_t element_bytes, void *out)
{
    void *copy;
    if (!from)
        return STM_OK;
    STM_TRY(stm_alloc(n, element_bytes, &copy));
    if (n > 0)
        memcpy(copy, from, n * element_bytes);
    memcpy(out, &copy, sizeof copy);
    return STM_OK;
}

static stm_status set_parts(const double *parts, size_t n, stm_response *response)
{
    STM_TRY(stm_response_take_notes(response));
    free(response->notes->reward_parts);
    response->notes->reward_parts = NULL;
    response->notes->n_parts = n;
    return copy_array(parts, n, sizeof *parts, &response->notes->reward_parts);
}

/* What was sampled and judged; not what a reference says of it, for that may be another by then. What has been copied
 * before a failure is cleared with `to`. */
static stm_status copy_response(const stm_response *from, stm_response *to)
{
    *to = (stm_response){.n = from->n, .reward = from->reward, .has_reward = from->has_reward, .finish = from->finish};
    STM_TRY(copy_array(from->ids, from->n, sizeof *from->ids, &to->ids));
    STM_TRY(copy_array(from->mask, from->n, sizeof *from->mask, &to->mask));
    STM_TRY(copy_array(from->old_logprobs, from->n, sizeof(double), &to->old_logprobs));
    return copy_array(from->kept_mass, from->n, sizeof(double), &to->kept_mass);
}

/* Helping */

stm_status stm_replay_help(const stm_replay *replay, uint64_t step, size_t slot, stm_group *group, double *parts,
                           bool *helped)
{
    const stm_options *o = replay->options;
    const stm_group *queue = find(replay, group);
    *helped = queue && stm_replay_is_needed(o, group);
    if (!*helped)
        return STM_OK;
    const stm_random_key key = {
        .seed = (uint64_t)o->run.seed, .use = STM_RANDOM_REPLAY, .step = step, .slot = (uint32_t)slot};
    const size_t drawn = (size_t)(stm_random_uniform(&key) * (double)queue->n_responses);
    const stm_response *success = &queue->responses[drawn];
    stm_response *place = &group->responses[0];
    const bool with_parts = place->notes && place->notes->reward_parts;
    stm_response_clear(place);
    STM_TRY(copy_response(success, place));
    memcpy(parts, success->notes->reward_parts, replay->n_rewards * sizeof *parts);
    return with_parts ? set_parts(parts, replay->n_rewards, place) : STM_OK;
}

/* Storing */

static stm_status begin_group(const stm_group *like, size_t n_responses, stm_batch *batch, size_t *n_room)
{
    STM_TRY(stm_reserve(&batch->groups, n_room, batch->n_groups + 1, sizeof *batch->groups));
    stm_group *group = &batch->groups[batch->n_groups++];
    *group = (stm_group){.n_prompt = like->n_prompt, .temperature = like->temperature};
    STM_TRY(copy_array(like->prompt, like->n_prompt, sizeof *like->prompt, &group->prompt));
    return stm_alloc(n_responses, sizeof *group->responses, &group->responses);
}

static bool is_success(const stm_replay *replay, const stm_response *response)
{
    return response->has_reward && response->reward > replay->options->replay.min_reward;
}

stm_status stm_replay_note(stm_replay *replay, const stm_group *group, size_t first, const double *parts)
{
    STM_TRY(begin_group(group, group->n_responses, &replay->news, &replay->n_news_room));
    stm_group *news = &replay->news.groups[replay->news.n_groups - 1];
    for (size_t i = first; i < group->n_responses; i++) {
        if (!is_success(replay, &group->responses[i]))
            continue;
        stm_response *copy = &news->responses[news->n_responses++];
        STM_TRY(copy_response(&group->responses[i], copy));
        STM_TRY(set_parts(parts + i * replay->n_rewards, replay->n_rewards, copy));
    }
    return STM_OK;
}

/* The oldest gives way where the queue is full. */
static void push(stm_group *queue, size_t size, const stm_response *response)
{
    if (queue->n_responses == size) {
        stm_response_clear(&queue->responses[0]);
        memmove(queue->responses, queue->responses + 1, (size - 1) * sizeof *queue->responses);
        queue->n_responses--;
    }
    queue->responses[queue->n_responses++] = *response;
}

static stm_status settle_group(stm_replay *replay, stm_group *news)
{
    const size_t size = (size_t)replay->options->replay.size;
    stm_group *queue = find(replay, news);
    if (!queue && news->n_responses > 0) {
        STM_TRY(begin_group(news, size, &replay->queues, &replay->n_room));
        queue = &replay->queues.groups[replay->queues.n_groups - 1];
    }
    for (size_t i = 0; i < news->n_responses; i++)
        push(queue, size, &news->responses[i]);
    news->n_responses = 0; /* they are the queue's now */
    return STM_OK;
}

stm_status stm_replay_settle(stm_replay *replay)
{
    stm_status status = STM_OK;
    for (size_t g = 0; status == STM_OK && g < replay->news.n_groups; g++)
        status = settle_group(replay, &replay->news.groups[g]);
    stm_batch_clear(&replay->news);
    replay->n_news_room = 0;
    return status;
}

size_t stm_replay_bytes(const stm_options *o, const stm_prompts *prompts, size_t n_prompt)
{
    enum { PIECES = 6, PIECE_BYTES = 16 }; /* of memory, and what the C library adds to each */
    if (o->replay.size == 0)
        return 0;
    const size_t taken = (size_t)o->run.steps * (size_t)o->rollout.prompts_per_step;
    const size_t n_queues = STM_MAX(prompts ? STM_MIN(prompts->n, taken) : taken, (size_t)1);
    const size_t successes = (taken + n_queues - 1) / n_queues * (size_t)o->rollout.group_size;
    const size_t token_bytes = sizeof(int32_t) + sizeof(uint8_t) + 2 * sizeof(double);
    const size_t response_bytes = sizeof(stm_response) + sizeof(stm_response_notes) + o->reward.n * sizeof(double) +
                                  stm_sampling_longest(o) * token_bytes + PIECES * PIECE_BYTES;
    size_t n_ids = prompts ? 0 : n_queues * n_prompt;
    for (size_t i = 0; prompts && i < n_queues; i++)
        n_ids += prompts->items[i].n;
    return n_queues * (sizeof(stm_group) + STM_MIN((size_t)o->replay.size, successes) * response_bytes) +
           n_ids * sizeof(int32_t);
}

size_t stm_replay_count(const stm_replay *replay)
{
    size_t n = 0;
    for (size_t q = 0; q < replay->queues.n_groups; q++)
        n += replay->queues.groups[q].n_responses;
    return n;
}

/* Bytes: the number of rewards, the parts of all responses, then the queues as a packed batch. */

stm_status stm_replay_save(const stm_replay *replay, stm_kept *out)
{
    char *bytes = NULL;
    size_t n;
    if (replay->queues.n_groups == 0)
        return STM_OK;
    STM_TRY(stm_kept_put_number(out, replay->n_rewards));
    STM_TRY(stm_kept_put_number(out, stm_replay_count(replay)));
    for (size_t q = 0; q < replay->queues.n_groups; q++)
        for (size_t i = 0; i < replay->queues.groups[q].n_responses; i++)
            STM_TRY(stm_kept_put(out, replay->queues.groups[q].responses[i].notes->reward_parts,
                                 replay->n_rewards * sizeof(double)));
    STM_TRY(stm_batch_pack(&replay->queues, &bytes, &n));
    const stm_status status = stm_kept_put(out, bytes, n);
    free(bytes);
    return status;
}

/* A queue as it was, or its newest where there is room for fewer now. */
static stm_status take_queue(stm_replay *replay, stm_group *from, stm_kept_reader *parts)
{
    double *of_one;
    stm_status status = STM_OK;
    STM_TRY(stm_alloc(replay->n_rewards, sizeof *of_one, &of_one));
    for (size_t i = 0; status == STM_OK && i < from->n_responses; i++)
        if (stm_kept_take(parts, of_one, replay->n_rewards * sizeof *of_one))
            status = set_parts(of_one, replay->n_rewards, &from->responses[i]);
        else
            status = stm_fail(STM_ERR_INPUT, "parts of rewards are missing");
    free(of_one);
    return status == STM_OK ? settle_group(replay, from) : status;
}

static stm_status take_queues(stm_replay *replay, stm_kept_reader reader)
{
    uint64_t n_rewards, n;
    stm_kept_reader parts;
    stm_batch batch = {0};
    if (!stm_kept_take_number(&reader, &n_rewards) || !stm_kept_take_number(&reader, &n))
        return stm_fail(STM_ERR_INPUT, "they end too early");
    if (n_rewards != replay->n_rewards)
        return STM_OK;
    if (n > reader.n || !stm_kept_take_part(&reader, n * n_rewards * sizeof(double), &parts))
        return stm_fail(STM_ERR_INPUT, "they end too early");
    stm_status status = stm_batch_unpack(reader.at, reader.n, &batch);
    for (size_t g = 0; status == STM_OK && g < batch.n_groups; g++)
        status = take_queue(replay, &batch.groups[g], &parts);
    if (status == STM_OK && parts.n > 0)
        status = stm_fail(STM_ERR_INPUT, "parts of rewards are left over");
    stm_batch_clear(&batch);
    return status;
}

stm_status stm_replay_restore(stm_replay *replay, const char *where, const stm_kept *kept)
{
    if (kept->n == 0)
        return STM_OK;
    const stm_status status = take_queues(replay, (stm_kept_reader){kept->bytes, kept->n});
    if (status == STM_OK || status == STM_ERR_MEMORY)
        return status;
    return stm_fail_context(STM_ERR_INPUT, "%s: /kept/replay: found other bytes than a replay buffer", where);
}
