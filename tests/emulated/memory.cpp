/* tests/emulated/memory.cpp: memory of the device and of the host, and the driver's calls for ranges of addresses. */
#include "memory.h"

#include "checks.h"

#include <cuda.h>
#include <cuda_runtime.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace emulated
{
namespace
{
const size_t PAGE = 4096, GRANULE = (size_t)2 << 20, DEVICE_ADDRESSES = (size_t)64 << 30;

typedef std::map<const char *, size_t> pieces; /* bytes, by their first address */

/* One range, from which arrays are cut one behind the other, so that one call opens all of them; and what is mapped
 * into ranges of their own. */
char *device;
size_t device_used;
pieces arrays, mappings, reservations, pinned;
unsigned n_at_work;

bool is_open_to_host()
{
    const char *direct = std::getenv("STEMMA_GPU_MPI");
    return direct && std::string(direct) == "1";
}

bool holds(const pieces &all, const void *at)
{
    auto next = all.upper_bound((const char *)at);
    if (next == all.begin())
        return false;
    const auto &[first, bytes] = *--next;
    return (const char *)at < first + bytes;
}

void protect(const void *at, size_t bytes, bool open)
{
    if (bytes > 0 && mprotect((void *)at, bytes, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
        std::perror("emulated: mprotect");
        std::abort();
    }
}

void protect_all(bool open)
{
    protect(device, device_used, open);
    for (const auto &[at, bytes] : mappings)
        protect(at, bytes, open);
}

size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

char *reserve(size_t bytes)
{
    void *at = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? nullptr : (char *)at;
}

/* Addresses are not used twice: who holds on to an array that is gone finds nothing there. */
void *take_of_device(const size_t asked)
{
    const size_t bytes = round_up(asked, PAGE);
    if (!device)
        device = reserve(DEVICE_ADDRESSES);
    if (!device || device_used + bytes > DEVICE_ADDRESSES || device_bytes_taken() + bytes > device_bytes())
        return nullptr;
    char *at = device + device_used;
    device_used += bytes;
    arrays[at] = bytes;
    note_array(at, asked);
    protect(at, bytes, n_at_work > 0 || is_open_to_host());
    return at;
}
} // namespace

memory_kind kind_of(const void *at)
{
    if (holds(arrays, at) || holds(reservations, at))
        return memory_kind::device;
    return holds(pinned, at) ? memory_kind::pinned : memory_kind::pageable;
}

size_t device_bytes()
{
    const char *mib = std::getenv("STEMMA_EMULATED_MIB");
    return (mib ? std::strtoull(mib, nullptr, 10) : 8192) << 20;
}

size_t device_bytes_taken()
{
    size_t bytes = 0;
    for (const auto &[at, n] : arrays)
        bytes += n;
    for (const auto &[at, n] : mappings)
        bytes += n;
    return bytes;
}

void *take(size_t bytes, memory_kind kind)
{
    if (kind == memory_kind::device)
        return take_of_device(bytes);
    void *at = std::aligned_alloc(256, round_up(bytes, 256));
    if (at)
        pinned[(const char *)at] = bytes;
    return at;
}

void give_back(void *what)
{
    if (const auto found = arrays.find((const char *)what); found != arrays.end()) {
        (void)madvise(what, found->second, MADV_DONTNEED);
        arrays.erase(found);
        note_end_of_array(what);
    } else if (what) {
        pinned.erase((const char *)what);
        std::free(what);
    }
}

at_work::at_work()
{
    if (n_at_work++ == 0 && !is_open_to_host())
        protect_all(true);
}

at_work::~at_work()
{
    if (--n_at_work == 0 && !is_open_to_host())
        protect_all(false);
}
} // namespace emulated

using namespace emulated;

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute, CUdevice)
{
    *value = 0;
    return CUDA_SUCCESS;
}

CUresult cuMemGetAllocationGranularity(size_t *bytes, const CUmemAllocationProp *, CUmemAllocationGranularity_flags)
{
    *bytes = GRANULE;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr *at, size_t bytes, size_t, CUdeviceptr, unsigned long long)
{
    char *range = bytes % GRANULE == 0 ? reserve(bytes) : nullptr;
    if (!range)
        return bytes % GRANULE == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_ERROR_INVALID_VALUE;
    reservations[range] = bytes;
    *at = (CUdeviceptr)range;
    return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr at, size_t bytes)
{
    const auto found = reservations.find((const char *)at);
    const auto mapped = mappings.lower_bound((const char *)at);
    if (found == reservations.end() || found->second != bytes ||
        (mapped != mappings.end() && mapped->first < (const char *)at + bytes))
        return CUDA_ERROR_INVALID_VALUE;
    reservations.erase(found);
    munmap((void *)at, bytes);
    return CUDA_SUCCESS;
}

/* A handle is the number of bytes. */
CUresult cuMemCreate(CUmemGenericAllocationHandle *memory, size_t bytes, const CUmemAllocationProp *,
                     unsigned long long)
{
    *memory = bytes;
    if (device_bytes_taken() + bytes > device_bytes())
        return CUDA_ERROR_OUT_OF_MEMORY;
    return bytes > 0 && bytes % GRANULE == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle)
{
    return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr at, size_t bytes, size_t, CUmemGenericAllocationHandle memory, unsigned long long)
{
    const auto next = mappings.lower_bound((const char *)at);
    if (memory != bytes || !holds(reservations, (void *)at) || holds(mappings, (void *)at) ||
        (next != mappings.end() && next->first < (const char *)at + bytes))
        return CUDA_ERROR_INVALID_VALUE;
    mappings[(const char *)at] = bytes;
    note_array((const void *)at, bytes);
    return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr at, size_t bytes)
{
    const auto found = mappings.find((const char *)at);
    if (found == mappings.end() || found->second != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    protect(found->first, bytes, false);
    (void)madvise((void *)at, bytes, MADV_DONTNEED);
    mappings.erase(found);
    note_end_of_array((const void *)at);
    return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *, size_t)
{
    const auto found = mappings.find((const char *)at);
    if (found == mappings.end() || found->second != bytes)
        return CUDA_ERROR_INVALID_VALUE;
    protect(found->first, bytes, n_at_work > 0 || is_open_to_host());
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult *found)
{
    static const std::map<std::string, void *> all = {
        {"cuDeviceGetAttribute", (void *)cuDeviceGetAttribute},
        {"cuMemGetAllocationGranularity", (void *)cuMemGetAllocationGranularity},
        {"cuMemAddressReserve", (void *)cuMemAddressReserve},
        {"cuMemAddressFree", (void *)cuMemAddressFree},
        {"cuMemCreate", (void *)cuMemCreate},
        {"cuMemRelease", (void *)cuMemRelease},
        {"cuMemMap", (void *)cuMemMap},
        {"cuMemUnmap", (void *)cuMemUnmap},
        {"cuMemSetAccess", (void *)cuMemSetAccess}};
    const auto entry = all.find(name);
    *function = entry == all.end() ? nullptr : entry->second;
    *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
