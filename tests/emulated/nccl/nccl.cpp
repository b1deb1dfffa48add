/* tests/emulated/nccl/nccl.cpp: a library that stands in for NCCL's (mpi/nccl.h) among ranks on emulated devices
 * (emulated/cuda_runtime.h), by MPI's messages on MPI_COMM_WORLD.
 *
 * A group goes when its turn on the stream comes and the host lets the device work; its end is awaited by whoever asks
 * for it. What NCCL asks of its users is checked, and a little more that stemma promises: each rank has a device of its
 * own; a group has one communicator and one stream, and at most one message with a peer each way; the k-th group of a
 * rank meets the k-th of its peers, and sizes agree; ranks are connected in a group that carries next to nothing, for
 * that waits in the call. The environment's STEMMA_EMULATED_NCCL makes it fail: "init" when it is opened, "lost" some
 * groups later, as if the network had gone. */
#define OMPI_SKIP_MPICXX
#define MPICH_SKIP_MPICXX
#include <mpi.h>

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

enum { SUCCESS, SYSTEM_ERROR = 2, INVALID_USAGE = 5, REMOTE_ERROR = 6, INT8 = 0 };
enum { TAG_INIT = 32001, TAG_GROUP, TAG_CONNECT };
enum { WORDS = 64, GROUPS_BEFORE_LOSS = 4 };

struct member {
    int world, rank;
    char device[32];
};

struct ncclComm {
    std::vector<member> members; /* by rank */
    std::vector<bool> is_connected;
    int rank;
    size_t n_groups, n_through;
    bool is_broken_off;
};

struct unique_id {
    char internal[128];
};

struct message {
    bool sends;
    char *device; /* the array */
    size_t n;
    int peer;
};

/* Before the bytes of a message. */
struct heading {
    size_t group, n;
};

struct group_under_way {
    ncclComm *comm;
    size_t number;
    std::vector<message> messages;
    std::vector<std::vector<char>> rooms; /* heading and bytes */
    std::vector<MPI_Request> requests;
};

static std::string last_error;
static int depth;
static ncclComm *group_comm;
static cudaStream_t group_stream;
static std::vector<message> group_messages;

static bool fails(const char *how)
{
    const char *asked = std::getenv("STEMMA_EMULATED_NCCL");
    return asked && std::string(asked) == how;
}

static int refuse(int error, const std::string &why)
{
    last_error = why;
    return error;
}

[[noreturn]] static void stop(const std::string &why)
{
    std::fprintf(stderr, "emulated NCCL: %s\n", why.c_str());
    MPI_Abort(MPI_COMM_WORLD, 1);
    std::abort();
}

extern "C" {
int ncclGetVersion(int *version)
{
    *version = 22809;
    return SUCCESS;
}

const char *ncclGetErrorString(int error)
{
    return error == REMOTE_ERROR ? "remote process exited or there was a network error" : "unhandled system error";
}

const char *ncclGetLastError(ncclComm *)
{
    return last_error.c_str();
}

/* The world's rank of the one that all others come to. */
int ncclGetUniqueId(unique_id *id)
{
    MPI_Comm_rank(MPI_COMM_WORLD, (int *)(void *)id->internal);
    return SUCCESS;
}

int ncclCommInitRank(ncclComm **out, int n_ranks, unique_id id, int rank)
{
    member mine = {};
    int device, root;
    std::memcpy(&root, id.internal, sizeof root);
    if (fails("init"))
        return refuse(SYSTEM_ERROR, "no interface found");
    std::vector<member> members((size_t)n_ranks);
    MPI_Comm_rank(MPI_COMM_WORLD, &mine.world);
    mine.rank = rank;
    cudaGetDevice(&device);
    cudaDeviceGetPCIBusId(mine.device, sizeof mine.device, device);
    const int bytes = (int)(members.size() * sizeof mine);
    if (rank == 0) {
        members[0] = mine;
        for (int i = 1; i < n_ranks; i++) {
            MPI_Recv(&mine, sizeof mine, MPI_BYTE, MPI_ANY_SOURCE, TAG_INIT, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
            members[(size_t)mine.rank] = mine;
        }
        for (int i = 1; i < n_ranks; i++)
            MPI_Send(members.data(), bytes, MPI_BYTE, members[(size_t)i].world, TAG_INIT, MPI_COMM_WORLD);
    } else {
        MPI_Send(&mine, sizeof mine, MPI_BYTE, root, TAG_INIT, MPI_COMM_WORLD);
        MPI_Recv(members.data(), bytes, MPI_BYTE, root, TAG_INIT, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
    for (size_t i = 0; i < members.size(); i++)
        for (size_t j = 0; j < i; j++)
            if (std::string(members[i].device) == members[j].device)
                return refuse(INVALID_USAGE, "two ranks have one GPU");
    *out = new ncclComm{members, std::vector<bool>(members.size()), rank, 0, 0, false};
    return SUCCESS;
}

int ncclCommDestroy(ncclComm *comm)
{
    if (comm->n_through < comm->n_groups)
        stop("a communicator is destroyed while its messages are under way");
    delete comm;
    return SUCCESS;
}

int ncclCommAbort(ncclComm *comm)
{
    comm->is_broken_off = true; /* what is queued may still look at it */
    return SUCCESS;
}

int ncclCommGetAsyncError(ncclComm *comm, int *error)
{
    *error = fails("lost") && comm->n_groups > GROUPS_BEFORE_LOSS ? REMOTE_ERROR : SUCCESS;
    return SUCCESS;
}

int ncclGroupStart(void)
{
    depth++;
    return SUCCESS;
}
}

/* Groups */

static int add(bool sends, void *bytes, size_t n, int type, int peer, ncclComm *comm, cudaStream_t stream)
{
    if (depth != 1 || type != INT8 || n == 0 || peer == comm->rank || peer < 0 || (size_t)peer >= comm->members.size())
        return refuse(INVALID_USAGE, "a message that no group of this program has");
    if (!group_messages.empty() && (comm != group_comm || stream != group_stream))
        return refuse(INVALID_USAGE, "a group of two communicators, or on two streams");
    for (const message &m : group_messages)
        if (m.peer == peer && m.sends == sends)
            return refuse(INVALID_USAGE, "two messages of a group for one peer");
    group_comm = comm;
    group_stream = stream;
    group_messages.push_back({sends, (char *)bytes, n, peer});
    return SUCCESS;
}

static void leave(group_under_way &g)
{
    for (const message &m : g.messages) {
        std::vector<char> room(sizeof(heading) + m.n);
        const heading first = {g.number, m.n};
        std::memcpy(room.data(), &first, sizeof first);
        if (m.sends)
            std::memcpy(room.data() + sizeof first, m.device, m.n);
        g.rooms.push_back(std::move(room));
    }
    for (size_t i = 0; i < g.messages.size(); i++) {
        MPI_Request request;
        const int peer = g.comm->members[(size_t)g.messages[i].peer].world, n = (int)g.rooms[i].size();
        if (g.messages[i].sends)
            MPI_Isend(g.rooms[i].data(), n, MPI_BYTE, peer, TAG_GROUP, MPI_COMM_WORLD, &request);
        else
            MPI_Irecv(g.rooms[i].data(), n, MPI_BYTE, peer, TAG_GROUP, MPI_COMM_WORLD, &request);
        g.requests.push_back(request);
    }
}

static void arrive(group_under_way &g)
{
    for (size_t i = 0; i < g.messages.size(); i++) {
        heading first;
        std::memcpy(&first, g.rooms[i].data(), sizeof first);
        if (first.group != g.number || first.n != g.messages[i].n)
            stop("group " + std::to_string(g.number) + " met group " + std::to_string(first.group) + ", " +
                 std::to_string(g.messages[i].n) + " bytes expected, found " + std::to_string(first.n));
        if (!g.messages[i].sends)
            std::memcpy(g.messages[i].device, g.rooms[i].data() + sizeof first, first.n);
    }
    g.comm->n_through++;
}

/* Whether it is through; asked by the device as it works. */
static bool try_group(group_under_way &g)
{
    int all = 0;
    if (g.comm->is_broken_off)
        return true;
    if (fails("lost") && g.number >= GROUPS_BEFORE_LOSS)
        return false;
    if (g.rooms.empty())
        leave(g);
    MPI_Testall((int)g.requests.size(), g.requests.data(), &all, MPI_STATUSES_IGNORE);
    if (all)
        arrive(g);
    return all;
}

/* Both ranks are in the call, as NCCL connects them. */
static void connect(int peer)
{
    if (group_comm->is_connected[(size_t)peer])
        return;
    const int world = group_comm->members[(size_t)peer].world;
    for (const message &m : group_messages)
        if (m.n > WORDS)
            stop("ranks are connected in a group that carries a bucket");
    MPI_Sendrecv(nullptr, 0, MPI_BYTE, world, TAG_CONNECT, nullptr, 0, MPI_BYTE, world, TAG_CONNECT, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
    group_comm->is_connected[(size_t)peer] = true;
}

extern "C" {
int ncclSend(const void *bytes, size_t n, int type, int peer, ncclComm *comm, cudaStream_t stream)
{
    return add(true, const_cast<void *>(bytes), n, type, peer, comm, stream);
}

int ncclRecv(void *bytes, size_t n, int type, int peer, ncclComm *comm, cudaStream_t stream)
{
    return add(false, bytes, n, type, peer, comm, stream);
}

int ncclGroupEnd(void)
{
    if (depth != 1)
        return refuse(INVALID_USAGE, "no group, or one in another");
    depth = 0;
    if (group_messages.empty())
        return SUCCESS;
    for (const message &m : group_messages)
        connect(m.peer);
    const auto g = std::make_shared<group_under_way>();
    g->comm = group_comm;
    g->number = group_comm->n_groups++;
    g->messages = std::move(group_messages);
    group_messages.clear();
    return emulated::queue_until(group_stream, [g] { return try_group(*g); }) == cudaSuccess ? SUCCESS : INVALID_USAGE;
}
}
