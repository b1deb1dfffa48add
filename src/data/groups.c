#include "data/groups.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_notes(stm_response_notes *notes)
{
    if (!notes)
        return;
    free(notes->sampler_logprobs);
    free(notes->twin_logprobs);
    free(notes->target_logprobs);
    free(notes->token_weights);
    free(notes->reward_parts);
    free(notes->segment);
    free(notes->answer);
    free(notes->step);
    free(notes->step_advantages);
    free(notes);
}

bool stm_response_has_loss(const stm_response *response)
{
    for (size_t k = 0; k < response->n; k++)
        if (response->mask[k])
            return true;
    return false;
}

stm_status stm_response_take_notes(stm_response *response)
{
    return response->notes ? STM_OK : stm_alloc(1, sizeof *response->notes, &response->notes);
}

void stm_response_clear(stm_response *response)
{
    free(response->ids);
    free(response->mask);
    free(response->old_logprobs);
    free(response->ref_logprobs);
    free(response->kept_mass);
    free_notes(response->notes);
    *response = (stm_response){0};
}

void stm_batch_clear(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        stm_group *group = &batch->groups[g];
        for (size_t i = 0; i < group->n_responses; i++)
            stm_response_clear(&group->responses[i]);
        free(group->scores);
        free(group->preferences);
        free(group->responses);
        free(group->prompt);
    }
    free(batch->groups);
    *batch = (stm_batch){0};
}

/* Packed form: a header, then for each group its numbers, its prompt and its responses one after another, all in this
 * machine's byte order and without gaps. The hash covers what follows the header. */
typedef struct {
    uint64_t magic, n_bytes, hash, n_groups;
} packed_header;

typedef struct {
    uint64_t n_prompt, n_responses;
    double temperature;
} packed_group;

typedef struct {
    uint64_t n;
    double reward;
    uint8_t has_reward, has_old, has_ref, has_kept, finish, unused[3];
} packed_response;

static const uint64_t MAGIC = 0x3168637461626d73; /* "smbatch1" */

/* The one walk over a batch that both sizes and fills: with `bytes` NULL it only counts. */
typedef struct {
    char *bytes;
    size_t n;
} writer;

static void put(writer *to, const void *from, size_t n_bytes)
{
    if (to->bytes && n_bytes)
        memcpy(to->bytes + to->n, from, n_bytes);
    to->n += n_bytes;
}

static void put_response(writer *to, const stm_response *response)
{
    const packed_response head = {.n = response->n,
                                  .reward = response->reward,
                                  .has_reward = response->has_reward,
                                  .has_old = response->old_logprobs != NULL,
                                  .has_ref = response->ref_logprobs != NULL,
                                  .has_kept = response->kept_mass != NULL,
                                  .finish = (uint8_t)response->finish};
    const double *columns[] = {response->old_logprobs, response->ref_logprobs, response->kept_mass};
    put(to, &head, sizeof head);
    put(to, response->ids, response->n * sizeof *response->ids);
    put(to, response->mask, response->n * sizeof *response->mask);
    for (size_t c = 0; c < 3; c++)
        if (columns[c])
            put(to, columns[c], response->n * sizeof(double));
}

static void put_batch(writer *to, const stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++) {
        const stm_group *group = &batch->groups[g];
        const packed_group head = {group->n_prompt, group->n_responses, group->temperature};
        put(to, &head, sizeof head);
        put(to, group->prompt, group->n_prompt * sizeof *group->prompt);
        for (size_t i = 0; i < group->n_responses; i++)
            put_response(to, &group->responses[i]);
    }
}

stm_status stm_batch_pack(const stm_batch *batch, char **bytes, size_t *n)
{
    writer to = {.n = sizeof(packed_header)};
    put_batch(&to, batch);
    const size_t n_bytes = to.n, n_body = n_bytes - sizeof(packed_header);
    to = (writer){.n = sizeof(packed_header)};
    STM_TRY(stm_alloc(n_bytes, 1, &to.bytes));
    put_batch(&to, batch);
    const packed_header header = {MAGIC, n_bytes, stm_hash(to.bytes + sizeof header, n_body), batch->n_groups};
    memcpy(to.bytes, &header, sizeof header);
    *bytes = to.bytes;
    *n = n_bytes;
    return STM_OK;
}

typedef struct {
    const char *bytes;
    size_t n, position;
} reader;

static stm_status damaged(const reader *from, const char *what)
{
    return stm_fail(STM_ERR_IO, "packed batch: damaged at byte %zu of %zu: %s", from->position, from->n, what);
}

/* The next count elements, in memory of their own. */
static stm_status get_array(reader *from, size_t count, size_t element_bytes, void *out)
{
    if (count > (from->n - from->position) / element_bytes)
        return damaged(from, "ends too early");
    void *memory;
    STM_TRY(stm_alloc(count, element_bytes, &memory));
    memcpy(memory, from->bytes + from->position, count * element_bytes);
    memcpy(out, &memory, sizeof memory);
    from->position += count * element_bytes;
    return STM_OK;
}

static stm_status get(reader *from, size_t n_bytes, void *out)
{
    if (n_bytes > from->n - from->position)
        return damaged(from, "ends too early");
    memcpy(out, from->bytes + from->position, n_bytes);
    from->position += n_bytes;
    return STM_OK;
}

static stm_status get_response(reader *from, stm_response *response)
{
    packed_response head;
    STM_TRY(get(from, sizeof head, &head));
    if (head.finish > STM_FINISH_LENGTH || head.has_reward > 1 || head.has_old > 1 || head.has_ref > 1 ||
        head.has_kept > 1)
        return damaged(from, "no such flags");
    response->n = head.n;
    response->reward = head.reward;
    response->has_reward = head.has_reward;
    response->finish = (stm_finish)head.finish;
    STM_TRY(get_array(from, head.n, sizeof *response->ids, &response->ids));
    STM_TRY(get_array(from, head.n, sizeof *response->mask, &response->mask));
    double **columns[] = {&response->old_logprobs, &response->ref_logprobs, &response->kept_mass};
    const uint8_t has[] = {head.has_old, head.has_ref, head.has_kept};
    for (size_t c = 0; c < 3; c++)
        if (has[c])
            STM_TRY(get_array(from, head.n, sizeof(double), columns[c]));
    return STM_OK;
}

/* What has been read counts at once, so that stm_batch_clear frees it after a failure. */
static stm_status get_group(reader *from, stm_group *group)
{
    packed_group head;
    STM_TRY(get(from, sizeof head, &head));
    if (head.n_prompt < 1 || !(head.temperature > 0) || !isfinite(head.temperature))
        return damaged(from, "no such group");
    group->n_prompt = head.n_prompt;
    group->temperature = head.temperature;
    STM_TRY(get_array(from, head.n_prompt, sizeof *group->prompt, &group->prompt));
    if (head.n_responses > (from->n - from->position) / sizeof(packed_response))
        return damaged(from, "more responses than bytes");
    STM_TRY(stm_alloc(head.n_responses, sizeof *group->responses, &group->responses));
    group->n_responses = head.n_responses;
    for (size_t i = 0; i < group->n_responses; i++)
        STM_TRY(get_response(from, &group->responses[i]));
    return STM_OK;
}

static stm_status get_batch(reader *from, stm_batch *batch)
{
    packed_header header;
    STM_TRY(get(from, sizeof header, &header));
    if (header.magic != MAGIC || header.n_bytes != from->n)
        return damaged(from, "not a packed batch, or not the whole of it");
    if (header.hash != stm_hash(from->bytes + sizeof header, from->n - sizeof header))
        return damaged(from, "its hash differs");
    if (header.n_groups > (from->n - from->position) / sizeof(packed_group))
        return damaged(from, "more groups than bytes");
    STM_TRY(stm_alloc(header.n_groups, sizeof *batch->groups, &batch->groups));
    batch->n_groups = header.n_groups;
    for (size_t g = 0; g < batch->n_groups; g++)
        STM_TRY(get_group(from, &batch->groups[g]));
    return from->position == from->n ? STM_OK : damaged(from, "bytes are left over");
}

stm_status stm_batch_unpack(const char *bytes, size_t n, stm_batch *batch)
{
    reader from = {bytes, n, 0};
    stm_batch fresh = {0};
    const stm_status status = get_batch(&from, &fresh);
    if (status == STM_OK)
        *batch = fresh;
    else
        stm_batch_clear(&fresh);
    return status;
}

void stm_unlike_tokens(size_t number, size_t n, int32_t *ids)
{
    enum { MOST = 0x3fffffff };
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)((number * 7919 + i) % MOST);
}

void stm_batch_mask_truncated(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const stm_response *response = &batch->groups[g].responses[i];
            if (response->finish == STM_FINISH_LENGTH)
                memset(response->mask, 0, response->n);
        }
}

static void round_to_single(double *x, size_t n)
{
    for (size_t k = 0; x && k < n; k++)
        x[k] = (double)(float)x[k];
}

void stm_batch_round_recorded(stm_batch *batch)
{
    for (size_t g = 0; g < batch->n_groups; g++)
        for (size_t i = 0; i < batch->groups[g].n_responses; i++) {
            const stm_response *response = &batch->groups[g].responses[i];
            round_to_single(response->old_logprobs, response->n);
            round_to_single(response->ref_logprobs, response->n);
        }
}
