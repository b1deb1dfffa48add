/* The head's softmax, in blocks of vocabulary columns. z = logit * inverse_temperature is rounded to R, everywhere in
 * the same way. A block takes a row; N: logits that a thread takes at a time. */
#include "cuda/softmax.cuh"

template <class R, int N> static __global__ void head_block_kernel(stm_head_block a)
{
    __shared__ R room[STM_WARP];
    __shared__ double double_room[STM_WARP];
    const size_t r = blockIdx.x;
    const bool starts = a.first_column == 0;
    const R *row = (const R *)a.logits + r * a.stride, inverse = (R)a.inverse_temperature[r];
    const double before = starts ? -INFINITY : a.m[r];
    const double m = fmax(before, (double)stm_largest_scaled<N>(row, a.n_columns, inverse, room));
    const stm_softmax_sums sums = stm_scaled_sums<N>(row, a.n_columns, inverse, (R)m, double_room);
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
template <class R, class A, int N> static __global__ void head_block_backward_kernel(stm_head_block a)
{
    const size_t r = blockIdx.x;
    const R *row = (const R *)a.logits + r * a.stride;
    A *drow = (A *)a.dlogits + r * a.dstride;
    const R inverse = (R)a.inverse_temperature[r], lse = (R)a.lse[r], entropy = (R)a.entropy[r];
    const R dlogp = (R)a.dlogp[r] * inverse, dentropy = a.dentropy ? (R)a.dentropy[r] * inverse : R(0);
    const size_t target = (size_t)a.targets[r] - a.first_column;
    for (size_t i = threadIdx.x * N; i < a.n_columns; i += blockDim.x * N) {
        R x[N];
        stm_load<N>(row + i, x);
        for (int j = 0; j < N; j++) {
            const R z = x[j] * inverse - lse, p = exp(z);
            const R d = -p * (dlogp + dentropy * ((p == R(0) ? R(0) : z) + entropy));
            x[j] = i + j == target ? d + dlogp : d;
        }
        stm_store<N>(x, drow + i);
    }
}

template <class R> stm_status stm_cuda_ops<R>::head_block(stm_stream *stream, const stm_head_block *a)
{
    const bool wide = stm_go_in_eights(a->n_columns | a->stride, a->logits);
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0,
                      wide ? head_block_kernel<R, 4> : head_block_kernel<R, 1>, *a);
}

template <class R> stm_status stm_cuda_ops<R>::head_finish(stm_stream *stream, const stm_head_block *a)
{
    return stm_launch(stream, stm_blocks_for(stream, a->n_rows), STM_BLOCK, 0, head_finish_kernel, *a);
}

template <class R, class A>
stm_status stm_cuda_activation_ops<R, A>::head_block_backward(stm_stream *stream, const stm_head_block *a)
{
    const bool wide = stm_go_in_eights(a->n_columns | a->stride | a->dstride, a->logits, a->dlogits);
    return stm_launch(stream, (unsigned)a->n_rows, STM_BLOCK, 0,
                      wide ? head_block_backward_kernel<R, A, 4> : head_block_backward_kernel<R, A, 1>, *a);
}

#define INSTANCES(R)                                                                                                   \
    template stm_status stm_cuda_ops<R>::head_block(stm_stream *, const stm_head_block *);                             \
    template stm_status stm_cuda_ops<R>::head_finish(stm_stream *, const stm_head_block *)
INSTANCES(float);
INSTANCES(double);
template stm_status stm_cuda_activation_ops<float, float>::head_block_backward(stm_stream *, const stm_head_block *);
template stm_status stm_cuda_activation_ops<float, __nv_bfloat16>::head_block_backward(stm_stream *,
                                                                                       const stm_head_block *);
template stm_status stm_cuda_activation_ops<double, double>::head_block_backward(stm_stream *, const stm_head_block *);
