/* The CUDA driver interface (libcuda.so.1) of the double: what the demo, the tests and libcudart's double call.
 *
 * A kernel's first argument, an unsigned 64-bit number, is its duration in ns at full clock: the double computes nothing.
 * Unlike CUDA, its default stream does not wait for the other streams.
 */
#define _GNU_SOURCE
#include "double.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COPY_BYTES_PER_US = 20000, SET_BYTES_PER_US = 1000000, CONTEXT = 1 };

static uint32_t next_correlation = 1;
static __thread uint32_t outer_correlation;
static struct function *functions;
static bool initialised;

/* CUPTI counts every call; one driver call inside a runtime call shares the runtime call's number. */
EXPORTED void double_call_begin(struct call *call, int domain, uint32_t id, const char *name, const char *symbol) {
    memset(call, 0, sizeof *call);
    call->domain = domain, call->id = id, call->name = name, call->symbol = symbol;
    call->outer = outer_correlation;
    call->correlation = call->outer ? call->outer : __atomic_fetch_add(&next_correlation, 1, __ATOMIC_RELAXED);
    if (domain == DOMAIN_RUNTIME) outer_correlation = call->correlation;
    call->watched = double_hooks.enabled[domain][id];
    if (call->watched)
        double_hooks.call(domain, id, 0, name, symbol, call->correlation, &call->between, &call->result);
}

EXPORTED int double_call_end(struct call *call, int result) {
    call->result = result;
    if (call->watched)
        double_hooks.call(call->domain, call->id, 1, call->name, call->symbol, call->correlation, &call->between,
                          &call->result);
    if (call->domain == DOMAIN_RUNTIME) outer_correlation = call->outer;
    return result;
}

static void inject(void) {
    const char *path = getenv("CUDA_INJECTION64_PATH");
    void *library = path ? dlopen(path, RTLD_NOW) : NULL;
    int (*begin)(void) = NULL;
    if (library) *(void **)&begin = dlsym(library, "InitializeInjection");
    if (begin) begin();
    else if (path) fprintf(stderr, "cuda double: no injection from %s: %s\n", path, dlerror());
}

EXPORTED int cuInit(unsigned flags) {
    if (flags) return INVALID_VALUE;
    if (initialised) return SUCCESS;
    initialised = true;
    const char *start = getenv("WARPLINE_DOUBLE_CORRELATION_START");
    if (start) next_correlation = (uint32_t)strtoul(start, NULL, 0);
    if (!double_start()) return NOT_INITIALIZED;
    inject();
    return SUCCESS;
}

EXPORTED int cuDriverGetVersion(int *version) { return *version = 12090, SUCCESS; }
EXPORTED int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
EXPORTED int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, ordinal ? INVALID_VALUE : SUCCESS; }

EXPORTED int cuDeviceGetName(char *name, int length, int device) {
    (void)device;
    return snprintf(name, (size_t)length, "%s", DEVICE_NAME), SUCCESS;
}

EXPORTED int cuDeviceGetUuid(void *uuid, int device) {
    const char *number = getenv("WARPLINE_DOUBLE_GPU"); /* each process has one device: which of them, as one letter */
    (void)device;
    memcpy(uuid, "warpline-double!", 16);
    if (number && *number)
        ((char *)uuid)[15] = *number;
    return SUCCESS;
}

EXPORTED int cuCtxCreate_v2(void **context, unsigned flags, int device) {
    (void)flags, (void)device;
    return *context = (void *)(uintptr_t)CONTEXT, initialised ? SUCCESS : NOT_INITIALIZED;
}

EXPORTED int cuDevicePrimaryCtxRetain(void **context, int device) { return cuCtxCreate_v2(context, 0, device); }
EXPORTED int cuCtxSetCurrent(void *context) { return (void)context, SUCCESS; }
EXPORTED int cuCtxSynchronize(void) { return double_wait_all(), SUCCESS; }

/* A module is nothing here: any name has a function. */
EXPORTED int cuModuleLoadData(void **module, const void *image) {
    (void)image;
    return *module = (void *)(uintptr_t)1, SUCCESS;
}

EXPORTED int cuModuleGetFunction(struct function **found, void *module, const char *name) {
    (void)module;
    double_lock();
    struct function *f = functions;
    while (f && strcmp(f->name, name)) f = f->next;
    if (!f && (f = calloc(1, sizeof *f))) {
        snprintf(f->name, sizeof f->name, "%s", name);
        f->next = functions;
        functions = f;
    }
    double_unlock();
    *found = f;
    return f ? SUCCESS : INVALID_VALUE;
}

EXPORTED int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    static uint64_t next = 0x7f0000000000u;
    *address = __atomic_fetch_add(&next, (bytes + 511) & ~(size_t)511, __ATOMIC_RELAXED);
    return SUCCESS;
}

EXPORTED int cuMemFree_v2(uint64_t address) { return (void)address, SUCCESS; }

EXPORTED int cuStreamCreate(void **stream, unsigned flags) {
    (void)flags;
    *stream = double_stream_new();
    return *stream ? SUCCESS : INVALID_VALUE;
}

EXPORTED int cuStreamDestroy_v2(void *stream) { return double_wait_stream(double_stream(stream)), SUCCESS; }

EXPORTED int cuStreamSynchronize(void *stream) {
    struct call call;
    double_call_begin(&call, DOMAIN_DRIVER, 126, "cuStreamSynchronize", NULL);
    double_wait_stream(double_stream(stream));
    return double_call_end(&call, SUCCESS);
}

static int launch(struct call *call, struct function *function, void *stream, void **arguments) {
    struct stream *on = double_stream(stream);
    if (!function) return double_call_end(call, INVALID_HANDLE);
    uint64_t duration_ns = arguments && arguments[0] ? *(uint64_t *)arguments[0] : 1000;
    if (on->capture) return double_capture(on, function, duration_ns), double_call_end(call, SUCCESS);
    struct operation *o = double_operation(KERNEL, on, call);
    if (!o) return double_call_end(call, INVALID_VALUE);
    o->function = function;
    o->duration_ns = duration_ns;
    double_enqueue(o);
    return double_call_end(call, SUCCESS);
}

EXPORTED int cuLaunchKernel(struct function *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream,
                            void **arguments, void **extra) {
    struct call call;
    (void)grid_x, (void)grid_y, (void)grid_z, (void)block_x, (void)block_y, (void)block_z, (void)shared_bytes;
    (void)extra;
    double_call_begin(&call, DOMAIN_DRIVER, 307, "cuLaunchKernel", function ? function->name : NULL);
    return launch(&call, function, stream, arguments);
}

struct launch_config {
    unsigned grid[3], block[3], shared_bytes;
    void *stream, *attributes;
    unsigned attribute_count;
};

EXPORTED int cuLaunchKernelEx(const struct launch_config *config, struct function *function, void **arguments,
                              void **extra) {
    struct call call;
    (void)extra;
    double_call_begin(&call, DOMAIN_DRIVER, 652, "cuLaunchKernelEx", function ? function->name : NULL);
    return launch(&call, function, config->stream, arguments);
}

static int move(struct call *call, enum operation_kind kind, void *stream, size_t bytes, uint32_t copy_kind) {
    struct operation *o = double_operation(kind, double_stream(stream), call);
    if (!o) return double_call_end(call, INVALID_VALUE);
    o->bytes = bytes;
    o->copy_kind = copy_kind;
    o->duration_ns = 1500 + bytes * 1000 / (kind == COPY ? COPY_BYTES_PER_US : SET_BYTES_PER_US);
    double_enqueue(o);
    return double_call_end(call, SUCCESS);
}

EXPORTED int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    struct call call;
    (void)to, (void)from;
    double_call_begin(&call, DOMAIN_DRIVER, 277, "cuMemcpyHtoDAsync_v2", NULL);
    return move(&call, COPY, stream, bytes, 1);
}

EXPORTED int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    struct call call;
    (void)to, (void)from;
    double_call_begin(&call, DOMAIN_DRIVER, 279, "cuMemcpyDtoHAsync_v2", NULL);
    return move(&call, COPY, stream, bytes, 2);
}

EXPORTED int cuMemcpyAsync(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    struct call call;
    (void)to, (void)from;
    double_call_begin(&call, DOMAIN_DRIVER, 306, "cuMemcpyAsync", NULL);
    return move(&call, COPY, stream, bytes, 8);
}

EXPORTED int cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *stream) {
    struct call call;
    (void)to, (void)value;
    double_call_begin(&call, DOMAIN_DRIVER, 216, "cuMemsetD8Async", NULL);
    return move(&call, SET, stream, bytes, 0);
}

EXPORTED int cuGetProcAddress_v2(const char *symbol, void **address, int version, uint64_t flags, void *status) {
    (void)version, (void)flags, (void)status;
    *address = dlsym(RTLD_DEFAULT, symbol);
    return *address ? SUCCESS : INVALID_VALUE;
}
