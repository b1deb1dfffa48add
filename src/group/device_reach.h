/* src/group/device_reach.h: how messages get at what a backend computes with (mpi/reach.h), where that has memory of
 * its own: through a queue beside the one that computes, or by an MPI that takes the device's addresses. */
#ifndef STM_GROUP_DEVICE_REACH_H
#define STM_GROUP_DEVICE_REACH_H

#include "backend/backend.h"
#include "mpi/reach.h"

/* *out: NULL where the backend's memory is the host's. stream: whose work comes before messages; it must outlive *out,
 * which the caller closes. Collective over MPI_COMM_WORLD, whose ranks all send alike; same status everywhere. Fails:
 * STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_device_reach_open(const stm_backend *backend, stm_stream *stream, const stm_reach **out);

/* The same by NCCL, which stm_nccl_find has found: for sums and gatherings among the ranks of comm, each with a device
 * of its own; through a queue beside the first two. Collective over comm, same status there. Fails: STM_ERR_MEMORY,
 * STM_ERR_DEVICE. */
stm_status stm_device_reach_open_nccl(const stm_backend *backend, stm_stream *stream, MPI_Comm comm,
                                      const stm_reach **out);

void stm_device_reach_close(const stm_reach *reach); /* NULL is fine. Collective where the opening was */

/* Memory of the host that one courier takes on such a backend, at most. Local. */
size_t stm_device_reach_courier_bytes(const stm_backend *backend);

#endif
