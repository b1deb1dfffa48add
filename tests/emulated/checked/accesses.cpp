/* tests/emulated/checked/accesses.cpp: who has read and written each two bytes of shared memory and of the device last.
 *
 * Two accesses of which one writes are a race where nothing orders them: of threads of a block a barrier of the block
 * or, of one warp, of the warp (an exchange is none); of blocks of a grid nothing at all, unless both are atomic.
 * Blocks have numbers in the order in which they run, and so has work that is not a kernel; a block's barriers have
 * times. */
#include "accesses.h"

#include "block.h"
#include "checks.h"
#include "memory.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <link.h>
#include <map>
#include <string>
#include <sys/mman.h>

namespace emulated
{
namespace
{
enum { CELL = 2 };

/* Whom an access stands for: of reads, and of atomic additions, there may be several that nothing orders. */
enum of_whom : uint8_t { a_thread, a_warp, a_block, a_grid };

struct access {
    uint32_t block, time, place; /* block 0: never; place: counted from the module's beginning */
    uint16_t thread;
    of_whom whom;
    uint8_t is_atomic : 1, is_under_way : 1;
};

struct cell {
    access written, read;
};

/* Cells of a range of memory; pages of them come when they are used. */
struct range {
    const char *first = nullptr;
    size_t bytes = 0;
    cell *cells = nullptr;

    bool holds(const void *at) const
    {
        return (size_t)((const char *)at - first) < bytes;
    }
};

struct module_memory {
    uintptr_t first = UINTPTR_MAX, end = 0, writable = UINTPTR_MAX, writable_end = 0;
};

std::map<const char *, range> arrays; /* by their first address */
range last_array, launch_memory, static_memory;
uint32_t first_of_grid;
module_memory module;

/* When the words of each thread's stack were written, and its registers opened, by a clock of openings. */
struct thread_registers {
    std::vector<uint32_t> written = std::vector<uint32_t>(STACK_BYTES / sizeof(uint32_t));
    uint32_t opened = 0;
};
std::vector<thread_registers> of_threads;
uint32_t n_opened;

range make_range(const void *first, size_t bytes)
{
    void *cells = mmap(nullptr, (bytes / CELL + 2) * sizeof(cell), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cells == MAP_FAILED) {
        std::perror("emulated: what accesses are noted in");
        std::abort();
    }
    return {(const char *)first, bytes, (cell *)cells};
}

int find_module(dl_phdr_info *info, size_t, void *)
{
    module_memory found;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const auto &segment = info->dlpi_phdr[i];
        const uintptr_t first = info->dlpi_addr + segment.p_vaddr, end = first + segment.p_memsz;
        if (segment.p_type != PT_LOAD)
            continue;
        found.first = std::min(found.first, first);
        found.end = std::max(found.end, end);
        if (segment.p_flags & PF_W) {
            found.writable = std::min(found.writable, first);
            found.writable_end = std::max(found.writable_end, end);
        }
    }
    if ((uintptr_t)launch_shared < found.first || (uintptr_t)launch_shared >= found.end)
        return 0;
    module = found;
    static_memory = make_range((const void *)found.writable, found.writable_end - found.writable);
    launch_memory = make_range(launch_shared, SHARED_BYTES);
    return 1;
}

uint32_t offset_of(const void *place)
{
    return (uint32_t)((uintptr_t)place - module.first);
}

/* The lines of a place, the innermost first, or its address where the tools do not say. */
std::string text_of(uint32_t place)
{
    char command[4500], line[4096];
    Dl_info info;
    std::string text;
    if (!dladdr((const void *)launch_shared, &info))
        return "?";
    std::snprintf(command, sizeof command, "addr2line -i -s -e '%s' %#x 2> /dev/null", info.dli_fname, place - 1);
    FILE *lines = popen(command, "r");
    while (lines && std::fgets(line, sizeof line, lines))
        text += (text.empty() ? "" : ", from ") + std::string(line, std::strcspn(line, " \n"));
    if (lines)
        pclose(lines);
    std::snprintf(line, sizeof line, "%#x", place);
    return text.empty() ? line : text;
}

std::string who(const access &a, uint32_t self)
{
    if (a.block != self)
        return "another block";
    return a.whom == a_thread ? "thread " + std::to_string(a.thread) : "other threads";
}

[[noreturn]] void fail_at(const void *place, const std::string &what)
{
    fail("%s (%s)", what.c_str(), place ? text_of(offset_of(place)).c_str() : "a product of cuBLAS, or a copy");
}

/* Whether an access comes before all that the thread does now. Shared memory is another for each block. */
bool is_before(const access &a, bool is_shared)
{
    const context *self = block.current;
    if (a.block != block.serial)
        return is_shared || a.block < first_of_grid;
    if (a.time < block.all.ordered_at || (a.whom == a_thread && a.thread == self->number))
        return true;
    return a.whom <= a_warp && a.thread / LANES == self->warp && a.time < block.warps[self->warp].all.ordered_at;
}

/* All that stands for, and the thread's own of now. */
of_whom join(const access &a, bool is_shared)
{
    if (is_before(a, is_shared))
        return a_thread;
    if (a.block != block.serial)
        return a_grid;
    return a.whom <= a_warp && a.thread / LANES == block.current->warp ? a_warp : std::max(a_block, a.whom);
}

struct request {
    const char *at;
    size_t bytes;
    access_kind kind;
    const void *place;
    const char *memory; /* for messages */
};

void report_race(const request &r, size_t i, const access &before, const char *what)
{
    const char *now = r.kind == read ? "reads" : r.kind == write ? "writes" : "adds to";
    fail_at(r.place, "race in " + std::string(r.memory) + ": " + now + " byte " + std::to_string(i) + ", which " +
                         who(before, block.serial) + what + "(" + text_of(before.place) +
                         ") with nothing to order them");
}

void note_in_cell(const request &r, size_t offset, bool is_shared, cell *c)
{
    const bool is_atomic = r.kind == atomic;
    access now = {block.serial, block.time, offset_of(r.place), (uint16_t)block.current->number, a_thread,
                  is_atomic,    0};
    if (c->written.is_under_way && c->written.block == block.serial)
        fail_at(r.place, "touches byte " + std::to_string(offset) + " of " + r.memory +
                             " while a copy is under way there, begun by " + who(c->written, block.serial) + " at " +
                             text_of(c->written.place));
    if (!(is_atomic && c->written.is_atomic) && !is_before(c->written, is_shared))
        report_race(r, offset, c->written, " has written ");
    if (r.kind == read) {
        now.whom = join(c->read, is_shared);
        c->read = now;
        return;
    }
    if (!is_before(c->read, is_shared))
        report_race(r, offset, c->read, " has read ");
    now.whom = is_atomic ? join(c->written, is_shared) : a_thread;
    c->written = now;
}

void note_in_range(const request &r, const range &memory, bool is_shared)
{
    const size_t first = (size_t)(r.at - memory.first);
    if (first + r.bytes > memory.bytes)
        fail_at(r.place, "out of bounds: " + std::to_string(r.bytes) + " bytes at byte " + std::to_string(first) +
                             " of " + r.memory + " of " + std::to_string(memory.bytes));
    for (size_t i = first / CELL; i <= (first + r.bytes - 1) / CELL; i++) {
        cell *c = &memory.cells[i];
        const bool is_written = is_shared ? c->written.block == block.serial : c->written.block != 0;
        if (r.kind != write && !is_written)
            fail_at(r.place,
                    "reads byte " + std::to_string(i * CELL) + " of " + r.memory + ", which nothing has written");
        note_in_cell(r, i * CELL, is_shared, c);
    }
}

const range *find_array(const void *at)
{
    if (last_array.holds(at))
        return &last_array;
    auto next = arrays.upper_bound((const char *)at);
    if (next == arrays.begin() || !(--next)->second.holds(at))
        return nullptr;
    last_array = next->second;
    return &last_array;
}

std::string nearest_array(const char *at)
{
    auto next = arrays.upper_bound(at);
    if (next == arrays.begin())
        return "no array";
    const range &array = (--next)->second;
    return std::to_string(at - array.first - (ptrdiff_t)array.bytes) + " bytes behind an array of " +
           std::to_string(array.bytes);
}

/* Work that is no kernel, which all that came before is before. */
void note_work(const void *at, size_t bytes, bool writes, const range *from, size_t from_offset)
{
    const range *array = find_array(at);
    if (bytes == 0)
        return;
    if (!array && kind_of(at) != memory_kind::device)
        return;
    const size_t first = array ? (size_t)((const char *)at - array->first) : 0;
    if (!array || first + bytes > array->bytes)
        fail_at(nullptr,
                "out of bounds: " + std::to_string(bytes) + " bytes at " +
                    (array ? "byte " + std::to_string(first) + " of an array of " + std::to_string(array->bytes)
                           : nearest_array((const char *)at)));
    for (size_t i = first / CELL; writes && i <= (first + bytes - 1) / CELL; i++) {
        const bool is_known = !from || from->cells[from_offset / CELL + i - first / CELL].written.block != 0;
        array->cells[i] = {};
        array->cells[i].written.block = is_known ? block.serial : 0;
    }
}
void note_stack_write(size_t offset, size_t bytes)
{
    const unsigned thread = block.current->number;
    if (thread >= of_threads.size() || of_threads[thread].opened == 0)
        return;
    for (size_t i = offset / 4; i <= (offset + bytes - 1) / 4; i++)
        of_threads[thread].written[i] = n_opened;
}
} // namespace

void note_access(const void *at, size_t bytes, access_kind kind, size_t alignment, const void *place)
{
    extern const char emulated_registers_begin[] __asm__("__start_emulated_registers");
    extern const char emulated_registers_end[] __asm__("__stop_emulated_registers");
    const context *self = block.current;
    const char *where = (const char *)at;
    if (self && self->is_in_kernel && (size_t)(where - self->stack) < STACK_BYTES) {
        if (kind != read)
            note_stack_write((size_t)(where - self->stack), bytes);
        return;
    }
    if (!self || !self->is_in_kernel || (where >= emulated_registers_begin && where < emulated_registers_end))
        return;
    if ((uintptr_t)at % alignment)
        fail_at(place, "unaligned: " + std::to_string(bytes) + " bytes at an address " +
                           std::to_string((uintptr_t)at % alignment) + " behind a multiple of " +
                           std::to_string(alignment));
    request r = {where, bytes, kind, place, "an array"};
    if (const range *array = find_array(at)) {
        note_in_range(r, *array, false);
    } else if (launch_memory.holds(at)) {
        r.memory = "shared memory";
        range memory = launch_memory;
        memory.bytes = block.shared_bytes;
        note_in_range(r, memory, true);
        if (kind != read)
            note_shared_write(at, bytes);
    } else if ((uintptr_t)at >= module.writable && (uintptr_t)at < module.writable_end) {
        r.memory = "static shared memory";
        note_in_range(r, static_memory, true);
    } else if (kind_of(at) == memory_kind::device) {
        fail_at(place, "out of bounds: " + std::to_string(bytes) + " bytes " + nearest_array(where));
    } else if (kind_of(at) != memory_kind::pinned && ((uintptr_t)at < module.first || (uintptr_t)at >= module.end)) {
        fail_at(place, "touches memory of the host");
    }
}

void note_array(const void *at, size_t bytes)
{
    arrays[(const char *)at] = make_range(at, bytes);
}

void note_end_of_array(const void *at)
{
    const auto found = arrays.find((const char *)at);
    if (found == arrays.end())
        return;
    munmap(found->second.cells, (found->second.bytes / CELL + 2) * sizeof(cell));
    arrays.erase(found);
    last_array = {};
}

void note_copy(void *to, const void *from, size_t bytes)
{
    block.serial++;
    note_work(from, bytes, false, nullptr, 0);
    const range *source = find_array(from);
    const range known = source ? *source : range();
    note_work(to, bytes, true, source ? &known : nullptr, source ? (size_t)((const char *)from - known.first) : 0);
}

void note_set(void *to, size_t bytes)
{
    block.serial++;
    note_work(to, bytes, true, nullptr, 0);
}

void note_product_reads(const void *at, size_t bytes)
{
    note_work(at, bytes, false, nullptr, 0);
    const range *array = find_array(at);
    const size_t first = array ? (size_t)((const char *)at - array->first) : 0;
    for (size_t i = first / CELL; array && bytes > 0 && i <= (first + bytes - 1) / CELL; i++)
        if (array->cells[i].written.block == 0)
            fail_at(nullptr, "reads byte " + std::to_string(i * CELL) + " of an array, which nothing has written");
}

void note_product_writes(const void *at, size_t bytes)
{
    note_work(at, bytes, true, nullptr, 0);
}

void note_read(const void *at, size_t bytes, const void *place)
{
    note_access(at, bytes, read, bytes, place);
}

void note_copy_begun(void *to, const void *place)
{
    note_access(to, 16, write, 16, place);
    if (!launch_memory.holds(to))
        fail_at(place, "a copy goes elsewhere than to the launch's shared memory");
    for (size_t i = 0; i < 16 / CELL; i++)
        launch_memory.cells[(size_t)((char *)to - launch_memory.first) / CELL + i].written.is_under_way = 1;
}

void note_copy_ended(void *to, const void *place)
{
    for (size_t i = 0; i < 16 / CELL; i++)
        launch_memory.cells[(size_t)((char *)to - launch_memory.first) / CELL + i].written.is_under_way = 0;
    note_access(to, 16, write, 16, place);
}

void note_registers_opened()
{
    of_threads.resize(std::max(of_threads.size(), (size_t)block.n_threads));
    of_threads[block.current->number].opened = ++n_opened;
}

void check_registers(const void *at, size_t bytes)
{
    const context *self = block.current;
    const size_t first = (size_t)((const char *)at - self->stack) / 4;
    const thread_registers &own = of_threads[self->number];
    for (size_t i = first; i < first + bytes / 4; i++)
        if (own.written[i] >= own.opened)
            fail_at(self->place, "registers of a product were written since stm_wgmma_begin");
}

void note_grid()
{
    if (module.end == 0)
        dl_iterate_phdr(find_module, nullptr);
    first_of_grid = block.serial + 1;
}
} // namespace emulated
