/* The head's softmax, in blocks of vocabulary columns. z = logit * inverse_temperature is rounded to R, everywhere in
 * the same way. A block takes a row. */
#include "cuda/softmax.cuh"

template <class R> static __global__ void head_block_kernel(stm_head_block a)
{
    __shared__ R room[STM_WARP];
    __shared__ double double_room[STM_WARP];
    const size_t r = blockIdx.x;
    const bool starts = a.first_column == 0;
    const R *row = (const R *)a.logits + r * a.stride, inverse = (R)a.inverse_temperature[r];
    const double before = starts ? -INFINITY : a.m[r];
    const double m = fmax(before, (double)stm_largest_scaled(row, a.n_columns, inverse, room));
    const stm_softmax_sums sums = stm_scaled_sums(row, a.n_columns, inverse, (R)m, double_room);
    if (threadIdx.x > 0)
        return;
    const double s = starts ? 0 : a.s[r], t = starts ? 0 : a.t[r], shrink = s == 0 ? 0 : exp(before - m);
    a.m[r] = m;
    a.s[r] = s * shrink + sums.s;
    a.t[r] = t * shrink + sums.t;
    const size_t target = (size_t)a.targets[r] - a.first_column; /* wraps to a large number where it lies before */
    if (target < a.n_columns)
        a.z_target[r] = (double)(row[target] * inverse);
    else if (starts)
        a.z_target[r] = 0;
}

static __global__ void head_finish_kernel(stm_head_block a)
{
    for (STM_EACH_ELEMENT(r, a.n_rows)) {
        const double lse = a.m[r] + log(a.s[r]);
        a.lse[r] = lse;
        a.logp[r] = a.z_target[r] - lse;
        a.entropy[r] = lse - a.t[r] / a.s[r];
    }
}

/* With log p = z - lse: dL/dlogit = (dlogp (onehot - p) - dentropy p (log p + H)) / T. */
template <class R> static __global__ void head_block_backward_kernel(stm_head_block a)
{
    const size_t r = blockIdx.x;
    R *row = (R *)a.logits + r * a.stride;
    const R inverse = (R)a.inverse_temperature[r], lse = (R)a.lse[r], entropy = (R)a.entropy[r];
    const R dlogp = (R)a.dlogp[r] * inverse, dentropy = a.dentropy ? (R)a.dentropy[r] * inverse : R(0);
    const size_t target = (size_t)a.targets[r] - a.first_column;
    for (size_t i = threadIdx.x; i < a.n_columns; i += blockDim.x) {
        const R z = row[i] * inverse - lse, p = exp(z);
        const R d = -p * (dlogp + dentropy * ((p == R(0) ? R(0) : z) + entropy));
        row[i] = i == target ? d + dlogp : d;
    }
}

template <class R> stm_status stm_cuda_ops<R>::head_block(stm_stream *stream, const stm_head_block *a)
{
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0, head_block_kernel<R>, *a);
}

template <class R> stm_status stm_cuda_ops<R>::head_finish(stm_stream *stream, const stm_head_block *a)
{
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows), STM_BLOCK, 0, head_finish_kernel, *a);
}

template <class R> stm_status stm_cuda_ops<R>::head_block_backward(stm_stream *stream, const stm_head_block *a)
{
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0, head_block_backward_kernel<R>, *a);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::head_block(stm_stream *, const stm_head_block *);                             \
    template stm_status stm_cuda_ops<R>::head_finish(stm_stream *, const stm_head_block *);                            \
    template stm_status stm_cuda_ops<R>::head_block_backward(stm_stream *, const stm_head_block *)
INSTANCES(float);
INSTANCES(double);
