/* mpi/nccl.h: messages between GPUs that NVIDIA's NCCL carries. Its library is looked for when the program runs, so
 * that neither builds nor machines need it.
 *
 * Of it sends and receives alone are used, in groups: the sums are the program's own, in its own order. Nothing here
 * knows of CUDA but that queues are handles (cudaStream_t, as a pointer) and that each process has chosen its device.
 * By the main thread alone. */
#ifndef STM_MPI_NCCL_H
#define STM_MPI_NCCL_H

#include "mpi/grid.h"
#include "mpi/reach.h"

typedef struct stm_nccl stm_nccl;

/* Opens the library: the file that the environment's STEMMA_NCCL names, else libnccl.so.2 where the loader finds it. It
 * stays open until the program ends. Local. Fails: STM_ERR_INPUT, with what the loader says. */
stm_status stm_nccl_find(void);
const char *stm_nccl_version(void); /* "2.28.9", after find */

/* NCCL's communicator of the ranks of comm, which all have found the library. The caller closes *out. Collective over
 * comm; same status everywhere, but that a rank which has failed ends the job where others do not come to say how they
 * fared. Fails: STM_ERR_DEVICE. */
stm_status stm_nccl_open(MPI_Comm comm, stm_nccl **out);

/* Once nothing is under way; after a failure of exchange or check what is under way is broken off. NULL is fine. */
void stm_nccl_close(stm_nccl *nccl);

/* Queues one group: what this rank sends and receives, which every peer does with a group, too. The first between two
 * ranks waits for both, to connect them. Local else. Fails: STM_ERR_DEVICE. */
stm_status stm_nccl_exchange(stm_nccl *nccl, void *queue, const stm_group_message *messages, size_t n);

/* Whether what is under way has failed by now (a peer, the network). Local. Fails: STM_ERR_DEVICE. */
stm_status stm_nccl_check(stm_nccl *nccl);

#endif
