/* src/group/transport.h: what carries messages among all ranks of a stage: its gradients, and the weights that each has
 * updated (parallel.transport).
 *
 *      mpi    from the GPU where the library is CUDA-aware, and then the host waits for the GPU before it offers a
 *             bucket; else through the host's memory, piece by piece
 *      nccl   from GPU to GPU, behind what computes there, and the host waits for nothing but the end
 *
 * Both move the same parts, which the program adds in its own order (mpi/reduction.h): the bits are the same. `auto`
 * takes NCCL where it can be had, but between nodes a CUDA-aware MPI: a site builds that for its network, while NCCL
 * falls back to sockets where its plugin for that network is not there. NCCL keeps buffers of its own on the GPU, which
 * no plan counts: some hundred MiB (github.com/NVIDIA/nccl, issue 964: 544 to 688 on four A100). */
#ifndef STM_GROUP_TRANSPORT_H
#define STM_GROUP_TRANSPORT_H

#include "backend/backend.h"
#include "config/options.h"
#include "mpi/grid.h"

/* Sets the grid's stage_reach and carrier, after stm_grid_take_reach of the backend's (group/device_reach.h). device:
 * what this rank computes on. The caller closes, before that reach. Collective over the world, same status everywhere.
 * Fails: STM_ERR_INPUT (nccl was asked for and cannot be had), STM_ERR_MEMORY, STM_ERR_DEVICE. */
stm_status stm_transport_open(stm_transport asked, const stm_backend *backend, stm_stream *stream,
                              const stm_device *device, stm_grid *grid);
void stm_transport_close(stm_grid *grid); /* one that is not open is fine. Collective over the stage */

#endif
