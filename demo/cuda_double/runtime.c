/* The CUDA runtime interface (libcudart.so.12) of the double: each call is one runtime call around one driver call. */
#include "double.h"

struct dim3 {
    unsigned x, y, z;
};

int cuInit(unsigned flags);
int cuLaunchKernel(struct function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **arguments,
                   void **extra);
int cuGraphLaunch(struct graph *executable, void *stream);
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream);
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream);
int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream);
int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream);
int cuStreamSynchronize(void *stream);
int cuCtxSynchronize(void);

static void begin(struct call *call, uint32_t id, const char *name, const char *symbol) {
    cuInit(0);
    double_call_begin(call, DOMAIN_RUNTIME, id, name, symbol);
}

EXPORTED int cudaLaunchKernel(struct function *function, struct dim3 grid, struct dim3 block, void **arguments,
                              size_t shared_bytes, void *stream) {
    struct call call;
    begin(&call, 211, "cudaLaunchKernel_v7000", function ? function->name : 0);
    return double_call_end(&call, cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                                                 (unsigned)shared_bytes, stream, arguments, 0));
}

EXPORTED int cudaGraphLaunch(struct graph *executable, void *stream) {
    struct call call;
    begin(&call, 311, "cudaGraphLaunch_v10000", 0);
    return double_call_end(&call, cuGraphLaunch(executable, stream));
}

EXPORTED int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    struct call call;
    int result;
    begin(&call, 41, "cudaMemcpyAsync_v3020", 0);
    if (kind == 1) result = cuMemcpyHtoDAsync_v2((uintptr_t)to, from, bytes, stream);
    else if (kind == 2) result = cuMemcpyDtoHAsync_v2(to, (uintptr_t)from, bytes, stream);
    else result = cuMemcpyAsync((uintptr_t)to, (uintptr_t)from, bytes, stream);
    return double_call_end(&call, result);
}

EXPORTED int cudaMemsetAsync(void *to, int value, size_t bytes, void *stream) {
    struct call call;
    begin(&call, 51, "cudaMemsetAsync_v3020", 0);
    return double_call_end(&call, cuMemsetD8Async((uintptr_t)to, (unsigned char)value, bytes, stream));
}

EXPORTED int cudaStreamSynchronize(void *stream) { return cuStreamSynchronize(stream); }
EXPORTED int cudaDeviceSynchronize(void) { return cuCtxSynchronize(); }
