/* Sampling from whole rows of logits. A block takes a row.
 *
 * What top-k and top-p keep is a head of the ids in order of (z down, id up), so both give one boundary in that order:
 * z's bits, made to order as unsigned numbers, are fixed a digit at a time from amounts per digit, and ids decide among
 * equal z. Amounts are whole numbers (of ids, or of weights in steps of 2^-40 of the largest), so that the order in
 * which threads add them changes nothing. */
#include "cuda/softmax.cuh"

enum { DIGIT_BITS = 8, N_DIGITS = 1 << DIGIT_BITS };

/* The last id, in the order, of what is kept. */
struct boundary {
    unsigned long long key;
    long long id;
};

/* What a block shares while it works on a row. */
template <class R> struct sample_room {
    R reals[STM_WARP];
    double doubles[STM_WARP], sums[STM_BLOCK];
    unsigned long long words[STM_WARP], amounts[N_DIGITS];
    unsigned counts[STM_BLOCK];
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

/* The id of the n-th of those with this key, in order of id; n >= 1. */
template <class R>
static __device__ long long nth_of_key(const allowed<R> &row, size_t n_ids, const boundary &within,
                                       unsigned long long key, unsigned long long n, sample_room<R> *room)
{
    const size_t stretch = stretch_of(n_ids), first = STM_MIN(n_ids, threadIdx.x * stretch);
    const size_t end = STM_MIN(n_ids, first + stretch);
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
    return {key, nth_of_key(row, n_ids, within, key, goal, room)};
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

/* The id at which the cumulative sum of weights, in order of id, passes uniform * *total. */
template <class R>
static __device__ long long invert(const stm_sample &a, const allowed<R> &row, const boundary &kept, double uniform,
                                   double *total, sample_room<R> *room)
{
    const size_t stretch = stretch_of(a.n_ids), first = STM_MIN(a.n_ids, threadIdx.x * stretch);
    const size_t end = STM_MIN(a.n_ids, first + stretch);
    double sum = 0, before = 0;
    for (size_t id = first; id < end; id++)
        sum += (double)kept_weight(a, row, kept, id);
    __syncthreads();
    room->sums[threadIdx.x] = sum;
    __syncthreads();
    *total = 0;
    for (unsigned t = 0; t < blockDim.x; t++) {
        before = t == threadIdx.x ? *total : before;
        *total += room->sums[t];
    }
    const double goal = fmin(uniform * *total, nextafter(*total, 0.0)); /* so that some thread's stretch passes it */
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

template <class R> static __device__ R largest_allowed(const allowed<R> &row, size_t n_ids, sample_room<R> *room)
{
    R largest = -(R)INFINITY;
    for (size_t id = threadIdx.x; id < n_ids; id += blockDim.x) {
        const R z = row.z(id);
        largest = z > largest ? z : largest;
    }
    return stm_block_max(largest, room->reals);
}

template <class R> static __global__ void sample_kernel(stm_sample a)
{
    __shared__ sample_room<R> room;
    const size_t r = blockIdx.x;
    const R inverse = (R)(a.temperature == 0 ? 1 : 1 / a.temperature);
    allowed<R> row = {(const R *)a.logits + r * a.n_columns, a.banned, inverse, 0};
    const R m = stm_largest_scaled(row.logits, a.n_columns, inverse, room.reals);
    const stm_softmax_sums sums = stm_scaled_sums(row.logits, a.n_columns, inverse, m, room.doubles);
    if (!isfinite(sums.s) || !isfinite(sums.t)) { /* NaN or infinity among the logits: for the caller to see */
        if (threadIdx.x == 0) {
            a.id[r] = 0;
            a.logp[r] = a.entropy[r] = a.kept_mass[r] = NAN;
        }
        return;
    }
    row.largest = largest_allowed(row, a.n_ids, &room);
    if (row.largest == -(R)INFINITY) { /* all are banned: something must come out */
        row.banned = NULL;
        row.largest = largest_allowed(row, a.n_ids, &room);
    }
    double mass = 1;
    const long long id = a.temperature == 0 ? nth_of_key(row, a.n_ids, boundary{0, 0}, key_of(row.largest), 1, &room)
                                            : invert(a, row, filter(a, row, &room), a.uniform[r], &mass, &room);
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
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0, sample_kernel<R>, *a);
}

template stm_status stm_cuda_ops<float>::sample(stm_stream *, const stm_sample *);
template stm_status stm_cuda_ops<double>::sample(stm_stream *, const stm_sample *);
