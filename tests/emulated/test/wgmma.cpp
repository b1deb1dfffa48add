/* Products of a warpgroup on the emulation: every kind of operand against a plain product, and what the hardware leaves
 * undefined. Tiles are laid out here by the text of the PTX ISA, by itself: rows of 128 bytes, of whose 16-byte chunks
 * number c of row r lies at c ^ r % 8. */
#include "emulated.h"

#include <cuda_bf16.h>

#include "cuda/mma.cuh"
#include "cuda/wgmma.cuh"

enum { M = 64, K = 64, THREADS = 128, A_BYTES = M * K * 2, MOST_N = 256, SHARED = A_BYTES + MOST_N * K * 2 };

/* Where number [row, column] of a tile lies, whose columns are in panels of 64 with n_rows each. */
static __device__ __nv_bfloat16 *place(unsigned char *tile, int n_rows, int row, int column)
{
    const int panel = column / 64, chunk = column % 64 / 8;
    return (__nv_bfloat16 *)(tile + panel * n_rows * 128 + row * 128 + (chunk ^ row % 8) * 16 + column % 8 * 2);
}

/* A tile of numbers x [n, K], turned: its rows are k. */
static __device__ void lay(unsigned char *tile, const __nv_bfloat16 *x, int n, bool turned)
{
    for (int i = (int)threadIdx.x; i < n * K; i += THREADS)
        *(turned ? place(tile, K, i % K, i / K) : place(tile, n, i / K, i % K)) = x[i];
}

/* Of 16 k from `k` on. */
static __device__ uint64_t operand(const unsigned char *tile, int k, bool turned)
{
    return stm_wgmma_operand(tile + (turned ? k * 128 : k * 2), K * 128, 1024);
}

static __device__ unsigned pair(const __nv_bfloat16 *x)
{
    return (unsigned)x[0].bits | (unsigned)x[1].bits << 16;
}

/* d [64, N] = a b^T, or d + a b^T: a [64, K], b [N, K]. */
template <int N, bool IN_REGISTERS, bool A_TURNED, bool B_TURNED>
static __global__ void product_kernel(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *d, bool adds)
{
    unsigned char *a_tile = stm_launch_shared(), *b_tile = a_tile + A_BYTES;
    const int row = (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4, column = (int)threadIdx.x % 4 * 2;
    float sums[N / 8][4];
    unsigned registers[K / 16][4];
    for (int j = 0; j < N / 8; j++)
        for (int i = 0; i < 4; i++)
            sums[j][i] = d[(row + i / 2 * 8) * N + 8 * j + column + i % 2];
    for (int k = 0; k < K / 16; k++)
        for (int i = 0; i < 4; i++)
            registers[k][i] = pair(a + (row + i % 2 * 8) * K + 16 * k + i / 2 * 8 + column);
    lay(a_tile, a, M, A_TURNED);
    lay(b_tile, b, N, B_TURNED);
    stm_tell_tensor_cores();
    __syncthreads();
    stm_wgmma_begin();
    for (int k = 0; k < K / 16; k++)
        if constexpr (IN_REGISTERS)
            stm_wgmma<N, B_TURNED>(sums, registers[k], operand(b_tile, 16 * k, B_TURNED), adds || k > 0);
        else
            stm_wgmma<N, A_TURNED, B_TURNED>(sums, operand(a_tile, 16 * k, A_TURNED), operand(b_tile, 16 * k, B_TURNED),
                                             adds || k > 0);
    stm_wgmma_commit();
    stm_wgmma_wait<0>();
    stm_wgmma_hold(sums);
    for (int j = 0; j < N / 8; j++)
        for (int i = 0; i < 4; i++)
            d[(row + i / 2 * 8) * N + 8 * j + column + i % 2] = sums[j][i];
}

static std::vector<__nv_bfloat16> numbers(size_t n, unsigned seed)
{
    std::vector<__nv_bfloat16> x(n);
    for (__nv_bfloat16 &number : x) {
        seed = seed * 1664525u + 1013904223u;
        number = __float2bfloat16((float)(int)(seed >> 24) - 128.0f);
    }
    return x;
}

/* Whole numbers below 2^24 in all sums: exact, whatever their order. */
template <int N, bool IN_REGISTERS, bool A_TURNED, bool B_TURNED> static void check(bool adds)
{
    device gpu;
    const std::vector<__nv_bfloat16> a = numbers(M * K, 1), b = numbers(N * K, 2);
    std::vector<float> d((size_t)M * N);
    for (size_t i = 0; i < d.size(); i++)
        d[i] = (float)(i % 97);
    float *sums = gpu.give(d);
    gpu.run(1, THREADS, SHARED, product_kernel<N, IN_REGISTERS, A_TURNED, B_TURNED>, gpu.give(a), gpu.give(b), sums,
            adds);
    const std::vector<float> found = gpu.read(sums, d.size());
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float expected = adds ? d[m * N + n] : 0;
            for (size_t k = 0; k < K; k++)
                expected += __bfloat162float(a[m * K + k]) * __bfloat162float(b[n * K + k]);
            if (found[m * N + n] != expected)
                fail_msg("N %d, a in %s%s, b%s: [%zu, %zu] is %g, expected %g", N,
                         IN_REGISTERS ? "registers" : "memory", A_TURNED ? ", turned" : "", B_TURNED ? " turned" : "",
                         m, n, found[m * N + n], expected);
        }
}

template <int N> static void check_operands()
{
    for (int adds = 0; adds < 2; adds++) {
        check<N, true, false, false>(adds);
        check<N, true, false, true>(adds);
        check<N, false, false, false>(adds);
        check<N, false, true, false>(adds);
        check<N, false, false, true>(adds);
        check<N, false, true, true>(adds);
    }
}

static void products_of_all_operands_match_a_plain_product(void **)
{
    check_operands<8>();
    check_operands<32>();
    check_operands<64>();
    check_operands<96>();
    check_operands<128>();
    check_operands<256>();
}

/* What may go wrong in a step that is right otherwise. */
enum class mistake {
    none,
    no_begin,
    not_told,
    no_barrier,
    no_wait,
    no_commit,
    no_hold,
    early_hold,
    d_written,
    a_written,
    tile_written,
    copy_not_told,
    three_warps,
    different,
    base_offset,
    stride,
    beyond,
};

static __global__ void mistaken_kernel(const __nv_bfloat16 *a, float *d, mistake what)
{
    unsigned char *tile = stm_launch_shared();
    unsigned registers[4] = {0, 0, 0, 0};
    float sums[4][4] = {};
    uint64_t b =
        stm_wgmma_operand(tile + (what == mistake::base_offset ? 128 : 0), 1024, what == mistake::stride ? 512 : 1024);
    if (what == mistake::beyond)
        b = stm_wgmma_operand(tile + A_BYTES, 0, 1024);
    if (what == mistake::three_warps && threadIdx.x >= 96)
        return;
    stm_copy_16(tile + threadIdx.x * 16, a + threadIdx.x * 8, true);
    stm_copy_16(tile + 2048 + threadIdx.x * 16, a + threadIdx.x * 8, true);
    if (what == mistake::copy_not_told)
        stm_tell_tensor_cores();
    stm_wait_copies();
    if (what == mistake::no_barrier)
        __syncthreads();
    if (what != mistake::not_told && what != mistake::copy_not_told)
        stm_tell_tensor_cores();
    if (what != mistake::no_barrier)
        __syncthreads();
    if (what != mistake::no_begin)
        stm_wgmma_begin();
    stm_wgmma<32, false>(sums, registers, b, what == mistake::different ? threadIdx.x < 32 : true);
    if (what != mistake::no_commit)
        stm_wgmma_commit();
    if (what == mistake::early_hold)
        stm_wgmma_hold(sums);
    if (what == mistake::d_written)
        sums[1][2] = 0;
    if (what == mistake::a_written)
        registers[3]++;
    if (what == mistake::tile_written && threadIdx.x == 77)
        tile[9] ^= 1;
    if (what != mistake::no_wait)
        stm_wgmma_wait<0>();
    if (what != mistake::no_hold)
        stm_wgmma_hold(sums);
    d[threadIdx.x] = sums[0][0];
}

static float run_mistaken(mistake what)
{
    device gpu;
    float *d = gpu.take<float>(THREADS);
    gpu.run(1, THREADS, A_BYTES, mistaken_kernel, gpu.give(numbers(THREADS * 8, 3)), d, what);
    return gpu.read(d, THREADS)[5];
}

static void what_the_hardware_leaves_undefined_is_refused(void **)
{
    const struct {
        mistake what;
        const char *said;
    } all[] = {
        {mistake::no_begin, "a product begins without stm_wgmma_begin"},
        {mistake::not_told, "has written without stm_tell_tensor_cores"},
        {mistake::copy_not_told, "has written without stm_tell_tensor_cores"},
        {mistake::no_barrier, "has written with no barrier since"},
        {mistake::no_wait, "d is held while its product is under way"},
        {mistake::no_commit, "d is held while its product is under way"},
        {mistake::early_hold, "d is held while its product is under way"},
        {mistake::d_written, "d was written between its product and stm_wgmma_hold"},
        {mistake::a_written, "registers of a were written before their product was waited for"},
        {mistake::tile_written, "was changed before it was waited for"},
        {mistake::three_warps, "threads of a warpgroup begin different numbers of products"},
        {mistake::different, "threads of a warpgroup begin different products"},
        {mistake::base_offset, "an operand begins in row 1 of eight"},
        {mistake::stride, "an operand's strides are 1024 and 512 bytes"},
        {mistake::beyond, "a product reads byte 8192 of shared memory, of which it has 8192"},
    };
    for (const auto &m : all)
        assert_refused(m.said, [&] { run_mistaken(m.what); });
}

static void results_are_not_there_before_they_are_held(void **)
{
    assert_true(std::isfinite(run_mistaken(mistake::none)));
    assert_true(std::isnan(run_mistaken(mistake::no_hold)));
}

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(products_of_all_operands_match_a_plain_product),
        cmocka_unit_test(what_the_hardware_leaves_undefined_is_refused),
        cmocka_unit_test(results_are_not_there_before_they_are_held),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
