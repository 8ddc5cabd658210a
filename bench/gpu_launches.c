/* Launches empty-handed kernels on the CUDA double at a fixed rate: gpu_launches RATE SECONDS (rate 0: as fast as it can).
 * Prints calls, seconds, and the median over batches of the ns that one call took. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BATCH = 50, MOST = 1 << 20 };

int cuInit(unsigned flags);
int cuModuleGetFunction(void **function, void *module, const char *name);
int cuStreamCreate(void **stream, unsigned flags);
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra);
int cuCtxSynchronize(void);

static uint64_t now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    double rate = count > 1 ? atof(words[1]) : 0, seconds = count > 2 ? atof(words[2]) : 1;
    void *function, *stream;
    uint64_t duration_ns = 500, calls = 0, batches = 0;
    void *arguments[] = {&duration_ns};
    double *took = malloc(MOST * sizeof *took);
    if (!took || cuInit(0) || cuModuleGetFunction(&function, (void *)1, "bench_kernel") || cuStreamCreate(&stream, 0))
        return 1;
    uint64_t start = now(), end = start + (uint64_t)(seconds * 1e9), at = start;
    while (at < end && batches < MOST) {
        for (int i = 0; i < BATCH; i++) cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
        uint64_t done = now();
        took[batches++] = (double)(done - at) / BATCH;
        calls += BATCH;
        uint64_t due = rate > 0 ? start + (uint64_t)((double)calls / rate * 1e9) : done;
        if (due > done + 60000) {
            struct timespec rest = {.tv_nsec = (long)(due - done - 50000) % 1000000000};
            nanosleep(&rest, NULL);
        }
        while ((at = now()) < due);
    }
    double elapsed = (double)(at - start) / 1e9;
    qsort(took, batches, sizeof *took, compare);
    printf("%llu %.6f %.1f\n", (unsigned long long)calls, elapsed, took[batches / 2]);
    cuCtxSynchronize();
    return 0;
}
