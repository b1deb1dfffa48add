/* The tables of the module, one for each precision; backend/open.c finds them by name. */
#include "cuda/attend.cuh"

template <class R>
static constexpr stm_apart apart = {
    .piece_bytes = STM_CUDA_PIECE_BYTES,
    .commit = stm_cuda_commit,
    .alloc_host = stm_cuda_alloc_host,
    .free_host = stm_cuda_free_host,
    .open_beside = stm_cuda_open_beside,
    .follow = stm_cuda_follow,
    .note = stm_cuda_note,
    .has_passed = stm_cuda_has_passed,
    .add_in_order = stm_cuda_add_in_order<R>,
    .queue_of = stm_cuda_queue_of,
};

template <class R, class A> static constexpr stm_backend table_of()
{
    stm_backend t = {};
    t.name = "cuda";
    t.real_bytes = sizeof(R);
    t.activation_bytes = sizeof(A);
    t.head_columns = STM_HEAD_COLUMNS_OF_DEVICE;
    t.chunk_rows = STM_ROWS_OF_DEVICE;
    t.n_devices = stm_cuda_n_devices;
    t.choose_device = stm_cuda_choose_device;
    t.open = stm_cuda_open;
    t.close = stm_cuda_close;
    t.describe = stm_cuda_describe;
    t.alloc = stm_cuda_alloc;
    t.free = stm_cuda_free;
    t.apart = &apart<R>;
    t.reserve = stm_cuda_reserve;
    t.unreserve = stm_cuda_unreserve;
    t.write = stm_cuda_write;
    t.read = stm_cuda_read;
    t.copy = stm_cuda_copy_bytes;
    t.zero = stm_cuda_zero;
    t.synchronize = stm_cuda_synchronize;
    t.add = stm_cuda_ops<R>::add;
    t.to_activations = stm_cuda_activation_ops<R, A>::to_activations;
    t.embed = stm_cuda_ops<R>::embed;
    t.embed_backward = stm_cuda_ops<R>::embed_backward;
    t.gather = stm_cuda_activation_ops<R, A>::gather;
    t.scatter_add = stm_cuda_ops<R>::scatter_add;
    t.rmsnorm = stm_cuda_activation_ops<R, A>::rmsnorm;
    t.rmsnorm_backward = stm_cuda_activation_ops<R, A>::rmsnorm_backward;
    t.bias_backward = stm_cuda_activation_ops<R, A>::bias_backward;
    t.rotary = stm_cuda_activation_ops<R, A>::rotary;
    t.rotary_backward = stm_cuda_activation_ops<R, A>::rotary_backward;
    t.append = stm_cuda_activation_ops<R, A>::append;
    t.attend = stm_cuda_activation_ops<R, A>::attend;
    t.attend_backward = stm_cuda_activation_ops<R, A>::attend_backward;
    t.swiglu = stm_cuda_activation_ops<R, A>::swiglu;
    t.swiglu_backward = stm_cuda_activation_ops<R, A>::swiglu_backward;
    t.head_block = stm_cuda_ops<R>::head_block;
    t.head_finish = stm_cuda_ops<R>::head_finish;
    t.head_block_backward = stm_cuda_activation_ops<R, A>::head_block_backward;
    t.spread = stm_cuda_ops<R>::spread;
    t.sample = stm_cuda_ops<R>::sample;
    t.adamw = stm_cuda_ops<R>::adamw;
    t.sum_squares = stm_cuda_ops<R>::sum_squares;
    t.host_room = stm_cuda_host_room;
    t.mark = stm_cuda_mark;
    t.wait_mark = stm_cuda_wait_mark;
    t.has_passed_mark = stm_cuda_has_passed_mark;
    t.begin_recording = stm_cuda_begin_recording;
    t.end_recording = stm_cuda_end_recording;
    t.can_replay = stm_cuda_can_replay;
    t.replay = stm_cuda_replay;
    t.advance = stm_cuda_advance;
    return t;
}

/* rounded_bytes: of the copy that round_weights keeps of a weight. */
template <class R, class A>
static constexpr stm_backend with_products(const char *precision, size_t rounded_bytes,
                                           stm_status (*gemm)(stm_stream *, const stm_gemm *),
                                           stm_status (*round_weights)(stm_stream *, const void *, size_t))
{
    stm_backend t = table_of<R, A>();
    t.precision = precision;
    t.weight_bytes = sizeof(R) + rounded_bytes;
    t.gemm = gemm;
    t.round_weights = round_weights;
    return t;
}

static constexpr stm_backend on_tensor_cores(stm_backend t)
{
    t.attend = stm_cuda_attend_bf16;
    t.attend_backward = stm_cuda_attend_backward_bf16;
    return t;
}

extern "C" {
extern const stm_backend stm_backend_cuda_f32, stm_backend_cuda_f64, stm_backend_cuda_bf16;

const stm_backend stm_backend_cuda_f32 =
    with_products<float, float>("float32", 0, stm_cuda_gemm_f32, stm_cuda_round_nothing);
const stm_backend stm_backend_cuda_f64 =
    with_products<double, double>("float64", 0, stm_cuda_gemm_f64, stm_cuda_round_nothing);
const stm_backend stm_backend_cuda_bf16 = on_tensor_cores(
    with_products<float, __nv_bfloat16>("bfloat16", sizeof(__nv_bfloat16), stm_cuda_gemm_bf16, stm_cuda_round_weights));
}
