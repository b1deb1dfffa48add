/* tests/emulated/cublas.cpp: the product of cuBLAS, by plain loops in double. */
#include "checks.h"

#include <cublas_v2.h>
#include <cuda_bf16.h>

#include <vector>

struct emulated_blas {
    cudaStream_t stream;
};

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    *handle = new emulated_blas{nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t, void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "not supported";
}

static double element(const void *x, cudaDataType type, size_t i)
{
    switch (type) {
    case CUDA_R_64F:
        return ((const double *)x)[i];
    case CUDA_R_16BF:
        return __bfloat162float(((const __nv_bfloat16 *)x)[i]);
    default:
        return ((const float *)x)[i];
    }
}

static void store(void *x, cudaDataType type, size_t i, double value)
{
    switch (type) {
    case CUDA_R_64F:
        ((double *)x)[i] = value;
        break;
    case CUDA_R_16BF:
        ((__nv_bfloat16 *)x)[i] = __float2bfloat16((float)value);
        break;
    default:
        ((float *)x)[i] = (float)value;
    }
}

/* Four sums, so that they need not wait for each other. */
static double dot(const double *x, const double *y, int n)
{
    double sum[4] = {};
    int i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++)
            sum[j] += x[i + j] * y[i + j];
    for (; i < n; i++)
        sum[0] += x[i] * y[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

static double scalar(const void *x, cublasComputeType_t compute)
{
    return compute == CUBLAS_COMPUTE_64F ? *(const double *)x : *(const float *)x;
}

/* A product with its scalars, as it was asked for. */
struct product {
    cublasOperation_t ta, tb;
    int m, n, k;
    double alpha, beta;
    const void *a, *b;
    void *c;
    cudaDataType type, c_type;
    int lda, ldb, ldc;
};

static size_t bytes_of(cudaDataType type)
{
    return type == CUDA_R_64F ? 8 : type == CUDA_R_16BF ? 2 : 4;
}

/* Tells of a matrix [m, n], column after column. */
static void note(void (*what)(const void *, size_t), const void *x, cudaDataType type, int m, int n, int stride)
{
    for (int j = 0; j < n; j++)
        what((const char *)x + (size_t)j * (size_t)stride * bytes_of(type), (size_t)m * bytes_of(type));
}

static void note_operands(const product &g)
{
    const bool ta = g.ta == CUBLAS_OP_T, tb = g.tb == CUBLAS_OP_T;
    note(emulated::note_product_reads, g.a, g.type, ta ? g.k : g.m, ta ? g.m : g.k, g.lda);
    note(emulated::note_product_reads, g.b, g.type, tb ? g.n : g.k, tb ? g.k : g.n, g.ldb);
    if (g.beta != 0)
        note(emulated::note_product_reads, g.c, g.c_type, g.m, g.n, g.ldc);
    note(emulated::note_product_writes, g.c, g.c_type, g.m, g.n, g.ldc);
}

static void multiply(const product &g)
{
    note_operands(g);
    const size_t k = (size_t)g.k;
    std::vector<double> rows((size_t)g.m * k), columns((size_t)g.n * k); /* the operands, k running fastest */
    for (int i = 0; i < g.m; i++)
        for (int l = 0; l < g.k; l++)
            rows[(size_t)i * k + l] =
                element(g.a, g.type, g.ta == CUBLAS_OP_T ? (size_t)i * g.lda + l : (size_t)l * g.lda + i);
    for (int j = 0; j < g.n; j++)
        for (int l = 0; l < g.k; l++)
            columns[(size_t)j * k + l] =
                element(g.b, g.type, g.tb == CUBLAS_OP_T ? (size_t)l * g.ldb + j : (size_t)j * g.ldb + l);
    for (int j = 0; j < g.n; j++)
        for (int i = 0; i < g.m; i++) {
            const double sum = dot(&rows[(size_t)i * k], &columns[(size_t)j * k], g.k);
            const size_t at = (size_t)j * g.ldc + i;
            store(g.c, g.c_type, at, g.alpha * sum + (g.beta == 0 ? 0 : g.beta * element(g.c, g.c_type, at)));
        }
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void *alpha, const void *a, cudaDataType a_type, int lda, const void *b,
                            cudaDataType b_type, int ldb, const void *beta, void *c, cudaDataType c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t)
{
    if (a_type != b_type || (a_type == CUDA_R_64F) != (compute == CUBLAS_COMPUTE_64F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const product g = {ta,     tb,     m,   n,   k,  scalar(alpha, compute), scalar(beta, compute), a, b, c,
                       a_type, c_type, lda, ldb, ldc};
    const cudaError_t queued = emulated::queue(handle->stream, emulated::kind::kernel, [=] { multiply(g); });
    return queued == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
