#include "metrics/record.h"

#include <math.h>
#include <string.h>
#include <sys/resource.h>

static const stm_record_field fields[] = {
#define FIELD(name, kind, unit, meaning) {#name, unit, meaning, STM_FIELD_##kind, offsetof(stm_record, name)},
    STM_RECORD_FIELDS(FIELD)
#undef FIELD
};
enum { N_FIELDS = sizeof fields / sizeof *fields };

const stm_record_field *stm_record_fields(size_t *n)
{
    *n = N_FIELDS;
    return fields;
}

const stm_record_field *stm_record_field_find(const char *name)
{
    for (size_t i = 0; i < N_FIELDS; i++)
        if (strcmp(fields[i].name, name) == 0)
            return fields + i;
    return NULL;
}

double *stm_record_at(stm_record *record, const stm_record_field *field)
{
    return (double *)((char *)record + field->offset);
}

double stm_record_get(const stm_record *record, const stm_record_field *field)
{
    return *(const double *)((const char *)record + field->offset);
}

void stm_record_init(stm_record *record)
{
    for (size_t i = 0; i < N_FIELDS; i++)
        *stm_record_at(record, fields + i) = NAN;
}

static double rate(double count, double per)
{
    return per > 0 ? count / per : NAN;
}

void stm_record_rates(stm_record *record)
{
    record->sharing_factor = rate(record->tokens_repeated, record->tokens_computed);
    record->tokens_per_s = rate(record->tokens_computed, record->update_s);
    record->rollout_tokens_per_s = rate(record->tokens_sampled, record->rollout_s);
    record->exposed_share = rate(record->wait_kv_s + record->wait_dkv_s + record->wait_stages_s +
                                     record->wait_gradients_s + record->wait_parameters_s + record->wait_ranks_s,
                                 record->step_s);
}

double stm_memory_peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? 1024.0 * (double)usage.ru_maxrss : NAN; /* Linux counts in KiB */
}
