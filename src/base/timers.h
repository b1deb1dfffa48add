/* src/base/timers.h: where a rank's time goes, by phase.
 *
 * Phases nest: a push stops the clock of the phase around it, a pop starts it again, so each phase has its self time
 * and the sum over phases is the wall time since init exactly. What lies in no phase is `other`. One thread per
 * stm_timers (the main one); no allocation, about 50 ns a push. A NULL stm_timers * is fine everywhere and counts
 * nothing. Placement must not read these clocks (DESIGN.md, section 1). Local, all of it. */
#ifndef STM_BASE_TIMERS_H
#define STM_BASE_TIMERS_H

#include "base/status.h"

/* X(NAME, "name in the table", "what it holds") */
#define STM_PHASES(X)                                                                                                  \
    X(ROLLOUT, "rollout", "sampling")                                                                                  \
    X(REWARD, "reward", "rewards, external commands too")                                                              \
    X(REFERENCE, "reference", "log-probs of the reference and of the start of the update, no gradient")                \
    X(UPDATE, "update", "forward and backward")                                                                        \
    X(KV, "wait for kv", "prefix K,V that another rank of the team computes")                                          \
    X(DKV, "wait for dkv", "dK,dV of prefixes, summed over the ranks of the team")                                     \
    X(STAGE, "wait for stages", "rows from or for the neighbouring stages of the pipeline")                            \
    X(GRADIENTS, "gradient sums", "of the sums of gradients over ranks, what backward did not hide")                   \
    X(OPTIMIZER, "optimizer", "clipping and AdamW")                                                                    \
    X(GATHER, "parameter gather", "updated parameters to all ranks, and those of the reference and back")              \
    X(CHECKPOINT, "checkpoint", "saving and verifying")                                                                \
    X(EVAL, "eval", "evaluation")                                                                                      \
    X(WAIT, "wait", "for other ranks")                                                                                 \
    X(OTHER, "other", "start-up, data, metrics")

typedef enum {
#define STM_PHASE_ENUM(NAME, name, what) STM_PHASE_##NAME,
    STM_PHASES(STM_PHASE_ENUM)
#undef STM_PHASE_ENUM
        STM_N_PHASES
} stm_phase;

enum { STM_TIMERS_DEPTH = 16 }; /* deepest nesting */

typedef struct {
    double self_s[STM_N_PHASES]; /* up to `last_s` */
    double begin_s, last_s;      /* monotonic clock: at init, at the latest push or pop */
    int depth;
    stm_phase open[STM_TIMERS_DEPTH];
} stm_timers;

void stm_timers_init(stm_timers *timers);
void stm_timers_push(stm_timers *timers, stm_phase phase);

/* Ends the innermost open `phase`, and whatever an early return left open inside it. */
void stm_timers_pop(stm_timers *timers, stm_phase phase);

double stm_timers_self_s(const stm_timers *timers, stm_phase phase); /* up to now; 0 for NULL */
double stm_timers_wall_s(const stm_timers *timers);                  /* since init */

const char *stm_phase_name(stm_phase phase);

#endif
