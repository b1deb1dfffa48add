/* mpi/heartbeat.h: a service thread per rank that notices when another has stopped or hangs.
 *
 *      rank 0 ──▶ rank 1 ──▶ rank 2 ──▶ rank 0        beats, once a second or oftener, over a communicator of their own
 *
 * A beat says what the sender does (base/pulse.h), since when nothing has gone on there, and how long that may be.
 * Whoever hears nothing for `timeout_s` (the process is stopped, or its node is gone), or hears that a rank hangs,
 * prints one message with rank, host, phase and step, and aborts the job.
 *
 * How long nothing may go on: compute, ten times as long as the phase has ever taken, but 120 s at least, and
 * io_timeout_s when it comes for the first time; all else (load, rewards, checkpoints, evaluation) io_timeout_s. A rank
 * that is inside MPI, or polls it, waits for others: it does so in vain when nothing has gone on on any rank, which the
 * beats tell, for twice as long; so the one that hangs is named, and not one that waits for it. What has no more to do
 * has no limit. A process that was itself stopped for a while blames nobody for that. */
#ifndef STM_MPI_HEARTBEAT_H
#define STM_MPI_HEARTBEAT_H

#include <mpi.h>

#include "base/base.h"

/* Begins with the defaults of the options. False, and nothing is watched, where MPI gives threads too few rights
 * (provided: what MPI_Init_thread has returned). Collective over MPI_COMM_WORLD. */
bool stm_heartbeat_start(int provided);

/* fault.timeout and fault.io_timeout, in seconds. Local; the same on every rank. */
void stm_heartbeat_set(double timeout_s, double io_timeout_s);

/* Before MPI_Finalize. Collective over MPI_COMM_WORLD. */
void stm_heartbeat_stop(void);

/* How long nothing may go on, in seconds. longest_s: that this phase has taken; 0: it has not ended
 * yet. Local. */
double stm_heartbeat_patience_s(int phase, bool waits, double longest_s, double io_timeout_s);

#endif
