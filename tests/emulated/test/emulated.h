/* tests/emulated/test/emulated.h: what tests of the emulation share: arrays of the device, launches, and kernels that
 * must be refused. */
#ifndef STM_TESTS_EMULATED_TEST_H
#define STM_TESTS_EMULATED_TEST_H

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
}

struct device {
    cudaStream_t stream;

    device()
    {
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    }

    template <class T> T *take(size_t n)
    {
        T *array = nullptr;
        cudaMalloc((void **)&array, n * sizeof(T));
        return array;
    }

    template <class T> T *give(const std::vector<T> &x)
    {
        T *array = take<T>(x.size());
        cudaMemcpyAsync(array, x.data(), x.size() * sizeof(T), cudaMemcpyDefault, stream);
        return array;
    }

    template <class T> std::vector<T> read(const T *array, size_t n)
    {
        std::vector<T> x(n);
        cudaMemcpyAsync(x.data(), array, n * sizeof(T), cudaMemcpyDefault, stream);
        cudaStreamSynchronize(stream);
        return x;
    }

    template <class... Parameters, class... Arguments>
    void run(dim3 grid, unsigned threads, size_t shared_bytes, void (*kernel)(Parameters...), Arguments... arguments)
    {
        cudaLaunchConfig_t config = {};
        config.gridDim = grid;
        config.blockDim = dim3(threads);
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream;
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        cudaLaunchKernelEx(&config, kernel, arguments...);
        cudaStreamSynchronize(stream);
    }
};

/* What a process says that runs `body` and must be ended by the emulation. */
template <class Body> std::string refusal_of(Body body)
{
    int ends[2];
    char text[4096];
    std::string said;
    if (pipe(ends) != 0)
        fail_msg("no pipe");
    const pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        body();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; (n = ::read(ends[0], text, sizeof text)) > 0;)
        said.append(text, (size_t)n);
    close(ends[0]);
    int status;
    waitpid(child, &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        fail_msg("not refused; expected the process to be ended; it said: %s", said.c_str());
    return said;
}

#define assert_refused(expected, body)                                                                                 \
    do {                                                                                                               \
        const std::string said_ = refusal_of(body);                                                                    \
        if (said_.find(expected) == std::string::npos)                                                                 \
            fail_msg("refused with: %s; expected: %s", said_.c_str(), expected);                                       \
    } while (0)

#endif
