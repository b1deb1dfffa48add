#include "metrics/waits.h"

static const struct {
    stm_phase phase;
    size_t mean, max; /* offsets of the fields in stm_record */
} kinds[] = {
#define KIND(PHASE, name)                                                                                              \
    {                                                                                                                  \
        STM_PHASE_##PHASE, offsetof(stm_record, name##_s), offsetof(stm_record, name##_max_s)                          \
    }
    KIND(KV, wait_kv),
    KIND(DKV, wait_dkv),
    KIND(STAGE, wait_stages),
    KIND(GRADIENTS, wait_gradients),
    KIND(GATHER, wait_parameters),
    KIND(WAIT, wait_ranks),
#undef KIND
};
_Static_assert(sizeof kinds / sizeof *kinds == STM_N_WAITS, "one row for each kind of wait");

stm_waits stm_waits_of(const stm_timers *timers)
{
    stm_waits waits;
    for (size_t i = 0; i < STM_N_WAITS; i++)
        waits.s[i] = stm_timers_self_s(timers, kinds[i].phase);
    return waits;
}

stm_waits stm_waits_between(const stm_waits *a, const stm_waits *b)
{
    stm_waits between;
    for (size_t i = 0; i < STM_N_WAITS; i++)
        between.s[i] = b->s[i] - a->s[i];
    return between;
}

void stm_waits_report(MPI_Comm comm, const stm_waits *waits, stm_record *record)
{
    stm_waits sum = *waits, most = *waits;
    int n_ranks;
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    stm_all_reduce(comm, sum.s, STM_N_WAITS, sizeof *sum.s);
    stm_all_reduce_max(comm, most.s, STM_N_WAITS);
    for (size_t i = 0; i < STM_N_WAITS; i++) {
        *(double *)((char *)record + kinds[i].mean) = sum.s[i] / n_ranks;
        *(double *)((char *)record + kinds[i].max) = most.s[i];
    }
}
