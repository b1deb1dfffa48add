#include "mpi/nccl.h"

#include <dlfcn.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_S = 60 };

/* What is used of nccl.h, as in NCCL 2.7 and later. */
enum { SUCCESS = 0, IN_PROGRESS = 7, INT8 = 0 };
typedef struct communicator communicator;
typedef struct {
    char internal[128];
} unique_id;

static struct {
    void *file; /* NULL: not found yet */
    int (*get_version)(int *version);
    int (*get_unique_id)(unique_id *id);
    int (*comm_init_rank)(communicator **comm, int n_ranks, unique_id id, int rank);
    int (*comm_destroy)(communicator *comm);
    int (*comm_abort)(communicator *comm);
    int (*comm_get_async_error)(communicator *comm, int *error);
    const char *(*get_error_string)(int error);
    const char *(*get_last_error)(communicator *comm); /* since 2.13; else NULL */
    int (*group_start)(void);
    int (*group_end)(void);
    int (*send)(const void *bytes, size_t n, int type, int peer, communicator *comm, void *queue);
    int (*recv)(void *bytes, size_t n, int type, int peer, communicator *comm, void *queue);
    char version[32];
} library;

struct stm_nccl {
    communicator *comm;
    bool has_failed;
};

/* The library */

static stm_status find_symbols(void *file)
{
    const struct {
        const char *name;
        void *to;
        bool may_lack;
    } symbols[] = {{"ncclGetVersion", &library.get_version, false},
                   {"ncclGetUniqueId", &library.get_unique_id, false},
                   {"ncclCommInitRank", &library.comm_init_rank, false},
                   {"ncclCommDestroy", &library.comm_destroy, false},
                   {"ncclCommAbort", &library.comm_abort, false},
                   {"ncclCommGetAsyncError", &library.comm_get_async_error, false},
                   {"ncclGetErrorString", &library.get_error_string, false},
                   {"ncclGetLastError", &library.get_last_error, true},
                   {"ncclGroupStart", &library.group_start, false},
                   {"ncclGroupEnd", &library.group_end, false},
                   {"ncclSend", &library.send, false},
                   {"ncclRecv", &library.recv, false}};
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *at = dlsym(file, symbols[i].name);
        if (!at && !symbols[i].may_lack)
            return stm_fail(STM_ERR_INPUT, "NCCL: the library has no %s; expected version 2.7 or later",
                            symbols[i].name);
        memcpy(symbols[i].to, &at, sizeof at);
    }
    return STM_OK;
}

stm_status stm_nccl_find(void)
{
    const char *named = getenv("STEMMA_NCCL");
    int code = 0;
    if (library.file)
        return STM_OK;
    void *file = dlopen(named && *named ? named : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!file)
        return stm_fail(STM_ERR_INPUT, "NCCL: the library cannot be opened: %s (STEMMA_NCCL names its file)",
                        dlerror());
    STM_TRY(find_symbols(file));
    if (library.get_version(&code) != SUCCESS)
        return stm_fail(STM_ERR_INPUT, "NCCL: the library does not tell its version");
    const int unit = code >= 10000 ? 100 : 10; /* 20900 is 2.9.0, and 2804 is 2.8.4 */
    snprintf(library.version, sizeof library.version, "%d.%d.%d", code / unit / 100, code / 100 % unit, code % 100);
    library.file = file;
    return STM_OK;
}

const char *stm_nccl_version(void)
{
    return library.version;
}

/* Stores what NCCL says. */
static stm_status failed(int error, const char *call)
{
    const char *more = library.get_last_error ? library.get_last_error(NULL) : NULL;
    const bool has_more = more && *more;
    return stm_fail(STM_ERR_DEVICE,
                    "NCCL: %s: %s%s%s (NCCL_DEBUG=WARN says more; parallel.transport=mpi does without it)", call,
                    library.get_error_string(error), has_more ? ": " : "", has_more ? more : "");
}

#define TRY_NCCL(call)                                                                                                 \
    do {                                                                                                               \
        const int error_ = (call);                                                                                     \
        if (error_ != SUCCESS)                                                                                         \
            return failed(error_, #call);                                                                              \
    } while (0)

/* Communicators */

/* As stm_agree_on. NCCL may keep a rank waiting for one that has failed: that one does not wait for long. */
static stm_status agree_in_time(MPI_Comm comm, stm_status mine)
{
    const double start_s = stm_now_s();
    int all_are_here = 0;
    MPI_Request request;
    STM_MPI(MPI_Ibarrier(comm, &request));
    for (;;) {
        STM_MPI(MPI_Test(&request, &all_are_here, MPI_STATUS_IGNORE));
        if (all_are_here)
            return stm_agree_on(comm, mine);
        if (mine != STM_OK && stm_now_s() - start_s > PATIENCE_S)
            stm_abort_in_team(comm);
        sched_yield();
    }
}

static stm_status join(MPI_Comm comm, const unique_id *id, communicator **out)
{
    int rank, n_ranks;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    STM_MPI(MPI_Comm_size(comm, &n_ranks));
    const int error = library.comm_init_rank(out, n_ranks, *id, rank);
    return error == SUCCESS ? STM_OK : failed(error, "ncclCommInitRank");
}

static stm_status begin_id(MPI_Comm comm, unique_id *id)
{
    int rank;
    STM_MPI(MPI_Comm_rank(comm, &rank));
    const int error = rank == 0 ? library.get_unique_id(id) : SUCCESS;
    return error == SUCCESS ? STM_OK : failed(error, "ncclGetUniqueId");
}

stm_status stm_nccl_open(MPI_Comm comm, stm_nccl **out)
{
    unique_id id = {{0}};
    stm_nccl *nccl = NULL;
    stm_status status = stm_alloc(1, sizeof *nccl, &nccl);
    *out = NULL;
    if (status == STM_OK) {
        *nccl = (stm_nccl){0};
        status = begin_id(comm, &id);
    }
    status = stm_agree_on(comm, status);
    if (status == STM_OK) {
        stm_broadcast(comm, 0, &id, sizeof id);
        status = join(comm, &id, &nccl->comm);
        if (status != STM_OK)
            nccl->comm = NULL;
        status = agree_in_time(comm, status);
    }
    if (status != STM_OK) {
        if (nccl)
            nccl->has_failed = true; /* here or elsewhere */
        stm_nccl_close(nccl);
        return status;
    }
    *out = nccl;
    return STM_OK;
}

void stm_nccl_close(stm_nccl *nccl)
{
    if (!nccl)
        return;
    if (nccl->comm)
        (void)(nccl->has_failed ? library.comm_abort : library.comm_destroy)(nccl->comm);
    free(nccl);
}

/* Messages */

static stm_status queue_group(const stm_nccl *nccl, void *queue, const stm_group_message *messages, size_t n)
{
    int error = SUCCESS;
    TRY_NCCL(library.group_start());
    for (size_t i = 0; i < n && error == SUCCESS; i++) {
        const stm_group_message *m = &messages[i];
        error = m->sends ? library.send(m->bytes, m->n, INT8, m->peer, nccl->comm, queue)
                         : library.recv(m->bytes, m->n, INT8, m->peer, nccl->comm, queue);
    }
    if (error != SUCCESS)
        return failed(error, "ncclSend or ncclRecv");
    TRY_NCCL(library.group_end());
    return STM_OK;
}

stm_status stm_nccl_exchange(stm_nccl *nccl, void *queue, const stm_group_message *messages, size_t n)
{
    const stm_status status = queue_group(nccl, queue, messages, n);
    nccl->has_failed = nccl->has_failed || status != STM_OK;
    return status;
}

stm_status stm_nccl_check(stm_nccl *nccl)
{
    int found = SUCCESS;
    int error = library.comm_get_async_error(nccl->comm, &found);
    error = error == SUCCESS ? found : error;
    if (error == SUCCESS || error == IN_PROGRESS)
        return STM_OK;
    nccl->has_failed = true;
    return failed(error, "messages on their way");
}
