/* tests/emulated/wgmma.cpp: products of a warpgroup, from the text of the PTX ISA, section "Asynchronous Warpgroup
 * Level Matrix Multiply-Accumulate Instructions", with whatever the hardware leaves undefined as an error.
 *
 * A warp does its quarter of a product, rows 16 w to 16 w + 15, by itself. Operands are read when the product begins,
 * and must be the same when it is waited for; till then, and till stm_wgmma_hold, d holds a NaN that nobody may touch.
 */
#include "block.h"
#include "checks.h"

#include <cuda_bf16.h>

#include "cuda/wgmma.cuh"

#include <deque>

namespace emulated
{
namespace
{
enum { ROWS = 16, DEPTH = 16 };
const unsigned WARPS_OF_GROUP = 4, THREADS_OF_GROUP = 128, GRANULE = 16;
const uint32_t UNDER_WAY = 0x7fc0dead; /* a NaN */

struct product {
    product_shape shape;
    unsigned registers[LANES][4];
    const unsigned *registers_at[LANES];
    bool is_read, is_compared;
    uint16_t a[ROWS][DEPTH];
    std::vector<uint16_t> b; /* [n][DEPTH] */
    unsigned n_lanes;        /* that have yet to wait for it */
};

/* Of a warp; products have numbers from 0 in each lane. */
struct warp_products {
    unsigned first = 0; /* the number of the first that is kept */
    std::deque<product> kept;
};

/* What products leave in d, which this thread may not see yet. */
struct sum {
    float *d;
    std::vector<float> values;
    unsigned last; /* product that adds to it */
};

struct lane_products {
    unsigned n_begun = 0, n_ended = 0;
    std::vector<unsigned> group_ends; /* products before the end of each group */
    bool is_open = false;
    std::vector<sum> sums;
};

/* 16 bytes of shared memory: who wrote them, and how often that thread had told the tensor cores before. */
struct granule {
    unsigned block, writer, n_tells;
};

std::vector<warp_products> of_warps;
std::vector<lane_products> of_lanes;
std::vector<std::vector<product_shape>> of_groups; /* what its warps have begun */
granule granules[SHARED_BYTES / GRANULE];

lane_products &mine()
{
    return of_lanes[block.current->number];
}

/* Bits of a word that describes an operand. */
size_t bytes_at(uint64_t word, int bit)
{
    return (size_t)(word >> bit & 0x3fff) << 4;
}

void check_operand(uint64_t word, int width, bool turned)
{
    const uint64_t fields = (uint64_t)0x3fff | (uint64_t)0x3fff << 16 | (uint64_t)0x3fff << 32 | (uint64_t)3 << 62;
    const size_t start = bytes_at(word, 0), leading = bytes_at(word, 16), stride = bytes_at(word, 32);
    if (word >> 62 != 1 || word & ~fields)
        fail("an operand's description is %#llx; expected the swizzle of 128 bytes, and no base offset",
             (unsigned long long)word);
    if (start % 1024 >= 128)
        fail("an operand begins in row %zu of eight; expected the first, or a base offset would be needed",
             start % 1024 / 128);
    if (!turned && start % 128 + 2 * DEPTH > 128)
        fail("an operand's 16 columns begin at byte %zu of a row of 128", start % 128);
    if (turned && start % 128 + 2 * (width < 64 ? width : 64) > 128)
        fail("an operand's columns begin at byte %zu of a row of 128", start % 128);
    if (stride % 1024 || (turned && width > 64 && leading % 1024))
        fail("an operand's strides are %zu and %zu bytes; expected multiples of 1024, which the swizzle repeats after",
             leading, stride);
    if (((turned || width > 8) && stride == 0) || (turned && width > 64 && leading == 0))
        fail("an operand's parts all lie at one place");
}

/* Where element [mn, k] lies: Swizzle<3, 4, 3> of the canonical layouts, whose T is 8 numbers, 16 bytes:
 *   major in k:  ((8, m), (T, 2)) : ((8 T, stride), (1, T))
 *   major in mn: ((T, 8, m), (8, k)) : ((1, T, leading), (8 T, stride)) */
size_t address_of(uint64_t word, bool turned, int mn, int k)
{
    const size_t leading = bytes_at(word, 16), stride = bytes_at(word, 32), m = (size_t)mn, l = (size_t)k;
    const size_t at = bytes_at(word, 0) + (turned ? m % 64 * 2 + m / 64 * leading + l % 8 * 128 + l / 8 * stride
                                                  : m % 8 * 128 + m / 8 * stride + l * 2);
    return at ^ (at >> 7 & 7) << 4;
}

void check_told(size_t at)
{
    const granule &g = granules[at / GRANULE];
    if (g.block != block.serial)
        return;
    const context *writer = block.contexts[g.writer];
    if (writer->tells.size() <= g.n_tells)
        fail("a product reads byte %zu of shared memory, which thread %u has written without stm_tell_tensor_cores", at,
             g.writer);
    if (writer->warp != block.current->warp && writer->tells[g.n_tells] == block.all.generation)
        fail("a product reads byte %zu of shared memory, which thread %u has written with no barrier since", at,
             g.writer);
}

uint16_t element(uint64_t word, bool turned, int mn, int k)
{
    const size_t at = address_of(word, turned, mn, k);
    uint16_t x;
    if (at + sizeof x > block.shared_bytes)
        fail("a product reads byte %zu of shared memory, of which it has %zu", at, block.shared_bytes);
    note_read(launch_shared + at, sizeof x, block.current->place);
    std::memcpy(&x, launch_shared + at, sizeof x);
    return x;
}

void each_element(const product &p, const std::function<void(bool is_a, size_t i, int mn, int k)> &visit)
{
    const int first = (int)(block.current->warp % WARPS_OF_GROUP) * ROWS;
    for (int i = 0; !p.shape.a_in_registers && i < ROWS; i++)
        for (int k = 0; k < DEPTH; k++)
            visit(true, (size_t)(i * DEPTH + k), first + i, k);
    for (int i = 0; i < p.shape.n; i++)
        for (int k = 0; k < DEPTH; k++)
            visit(false, (size_t)(i * DEPTH + k), i, k);
}

/* The lanes' registers as a warp's rows: lane 4 g + t holds of rows g (words 0, 2) and g + 8 (1, 3) columns 2t, 2t+1
 * (0, 1) and 2t+8, 2t+9 (2, 3). */
void gather_registers(product *p)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int word = 0; word < 4; word++)
            for (int half = 0; half < 2; half++)
                p->a[lane / 4 + word % 2 * 8][lane % 4 * 2 + half + word / 2 * 8] =
                    (uint16_t)(p->registers[lane][word] >> 16 * half);
}

void read_operands(product *p)
{
    const product_shape &s = p->shape;
    p->is_read = true;
    check_operand(s.b, s.n, s.b_turned);
    if (s.a_in_registers)
        gather_registers(p);
    else
        check_operand(s.a, 64, s.a_turned);
    p->b.resize((size_t)s.n * DEPTH);
    each_element(*p, [&](bool is_a, size_t i, int mn, int k) {
        check_told(address_of(is_a ? s.a : s.b, is_a ? s.a_turned : s.b_turned, mn, k));
        (is_a ? p->a[0] : p->b.data())[i] = element(is_a ? s.a : s.b, is_a ? s.a_turned : s.b_turned, mn, k);
    });
}

void compare_operands(product *p)
{
    const product_shape &s = p->shape;
    p->is_compared = true;
    each_element(*p, [&](bool is_a, size_t i, int mn, int k) {
        if (element(is_a ? s.a : s.b, is_a ? s.a_turned : s.b_turned, mn, k) != (is_a ? p->a[0] : p->b.data())[i])
            fail("shared memory that a product reads, %s [%d, %d], was changed before it was waited for",
                 is_a ? "a" : "b", mn, k);
    });
}

float real(uint16_t x)
{
    return __bfloat162float({x});
}

/* Lane 4 g + t holds of rows g (0, 1) and g + 8 (2, 3) columns 8 j + 2 t and the next of d[j]. */
void add_product(const product &p, std::vector<float> *sum)
{
    const int g = (int)block.current->lane / 4, t = (int)block.current->lane % 4;
    for (int j = 0; j < p.shape.n / 8; j++)
        for (int i = 0; i < 4; i++) {
            float &d = (*sum)[(size_t)(4 * j + i)];
            const uint16_t *row = p.a[g + i / 2 * 8], *column = &p.b[(size_t)(8 * j + 2 * t + i % 2) * DEPTH];
            for (int k = 0; k < DEPTH; k++)
                d += real(row[k]) * real(column[k]);
        }
}

size_t n_untouched(const float *d, size_t n)
{
    size_t n_same = 0;
    for (size_t i = 0; i < n; i++)
        n_same += __float_as_uint(d[i]) == UNDER_WAY;
    return n_same;
}

sum *find_sum(lane_products *lane, float *d, size_t n)
{
    for (sum &s : lane->sums) {
        const size_t n_other = s.values.size();
        const bool is_under_way = s.last >= lane->n_ended;
        if (s.d == d && n_other == n)
            return &s;
        if (is_under_way && s.d < d + n && d < s.d + n_other)
            fail("two products of different widths share registers of d");
    }
    return nullptr;
}

/* d as the product finds it; what it holds from now on is not for reading. */
std::vector<float> take_sum(lane_products *lane, float *d, size_t n, bool adds)
{
    const sum *before = find_sum(lane, d, n);
    const size_t n_same = n_untouched(d, n);
    std::vector<float> values(n, 0.0f);
    if (before && before->last >= lane->n_ended && n_same < n)
        fail("d was written while its product was under way");
    if (adds && before && n_same == n)
        values = before->values;
    else if (adds)
        values.assign(d, d + n);
    std::erase_if(lane->sums, [&](const sum &s) { return s.d < d + n && d < s.d + s.values.size(); });
    for (size_t i = 0; i < n; i++)
        d[i] = __uint_as_float(UNDER_WAY);
    return values;
}

product &join_product(const product_shape &shape)
{
    context *self = block.current;
    warp_products &warp = of_warps[self->warp];
    std::vector<product_shape> &group = of_groups[self->warp / WARPS_OF_GROUP];
    const unsigned number = mine().n_begun++;
    if (number == group.size())
        group.push_back(shape);
    if (!(group[number] == shape))
        fail("threads of a warpgroup begin different products");
    if (number - warp.first == warp.kept.size())
        warp.kept.push_back({shape, {}, {}, false, false, {}, {}, LANES});
    return warp.kept[number - warp.first];
}
} // namespace

void begin_products()
{
    of_warps.assign(block.warps.size(), {});
    of_lanes.assign(block.n_threads, {});
    of_groups.assign(block.n_threads / THREADS_OF_GROUP, {});
}

void end_products()
{
    if (mine().n_ended < mine().n_begun)
        fail("the thread ends while its products are under way");
}

void end_block_of_products()
{
    for (size_t i = 0; i < of_groups.size() * THREADS_OF_GROUP; i++)
        if (of_lanes[i].n_begun != of_groups[i / THREADS_OF_GROUP].size()) {
            block.current = block.contexts[i];
            fail("threads of a warpgroup begin different numbers of products");
        }
}

void note_shared_write(const void *to, size_t n_bytes)
{
    const size_t first = (size_t)((const unsigned char *)to - launch_shared);
    for (size_t i = first / GRANULE; i <= (first + n_bytes - 1) / GRANULE; i++)
        granules[i] = {block.serial, block.current->number, (unsigned)block.current->tells.size()};
}

void tell_tensor_cores()
{
    block.current->tells.push_back(block.all.generation);
}

uint64_t describe_operand(const void *shared, unsigned leading_bytes, unsigned stride_bytes)
{
    const size_t at = (size_t)((const unsigned char *)shared - launch_shared);
    if (at >= SHARED_BYTES)
        fail("an operand does not lie in the launch's shared memory");
    if ((at | leading_bytes | stride_bytes) % 16 || leading_bytes >> 18 || stride_bytes >> 18)
        fail("an operand begins at %zu, strides %u and %u bytes; expected multiples of 16 below 2^18", at,
             leading_bytes, stride_bytes);
    return (uint64_t)at >> 4 | (uint64_t)leading_bytes >> 4 << 16 | (uint64_t)stride_bytes >> 4 << 32 |
           (uint64_t)1 << 62;
}

void open_products()
{
    wait(block.warps[block.current->warp].all, reason::exchange);
    mine().is_open = true;
    note_registers_opened();
}

void begin_product(const product_shape &shape, float *d, const unsigned *a)
{
    context *self = block.current;
    lane_products &lane = mine();
    const size_t n = (size_t)shape.n / 2;
    self->place = __builtin_return_address(0);
    if (self->warp / WARPS_OF_GROUP >= of_groups.size())
        fail("a product needs four whole warps, the first of number 4 i");
    if (!lane.is_open)
        fail("a product begins without stm_wgmma_begin, since which registers may have been written");
    check_registers(d, n * sizeof *d);
    if (a)
        check_registers(a, sizeof(unsigned[4]));
    product &p = join_product(shape);
    const unsigned number = lane.n_begun - 1;
    if (a)
        std::memcpy(p.registers[self->lane], a, sizeof p.registers[0]);
    p.registers_at[self->lane] = a;
    wait(block.warps[self->warp].all, reason::exchange);
    if (!p.is_read)
        read_operands(&p);
    std::vector<float> values = take_sum(&lane, d, n, shape.adds);
    add_product(p, &values);
    lane.sums.push_back({d, std::move(values), number});
}

void commit_products()
{
    wait(block.warps[block.current->warp].all, reason::exchange);
    mine().group_ends.push_back(mine().n_begun);
}

void wait_for_products(unsigned n_groups)
{
    context *self = block.current;
    lane_products &lane = mine();
    warp_products &warp = of_warps[self->warp];
    const size_t n = lane.group_ends.size();
    self->place = __builtin_return_address(0);
    const unsigned end = n > n_groups ? lane.group_ends[n - 1 - n_groups] : lane.n_ended;
    wait(block.warps[self->warp].all, reason::exchange);
    lane.is_open = false;
    for (; lane.n_ended < end; lane.n_ended++) {
        product &p = warp.kept[lane.n_ended - warp.first];
        const unsigned *a = p.registers_at[self->lane];
        if (a && std::memcmp(a, p.registers[self->lane], sizeof p.registers[0]) != 0)
            fail("registers of a were written before their product was waited for");
        if (!p.is_compared)
            compare_operands(&p);
        p.n_lanes--;
    }
    while (!warp.kept.empty() && warp.kept.front().n_lanes == 0) {
        warp.kept.pop_front();
        warp.first++;
    }
}

void hold_sum(float *d, int n)
{
    lane_products &lane = mine();
    const size_t n_values = (size_t)n / 2;
    const sum *s = find_sum(&lane, d, n_values);
    if (!s)
        return;
    if (s->last >= lane.n_ended)
        fail("d is held while its product is under way");
    if (n_untouched(d, n_values) < n_values)
        fail("d was written between its product and stm_wgmma_hold");
    std::memcpy(d, s->values.data(), n_values * sizeof *d);
    std::erase_if(lane.sums, [&](const sum &other) { return other.d == d; });
}
} // namespace emulated
