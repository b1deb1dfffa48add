/* Sampling from whole rows of logits. What every row needs, its largest z and its sums, comes from slices of it, a
 * block each, so that a few rows fill the device; then a block takes a row, adds its slices up in order, and where
 * nothing is filtered reads the one slice alone in which the drawn id lies.
 *
 * What top-k and top-p keep is a head of the ids in order of (z down, id up), so both give one boundary in that order:
 * z's bits, made to order as unsigned numbers, are fixed a digit at a time from amounts per digit, and ids decide among
 * equal z. Amounts are whole numbers (of ids, or of weights in steps of 2^-40 of the largest), so that the order in
 * which threads add them changes nothing. */
#include "cuda/softmax.cuh"

enum { DIGIT_BITS = 8, N_DIGITS = 1 << DIGIT_BITS, LEAST_SLICE = 4096, MOST_SLICES = 256 };
enum { MOST_THREADS = 1024 }; /* of a row's block: so many where it is filtered, which takes many passes over the row */
static_assert((int)MOST_SLICES <= (int)STM_BLOCK, "a thread for each slice");

/* What a slice of a row has: its largest z, and that of ids alone, without and with those that are banned. */
template <class R> struct slice_top {
    R all, allowed, any;
};

/* Sums of a slice: of the softmax over all columns, and of the weights of ids that are kept. */
struct slice_sums {
    double s, t, kept;
};

template <class R> struct sliced {
    size_t slice, n; /* columns of a slice, slices of a row */
    slice_top<R> *tops;
    slice_sums *sums; /* [n_rows, n] each */
};

/* The last id, in the order, of what is kept. */
struct boundary {
    unsigned long long key;
    long long id;
};

/* What a block shares while it works on a row. */
template <class R> struct sample_room {
    R reals[STM_WARP];
    double doubles[STM_WARP], sums[MOST_THREADS], slices[MOST_SLICES];
    unsigned long long words[STM_WARP], amounts[N_DIGITS];
    unsigned counts[MOST_THREADS];
    long long id;
};

/* Orders as z does. */
static __device__ unsigned long long key_of(float z)
{
    const unsigned bits = __float_as_uint(z);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

static __device__ unsigned long long key_of(double z)
{
    const unsigned long long bits = (unsigned long long)__double_as_longlong(z);
    return bits >> 63 ? ~bits : bits | 1ull << 63;
}

/* And back. */
static __device__ float z_of(unsigned long long key, float)
{
    const unsigned bits = (unsigned)key;
    return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits);
}

static __device__ double z_of(unsigned long long key, double)
{
    return __longlong_as_double((long long)(key >> 63 ? key & ~(1ull << 63) : ~key));
}

template <class R> static __device__ R inverse_temperature(const stm_sample &a)
{
    return (R)(a.temperature == 0 ? 1 : 1 / a.temperature);
}

static __host__ __device__ bool has_filter(const stm_sample &a)
{
    return a.top_k > 0 || a.top_p < 1;
}

/* One row: z of an id that may be sampled, else -infinity. */
template <class R> struct allowed {
    const R *logits;
    const uint8_t *banned;
    R inverse, largest;

    __device__ R z(size_t id) const
    {
        return banned && banned[id] ? -(R)INFINITY : logits[id] * inverse;
    }
    __device__ R weight(size_t id) const
    {
        return exp(z(id) - largest);
    }
};

static __device__ bool is_within(const boundary &b, unsigned long long key, size_t id)
{
    return key > b.key || (key == b.key && (long long)id <= b.id);
}

static __device__ unsigned long long whole(double weight)
{
    return (unsigned long long)(weight * 1099511627776.0 + 0.5);
}

/* What an id counts: 1, or its weight; 0 outside of the boundary, and where it may not be sampled. */
template <class R>
static __device__ unsigned long long amount_of(const allowed<R> &row, const boundary &within, bool by_mass, size_t id)
{
    const R z = row.z(id);
    if (z == -(R)INFINITY || !is_within(within, key_of(z), id))
        return 0;
    return by_mass ? whole((double)row.weight(id)) : 1;
}

/* Threads take ids in stretches of one length, in order. */
static __device__ size_t stretch_of(size_t n)
{
    return (n + blockDim.x - 1) / blockDim.x;
}

/* Of ids [begin, end_of_ids), the n-th of those with this key, in order of id; n >= 1. */
template <class R>
static __device__ long long nth_of_key(const allowed<R> &row, size_t begin, size_t end_of_ids, const boundary &within,
                                       unsigned long long key, unsigned long long n, sample_room<R> *room)
{
    const size_t stretch = stretch_of(end_of_ids - begin), first = STM_MIN(end_of_ids, begin + threadIdx.x * stretch);
    const size_t end = STM_MIN(end_of_ids, first + stretch);
    unsigned count = 0;
    for (size_t id = first; id < end; id++)
        count += key_of(row.z(id)) == key && is_within(within, key, id);
    __syncthreads();
    room->counts[threadIdx.x] = count;
    __syncthreads();
    unsigned long long before = 0;
    for (unsigned t = 0; t < threadIdx.x; t++)
        before += room->counts[t];
    if (before < n && n <= before + count)
        for (size_t id = first; id < end; id++)
            if (key_of(row.z(id)) == key && is_within(within, key, id) && ++before == n) {
                room->id = (long long)id;
                break;
            }
    __syncthreads();
    return room->id;
}

/* The sum of amounts within a boundary. */
template <class R>
static __device__ unsigned long long amount_within(const allowed<R> &row, size_t n_ids, const boundary &within,
                                                   bool by_mass, sample_room<R> *room)
{
    unsigned long long sum = 0;
    for (size_t id = threadIdx.x; id < n_ids; id += blockDim.x)
        sum += amount_of(row, within, by_mass, id);
    return stm_block_sum(sum, room->words);
}

/* Of the ids whose key has the digits of `key` above `shift`: the highest digit at which the sum of amounts from above
 * reaches *goal. *goal becomes what remains for that digit. */
template <class R>
static __device__ unsigned long long next_digit(const allowed<R> &row, size_t n_ids, const boundary &within,
                                                bool by_mass, unsigned long long key, int shift,
                                                unsigned long long *goal, sample_room<R> *room)
{
    const int above = shift + DIGIT_BITS;
    for (unsigned d = threadIdx.x; d < N_DIGITS; d += blockDim.x)
        room->amounts[d] = 0;
    __syncthreads();
    for (size_t id = threadIdx.x; id < n_ids; id += blockDim.x) {
        const unsigned long long k = key_of(row.z(id)), amount = amount_of(row, within, by_mass, id);
        if (amount > 0 && (above == 8 * (int)sizeof(R) || k >> above == key >> above))
            atomicAdd(&room->amounts[k >> shift & (N_DIGITS - 1)], amount);
    }
    __syncthreads();
    unsigned long long digit = N_DIGITS - 1, rest = *goal;
    for (; digit > 0 && room->amounts[digit] < rest; digit--) /* every thread for itself: it is short */
        rest -= room->amounts[digit];
    __syncthreads();
    *goal = rest;
    return digit;
}

/* The boundary of the shortest head of the order, of what lies within `within`, whose amount reaches `goal`: 1 .. the
 * amount of all. */
template <class R>
static __device__ boundary select_head(const allowed<R> &row, size_t n_ids, const boundary &within, bool by_mass,
                                       unsigned long long goal, sample_room<R> *room)
{
    unsigned long long key = 0;
    for (int shift = 8 * (int)sizeof(R) - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS)
        key |= next_digit(row, n_ids, within, by_mass, key, shift, &goal, room) << shift;
    if (by_mass) { /* of equal z, each with the same weight: so many reach what remains */
        const unsigned long long each = STM_MAX(whole((double)exp(z_of(key, R(0)) - row.largest)), 1ull);
        goal = (goal + each - 1) / each;
    }
    return {key, nth_of_key(row, 0, n_ids, within, key, goal, room)};
}

/* What top-k and top-p leave. */
template <class R> static __device__ boundary filter(const stm_sample &a, const allowed<R> &row, sample_room<R> *room)
{
    boundary kept = {0, 0}; /* all: the key of an id that may be sampled is greater */
    if (a.top_k > 0) {
        const unsigned long long n = amount_within(row, a.n_ids, kept, false, room);
        if (a.top_k < n)
            kept = select_head(row, a.n_ids, kept, false, (unsigned long long)a.top_k, room);
    }
    if (a.top_p < 1) {
        const double mass = (double)amount_within(row, a.n_ids, kept, true, room);
        const unsigned long long goal = (unsigned long long)ceil(a.top_p * mass);
        kept = select_head(row, a.n_ids, kept, true, STM_MAX(goal, 1ull), room);
    }
    return kept;
}

template <class R>
static __device__ R kept_weight(const stm_sample &a, const allowed<R> &row, const boundary &kept, size_t id)
{
    const R z = row.z(id);
    if (z == -(R)INFINITY || !is_within(kept, key_of(z), id))
        return 0;
    const R weight = row.weight(id);
    return a.min_p > 0 && weight < (R)fmin(a.min_p, 1.0) ? R(0) : weight; /* the best has weight 1 */
}

/* Of ids [begin, end), which have weight: that at which the cumulative sum of weights, in order of id, passes goal. */
template <class R>
static __device__ long long invert(const stm_sample &a, const allowed<R> &row, const boundary &kept, size_t begin,
                                   size_t end_of_ids, double goal, sample_room<R> *room)
{
    const size_t stretch = stretch_of(end_of_ids - begin), first = STM_MIN(end_of_ids, begin + threadIdx.x * stretch);
    const size_t end = STM_MIN(end_of_ids, first + stretch);
    double sum = 0, before = 0, total = 0;
    for (size_t id = first; id < end; id++)
        sum += (double)kept_weight(a, row, kept, id);
    __syncthreads();
    room->sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned t = 0; t < blockDim.x; t++) {
        before = t == threadIdx.x ? total : before;
        total += room->sums[t];
    }
    goal = fmin(goal, nextafter(total, 0.0)); /* so that some thread's stretch passes it */
    if (before <= goal && goal < before + sum) {
        for (size_t id = first; id < end; id++) {
            const double weight = (double)kept_weight(a, row, kept, id);
            if (weight == 0)
                continue;
            room->id = (long long)id; /* the stretch's last, where rounding keeps the sum from passing */
            before += weight;
            if (before > goal)
                break;
        }
    }
    __syncthreads();
    return room->id;
}

/* The weights that are kept of a slice's ids; the same in every thread. */
template <class R>
static __device__ double kept_of_slice(const stm_sample &a, const allowed<R> &row, const boundary &kept, size_t begin,
                                       size_t end, double *room)
{
    double sum = 0;
    for (size_t id = begin + threadIdx.x; id < end; id += blockDim.x)
        sum += (double)kept_weight(a, row, kept, id);
    return stm_block_sum(sum, room);
}

/* Draws from what is kept of a row, whose slices' weights are in room->slices; *total becomes their sum. */
template <class R>
static __device__ long long draw(const stm_sample &a, const allowed<R> &row, const boundary &kept, const sliced<R> &of,
                                 double uniform, double *total, sample_room<R> *room)
{
    double before = 0;
    size_t i = 0;
    *total = 0;
    for (size_t j = 0; j < of.n; j++)
        *total += room->slices[j];
    const double goal = fmin(uniform * *total, nextafter(*total, 0.0)); /* so that some slice passes it */
    for (; before + room->slices[i] <= goal; i++)
        before += room->slices[i];
    return invert(a, row, kept, i * of.slice, STM_MIN(a.n_ids, (i + 1) * of.slice), goal - before, room);
}

/* Blocks' x counts slices, y rows, here and below. */
template <class R> static __global__ void slice_tops_kernel(stm_sample a, sliced<R> of)
{
    __shared__ R room[STM_WARP];
    const size_t begin = blockIdx.x * of.slice, end = STM_MIN(a.n_columns, begin + of.slice);
    const R *logits = (const R *)a.logits + blockIdx.y * a.n_columns;
    const R inverse = inverse_temperature<R>(a), none = -(R)INFINITY;
    slice_top<R> top = {none, none, none};
#pragma unroll 4
    for (size_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
        const R z = logits[i] * inverse, id = i < a.n_ids ? z : none,
                allowed = a.banned && i < a.n_ids && a.banned[i] ? none : id;
        top.all = z > top.all ? z : top.all;
        top.any = id > top.any ? id : top.any;
        top.allowed = allowed > top.allowed ? allowed : top.allowed;
    }
    top.all = stm_block_max(top.all, room);
    top.any = stm_block_max(top.any, room);
    top.allowed = stm_block_max(top.allowed, room);
    if (threadIdx.x == 0)
        of.tops[blockIdx.y * of.n + blockIdx.x] = top;
}

/* A row, from what its slices have: *m becomes the largest z of all columns. Where all ids are banned none are, since
 * something must come out. Called by the whole block. */
template <class R>
static __device__ allowed<R> row_of(const stm_sample &a, const sliced<R> &of, size_t r, R *m, R *room)
{
    const R none = -(R)INFINITY;
    slice_top<R> top = {none, none, none};
    for (size_t i = threadIdx.x; i < of.n; i += blockDim.x)
        top = of.tops[r * of.n + i];
    *m = stm_block_max(top.all, room);
    top.any = stm_block_max(top.any, room);
    top.allowed = stm_block_max(top.allowed, room);
    const bool all_banned = top.allowed == none;
    return {(const R *)a.logits + r * a.n_columns, all_banned ? NULL : a.banned, inverse_temperature<R>(a),
            all_banned ? top.any : top.allowed};
}

template <class R> static __global__ void slice_sums_kernel(stm_sample a, sliced<R> of)
{
    __shared__ R reals[STM_WARP];
    __shared__ double room[STM_WARP];
    const size_t begin = blockIdx.x * of.slice, end = STM_MIN(a.n_columns, begin + of.slice), r = blockIdx.y;
    R m;
    const allowed<R> row = row_of(a, of, r, &m, reals);
    const stm_softmax_sums sums = stm_scaled_sums<1>(row.logits + begin, end - begin, row.inverse, m, room);
    const double kept = has_filter(a) ? 0 : kept_of_slice(a, row, boundary{0, 0}, begin, STM_MIN(a.n_ids, end), room);
    if (threadIdx.x == 0)
        of.sums[r * of.n + blockIdx.x] = {sums.s, sums.t, kept};
}

template <class R> static __global__ void __launch_bounds__(MOST_THREADS) sample_kernel(stm_sample a, sliced<R> of)
{
    __shared__ sample_room<R> room;
    const size_t r = blockIdx.x;
    const slice_sums *slices = of.sums + r * of.n;
    slice_sums sums = {};
    R m;
    const allowed<R> row = row_of(a, of, r, &m, room.reals);
    for (size_t i = 0; i < of.n; i++) {
        sums.s += slices[i].s;
        sums.t += slices[i].t;
    }
    if (!isfinite(sums.s) || !isfinite(sums.t)) { /* NaN or infinity among the logits: for the caller to see */
        if (threadIdx.x == 0) {
            a.id[r] = 0;
            a.logp[r] = a.entropy[r] = a.kept_mass[r] = NAN;
        }
        return;
    }
    double mass = 1;
    long long id;
    if (a.temperature == 0) {
        size_t i = 0; /* the first slice that has the largest */
        while ((row.banned ? of.tops[r * of.n + i].allowed : of.tops[r * of.n + i].any) != row.largest)
            i++;
        id = nth_of_key(row, i * of.slice, STM_MIN(a.n_ids, (i + 1) * of.slice), boundary{0, 0}, key_of(row.largest), 1,
                        &room);
    } else {
        const boundary kept = filter(a, row, &room);
        for (size_t i = 0; i < of.n; i++) {
            const size_t begin = STM_MIN(a.n_ids, i * of.slice), end = STM_MIN(a.n_ids, begin + of.slice);
            const double weight =
                has_filter(a) ? kept_of_slice(a, row, kept, begin, end, room.doubles) : slices[i].kept;
            if (threadIdx.x == 0)
                room.slices[i] = weight;
        }
        __syncthreads();
        id = draw(a, row, kept, of, a.uniform[r], &mass, &room);
    }
    if (threadIdx.x > 0)
        return;
    const double lse = (double)m + log(sums.s);
    a.id[r] = (int32_t)id;
    a.logp[r] = (double)row.z((size_t)id) - lse;
    a.entropy[r] = lse - sums.t / sums.s;
    a.kept_mass[r] = fmin(1.0, mass * exp((double)row.largest - lse)); /* in float the sums may differ */
}

template <class R> stm_status stm_cuda_ops<R>::sample(stm_stream *stream, const stm_sample *a)
{
    if (a->n_ids == 0 || a->n_ids > a->n_columns)
        return stm_fail(STM_ERR_DEVICE, "sample: %zu ids of %zu columns; expected at least 1 and no more than columns",
                        a->n_ids, a->n_columns);
    const size_t slice = STM_MAX((size_t)LEAST_SLICE, stm_pieces_of(a->n_columns, MOST_SLICES));
    sliced<R> of = {slice, stm_pieces_of(a->n_columns, slice), NULL, NULL};
    STM_TRY(stm_cuda_scratch(stream, a->n_rows * of.n * (sizeof *of.sums + sizeof *of.tops), &of.sums));
    of.tops = (slice_top<R> *)(of.sums + a->n_rows * of.n);
    const dim3 grid((unsigned)of.n, (unsigned)a->n_rows);
    STM_TRY(stm_launch(stream, grid, STM_BLOCK, 0, slice_tops_kernel<R>, *a, of));
    STM_TRY(stm_launch(stream, grid, STM_BLOCK, 0, slice_sums_kernel<R>, *a, of));
    const size_t filters = STM_MIN((size_t)MOST_THREADS, stm_pieces_of(a->n_ids, 16 * STM_WARP) * STM_WARP);
    const size_t threads = has_filter(*a) ? STM_MAX((size_t)STM_BLOCK, filters) : (size_t)STM_BLOCK;
    return stm_launch(stream, (unsigned)a->n_rows, (unsigned)threads, 0, sample_kernel<R>, *a, of);
}

template stm_status stm_cuda_ops<float>::sample(stm_stream *, const stm_sample *);
template stm_status stm_cuda_ops<double>::sample(stm_stream *, const stm_sample *);
