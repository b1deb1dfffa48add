/* Attention on the tensor cores of compute capability 9.0 by products of warpgroups (wgmma), which reach about twice
 * what a warp's (attend_bf16.cu) do there; the same definition, tiles and sums.
 *
 * A block is two warpgroups with 64 tall rows, or keys, each. Products run beside the threads that begin them: softmax
 * of one tile of scores is computed while the product of the one before with its values is under way, as in
 * FlashAttention 3 (Shah et al. 2024, arXiv 2407.08608). Tiles come by cp.async, a turn ahead; the tensor memory
 * accelerator would need a descriptor for each array of each part, and tall rows are gathered.
 *
 * A tile in shared memory may be written over once all have waited for the products that read it, and met. */
#include "cuda/key_work.cuh"
#include "cuda/warpgroup.cuh"

#include <stdlib.h>
#include <string.h>

enum { KEYS = 128, STEP = 64, STAGES = 3 }; /* KEYS: of a turn forward; STEP: keys, or tall rows, of one backward */

/* The rows of the call that a lane's two tall rows are of; beyond all where there is none. */
struct lane_rows {
    size_t tall[2], row[2];

    __device__ __forceinline__ lane_rows(const struct tall &q, size_t first)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            tall[i] = lane_row(first + first_of_warp(), i);
            row[i] = tall[i] < q.n ? q.row(tall[i]) : SIZE_MAX;
        }
    }
};

/* Keys of a part that a lane's two rows see, and that all of the block's do: asked for where the part changes. */
struct sight {
    size_t part = SIZE_MAX, n_seen[2] = {0, 0}, n_all = 0;

    __device__ __forceinline__ void look(const stm_attend_part *parts, size_t at, row_span all, const lane_rows &mine)
    {
        if (part == at)
            return;
        part = at;
        n_seen[0] = stm_keys_seen(parts[part], mine.row[0]);
        n_seen[1] = stm_keys_seen(parts[part], mine.row[1]);
        n_all = keys_of_all(parts[part], all);
    }

    /* Numbers of 8 N keys from `key` on become x where the row does not see the key. */
    template <int N> __device__ __forceinline__ void mask(float (&s)[N][4], size_t key, float x) const
    {
        if (key + 8 * N <= n_all)
            return;
        mask_row<N>(s, 0, n_seen[0], key, x);
        mask_row<N>(s, 2, n_seen[1], key, x);
    }
};

/* Blocks' x counts tiles of tall rows, y KV heads. */
template <int D> static __global__ void STM_WARPGROUPS_ONLY attend_kernel(stm_attend a, const stm_attend_part *parts)
{
#if STM_HAS_WGMMA
    constexpr int SIZE = KEYS * D;
    __shared__ float room[BLOCK_THREADS];
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *k_tiles = q_tile + BLOCK_ROWS * D, *v_tiles = k_tiles + 2 * SIZE;
    const tall q = tall_of(a, blockIdx.y);
    const size_t first = (size_t)(gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS,
                 end = first + BLOCK_ROWS; /* longest first */
    const lane_rows mine(q, first);
    const float scale = (float)a.scale / LOG_2;
    const uint64_t q_rows = operand_of<BLOCK_ROWS>(q_tile, first_of_group());
    running rows[2] = {{-INFINITY, 0}, {-INFINITY, 0}};
    float o[D / 8][4] = {}, s[KEYS / 8][4];
    unsigned p[KEYS / 16][4]; /* weights of the last tile, whose values are not yet added */
    sight seen;
    key_tiles<KEYS> at(q, parts, first, end);
    int turn = 0;
    const auto begin_scores = [&]() {
        begin_rows<D, BLOCK_ROWS, KEYS>(q_rows, operand_of<KEYS>(k_tiles + turn * SIZE), s);
        stm_wgmma_commit();
    };
    const auto begin_values = [&]() {
        begin_sum<D, KEYS>(p, operand_of<KEYS>(v_tiles + (turn ^ 1) * SIZE), o);
        stm_wgmma_commit();
    };
    /* This tile's values and the next one's keys, once this one's keys and the last one's values are there; the last
     * one's keys and the values before those are used up. */
    const auto copy_next = [&]() {
        wait_for_panels();
        copy_tile<D, panels<KEYS>>(at, parts[at.part].v, v_tiles + turn * SIZE);
        at.next();
        if (at.has())
            copy_tile<D, panels<KEYS>>(at, parts[at.part].k, k_tiles + (turn ^ 1) * SIZE);
    };
    copy_tall<D, BLOCK_ROWS, panels<BLOCK_ROWS>>(q, a.q, first, q.n, q_tile);
    if (!at.has())
        return;
    copy_tile<D, panels<KEYS>>(at, parts[at.part].k, k_tiles);
    size_t key = at.key;
    seen.look(parts, at.part, at.rows, mine);
    copy_next();
    stm_wgmma_begin();
    begin_scores();
    stm_wgmma_wait<0>();
    stm_wgmma_hold(s);
    seen.mask(s, key, -INFINITY);
    soften<KEYS / 8>(s, 0, scale, &rows[0]);
    soften<KEYS / 8>(s, 2, scale, &rows[1]);
    round_rows<KEYS>(s, p);
    for (turn = 1; at.has(); turn ^= 1) {
        key = at.key;
        seen.look(parts, at.part, at.rows, mine);
        copy_next();
        stm_wgmma_begin();
        begin_scores();
        begin_values(); /* of the last tile */
        stm_wgmma_wait<1>();
        stm_wgmma_hold(s);
        seen.mask(s, key, -INFINITY);
        const float up = soften<KEYS / 8>(s, 0, scale, &rows[0]), low = soften<KEYS / 8>(s, 2, scale, &rows[1]);
        keep_before_waits(rows[0].sum + rows[1].sum, room);
        stm_wgmma_wait<0>();
        stm_wgmma_hold(o);
        shrink_rows<D / 8>(o, up, low);
        round_rows<KEYS>(s, p);
    }
    wait_for_panels();
    stm_wgmma_begin();
    begin_values();
    stm_wgmma_wait<0>();
    stm_wgmma_hold(o);
    write_row<D>(q, mine.tall[0], o, 0, rows[0]);
    write_row<D>(q, mine.tall[1], o, 2, rows[1]);
#endif
}

/* Backward */

/* Blocks' x counts tiles of tall rows, y KV heads. */
template <int D>
static __global__ void STM_WARPGROUPS_ONLY query_gradient_kernel(stm_attend a, const stm_attend_part *parts,
                                                                 const float *delta)
{
#if STM_HAS_WGMMA
    constexpr int SIZE = STEP * D;
    __shared__ float room[BLOCK_THREADS];
    bf16 *q_tile = (bf16 *)stm_launch_shared(), *do_tile = q_tile + BLOCK_ROWS * D;
    bf16 *k_tiles = do_tile + BLOCK_ROWS * D, *v_tiles = k_tiles + STAGES * SIZE;
    const tall q = tall_of(a, blockIdx.y);
    const size_t first = (size_t)(gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS, end = first + BLOCK_ROWS;
    const lane_rows mine(q, first);
    const slope slopes[2] = {slope_of(q, delta, mine.tall[0], q.n), slope_of(q, delta, mine.tall[1], q.n)};
    const float scale = (float)a.scale, steepness = scale / LOG_2;
    const uint64_t q_rows = operand_of<BLOCK_ROWS>(q_tile, first_of_group());
    const uint64_t do_rows = operand_of<BLOCK_ROWS>(do_tile, first_of_group());
    float dq[D / 8][4] = {};
    unsigned ds[STEP / 16][4]; /* read by a product until the next step's have ended */
    sight seen;
    key_tiles<STEP> at(q, parts, first, end);
    copy_tall<D, BLOCK_ROWS, panels<BLOCK_ROWS>>(q, a.q, first, q.n, q_tile);
    copy_tall<D, BLOCK_ROWS, panels<BLOCK_ROWS>>(q, a.d_o, first, q.n, do_tile);
    const auto copy_step = [&](int stage) {
        copy_tile<D, panels<STEP>>(at, parts[at.part].k, k_tiles + stage * SIZE);
        copy_tile<D, panels<STEP>>(at, parts[at.part].v, v_tiles + stage * SIZE);
    };
    if (at.has())
        copy_step(0);
    for (int stage = 0, next; at.has(); stage = next) {
        float s[STEP / 8][4], dp[STEP / 8][4];
        const size_t key = at.key;
        const uint64_t k = operand_of<STEP>(k_tiles + stage * SIZE), v = operand_of<STEP>(v_tiles + stage * SIZE);
        seen.look(parts, at.part, at.rows, mine);
        next = stage + 1 < STAGES ? stage + 1 : 0;
        wait_for_panels(); /* this step; the products of the one before the last are done */
        at.next();
        if (at.has())
            copy_step(next);
        stm_wgmma_begin();
        begin_rows<D, BLOCK_ROWS, STEP>(q_rows, k, s);
        stm_wgmma_commit();
        begin_rows<D, BLOCK_ROWS, STEP>(do_rows, v, dp);
        stm_wgmma_commit();
        stm_wgmma_wait<1>();
        stm_wgmma_hold(s);
#pragma unroll
        for (int j = 0; j < STEP / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[j][i] = slopes[i / 2].weight(s[j][i], steepness);
        keep_before_waits(s, room);
        stm_wgmma_wait<0>();
        stm_wgmma_hold(dp);
#pragma unroll
        for (int j = 0; j < STEP / 8; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s[j][i] = slopes[i / 2].gradient(s[j][i], dp[j][i], scale);
        seen.mask(s, key, 0);
        round_rows<STEP>(s, ds);
        stm_wgmma_begin();
        begin_sum<D, STEP>(ds, k, dq);
        stm_wgmma_commit();
    }
    stm_wgmma_wait<0>();
    stm_wgmma_hold(dq);
    write_queries<D>(q, mine.tall, dq);
#endif
}

/* The scores' columns of a step that are a lane's: visit(j, i, column), i of 0 and 1 and likewise i + 2. */
template <class Visit> static __device__ __forceinline__ void each_column(Visit visit)
{
#pragma unroll
    for (int j = 0; j < STEP / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            visit(j, i, (int)(8 * j + 2 * (threadIdx.x % 4) + i));
}

/* A warp's 16 keys of a gradient, of a block with a slot. */
template <int D> static __device__ __forceinline__ void put_keys(const float (&x)[D / 8][4], float *to)
{
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(float2 *)(to + lane_row(first_of_warp(), i) * D + 8 * j + 2 * (threadIdx.x % 4)) = {x[j][2 * i],
                                                                                                  x[j][2 * i + 1]};
}

/* Of parts of one wave, which share no accumulator: blocks' x counts work, y KV heads. */
template <int D>
static __global__ void STM_WARPGROUPS_ONLY key_gradient_kernel(stm_attend a, const stm_attend_part *parts,
                                                               const float *delta, const stm_key_work *of_blocks,
                                                               float *slots)
{
#if STM_HAS_WGMMA
    constexpr int SIZE = STEP * D;
    __shared__ float room[BLOCK_THREADS];
    __shared__ slope slopes[2][STEP]; /* of the tall rows of this step, and the next */
    bf16 *k_tile = (bf16 *)stm_launch_shared(), *v_tile = k_tile + BLOCK_ROWS * D;
    bf16 *q_tiles = v_tile + BLOCK_ROWS * D, *do_tiles = q_tiles + STAGES * SIZE;
    const stm_key_work work = of_blocks[blockIdx.x];
    const stm_attend_part part = parts[work.part];
    const tall q = tall_of(a, blockIdx.y);
    const size_t first_key = work.first_key, d = a.head_dim, skipped = q.head * part.kv_stride * d;
    const size_t begin = work.first, end = work.end, own = first_key + first_of_warp();
    const float scale = (float)a.scale, steepness = scale / LOG_2;
    const uint64_t k_rows = operand_of<BLOCK_ROWS>(k_tile, first_of_group());
    const uint64_t v_rows = operand_of<BLOCK_ROWS>(v_tile, first_of_group());
    float dk[D / 8][4] = {}, dv[D / 8][4] = {};
    unsigned p[STEP / 16][4], ds[STEP / 16][4]; /* read by products until the next step's have ended */
    const auto copy_step = [&](size_t first, int stage) {
        copy_tall<D, STEP, panels<STEP>>(q, a.q, first, end, q_tiles + stage * SIZE);
        copy_tall<D, STEP, panels<STEP>>(q, a.d_o, first, end, do_tiles + stage * SIZE);
    };
    /* Keys that tall row t sees, were there enough of them. */
    const auto reach = [&](size_t t) { return q.row(t) - part.first_row + part.diagonal + 1; };
    copy_keys<D, BLOCK_ROWS, panels<BLOCK_ROWS>>((const bf16 *)part.k + skipped, d, first_key, part.n_keys, k_tile);
    copy_keys<D, BLOCK_ROWS, panels<BLOCK_ROWS>>((const bf16 *)part.v + skipped, d, first_key, part.n_keys, v_tile);
    copy_step(begin, 0);
    if (threadIdx.x < STEP)
        slopes[0][threadIdx.x] = slope_of(q, delta, begin + threadIdx.x, end);
    int turn = 0, stage = 0;
    size_t first = begin;
    do { /* at least once: where dk and dv might not be products' they would be copied, and products would not overlap
          */
        float s[STEP / 8][4], dp[STEP / 8][4];
        slope coming;
        const bool is_whole = !part.causal || first_key + BLOCK_ROWS <= reach(first), has_next = first + STEP < end;
        const int next = stage + 1 < STAGES ? stage + 1 : 0;
        const uint64_t q_step = operand_of<STEP>(q_tiles + stage * SIZE);
        const uint64_t do_step = operand_of<STEP>(do_tiles + stage * SIZE);
        wait_for_panels(); /* this step; the products of the one before the last are done */
        if (has_next)
            copy_step(first + STEP, next);
        if (has_next && threadIdx.x < STEP)
            coming = slope_of(q, delta, first + STEP + threadIdx.x, end);
        stm_wgmma_begin();
        begin_rows<D, BLOCK_ROWS, STEP>(k_rows, q_step, s);
        stm_wgmma_commit();
        begin_rows<D, BLOCK_ROWS, STEP>(v_rows, do_step, dp);
        stm_wgmma_commit();
        stm_wgmma_wait<1>();
        stm_wgmma_hold(s);
        each_column([&](int j, int i, int column) {
            s[j][i] = slopes[turn][column].weight(s[j][i], steepness);
            s[j][2 + i] = slopes[turn][column].weight(s[j][2 + i], steepness);
        });
        keep_before_waits(s, room);
        stm_wgmma_wait<0>();
        stm_wgmma_hold(dp);
        each_column([&](int j, int i, int column) {
            dp[j][i] = slopes[turn][column].gradient(s[j][i], dp[j][i], scale);
            dp[j][2 + i] = slopes[turn][column].gradient(s[j][2 + i], dp[j][2 + i], scale);
        });
        if (!is_whole)
            each_column([&](int j, int i, int column) {
                const size_t n_seen = reach(first + column);
                if (lane_row(own, 0) >= n_seen)
                    s[j][i] = dp[j][i] = 0;
                if (lane_row(own, 1) >= n_seen)
                    s[j][2 + i] = dp[j][2 + i] = 0;
            });
        round_rows<STEP>(s, p);
        round_rows<STEP>(dp, ds);
        stm_wgmma_begin();
        begin_sum<D, STEP>(p, do_step, dv);
        begin_sum<D, STEP>(ds, q_step, dk);
        stm_wgmma_commit();
        turn ^= 1;
        stage = next;
        if (has_next && threadIdx.x < STEP)
            slopes[turn][threadIdx.x] = coming;
        first += STEP;
    } while (first < end);
    stm_wgmma_wait<0>();
    stm_wgmma_hold(dk);
    stm_wgmma_hold(dv);
    if (work.slot == STM_NO_SLOT) {
        add_keys<D>(part, q.head, d, own, 0, dk, part.dk);
        add_keys<D>(part, q.head, d, own, 0, dv, part.dv);
    } else {
        float *to = slots + (work.slot * a.n_kv_heads + q.head) * stm_slot_size(BLOCK_ROWS, D);
        put_keys<D>(dk, to);
        put_keys<D>(dv, to + BLOCK_ROWS * D);
    }
#endif
}

/* Launches */

enum { N_SHARED_OF_ROW = BLOCK_ROWS + 4 * KEYS, N_SHARED_OF_STEP = 2 * BLOCK_ROWS + 2 * STAGES * STEP };

template <int D> stm_status stm_attend_hopper<D>::attend(stm_stream *stream, const stm_attend *a)
{
    const stm_attend_part *parts;
    void *none;
    STM_TRY(stm_attend_send_parts(stream, a, 0, &parts, &none));
    return stm_launch_tiles(stream, grid_of_rows(a, BLOCK_ROWS), BLOCK_THREADS, N_SHARED_OF_ROW * D, attend_kernel<D>,
                            *a, parts);
}

template <int D>
stm_status stm_attend_hopper<D>::of_queries(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts,
                                            const float *delta)
{
    return stm_launch_tiles(stream, grid_of_rows(a, BLOCK_ROWS), BLOCK_THREADS, N_SHARED_OF_STEP * D,
                            query_gradient_kernel<D>, *a, parts, delta);
}

/* What of_keys finds: the plan's work, then slots. */
static size_t work_bytes(const stm_key_plan *plan)
{
    return (plan->n * sizeof *plan->work + 63) / 64 * 64;
}

template <int D>
stm_status stm_attend_hopper<D>::prepare(stm_stream *stream, const stm_attend *a, stm_key_plan *plan, size_t *bytes)
{
    STM_TRY(stm_plan_keys(stream, a, BLOCK_ROWS, STEP, plan));
    *bytes = work_bytes(plan) + plan->n_slots * a->n_kv_heads * stm_slot_size(BLOCK_ROWS, D) * sizeof(float);
    return STM_OK;
}

template <int D>
stm_status stm_attend_hopper<D>::of_keys(stm_stream *stream, const stm_attend *a, const stm_attend_part *parts,
                                         size_t first, size_t end, const float *delta, const stm_key_plan *plan,
                                         void *room)
{
    size_t begin = 0, n = 0, n_cut = 0;
    while (begin < plan->n && plan->work[begin].part < first)
        begin++;
    for (; begin + n < plan->n && plan->work[begin + n].part < end; n++)
        n_cut += plan->work[begin + n].n_slots > 0;
    const stm_key_work *work = (const stm_key_work *)room + begin;
    float *slots = (float *)((char *)room + work_bytes(plan));
    STM_TRY(stm_launch_tiles(stream, dim3((unsigned)n, (unsigned)a->n_kv_heads), BLOCK_THREADS, N_SHARED_OF_STEP * D,
                             key_gradient_kernel<D>, *a, parts, delta, work, slots));
    return n_cut == 0 ? STM_OK : stm_add_slots(stream, a, parts, work, n, BLOCK_ROWS, D, slots);
}

template struct stm_attend_hopper<64>;
template struct stm_attend_hopper<128>;

stm_status stm_attend_choose(stm_stream *stream, const cudaDeviceProp *device)
{
    const char *said = getenv("STEMMA_GPU_ATTENTION");
    bool has_wgmma = device->major == 9 && device->minor == 0;
    if (has_wgmma) {
        cudaFuncAttributes attributes;
        STM_CUDA(cudaFuncGetAttributes(&attributes, attend_kernel<64>));
        has_wgmma = attributes.maxThreadsPerBlock >= BLOCK_THREADS;
    }
    if (said && strcmp(said, "mma") != 0 && strcmp(said, "wgmma") != 0)
        return stm_fail(STM_ERR_INPUT, "environment: STEMMA_GPU_ATTENTION=%s; expected mma or wgmma", said);
    if (said && strcmp(said, "wgmma") == 0 && !has_wgmma)
        return stm_fail(STM_ERR_INPUT,
                        "environment: STEMMA_GPU_ATTENTION=wgmma: %s has compute capability %d.%d; expected 9.0, and a "
                        "module compiled for 90a",
                        device->name, device->major, device->minor);
    stream->has_wgmma = has_wgmma && !(said && strcmp(said, "mma") == 0);
    return STM_OK;
}
