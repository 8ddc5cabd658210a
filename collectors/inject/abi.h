/* What this library needs to know of CUPTI's binary interface, CUDA 12 and 13: names, numbers and offsets, nothing more.
 *
 * CUPTI only ever appends to its records, so one prefix serves every version since 12.0; records are walked with CUPTI's
 * own cuptiActivityGetNextRecord. tests/collectors/test_inject_abi.py compiles this against NVIDIA's headers and compares.
 */
#ifndef WARPLINE_ABI_H
#define WARPLINE_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { CUPTI_OK = 0, CUPTI_MULTIPLE_SUBSCRIBERS = 39, CUPTI_OLDEST = 18 /* API version of CUDA 12.0 */ };
enum { DOMAIN_DRIVER = 1, DOMAIN_RUNTIME = 2 };
enum { SITE_ENTER = 0, SITE_EXIT = 1 };
enum { OF_MEMCPY = 1, OF_MEMSET = 2, OF_DEVICE = 8, OF_CONTEXT = 9, OF_KERNEL = 10, OF_PEER_COPY = 22, OF_GRAPH = 51 };
enum { COMPUTE_API_MPS = 2, FLUSH_FORCED = 1 };

struct callback_data {
    int site;
    const char *function_name;
    const void *parameters;
    const int *result;
    const char *symbol_name;
    void *context;
    uint32_t context_uid;
    uint64_t *between; /* One number that CUPTI keeps from a call's entry to its exit. */
    uint32_t correlation;
};

struct kernel_record {
    uint32_t kind, caches;
    uint64_t shared_config, start, end, completed;
    uint32_t device, context, stream;
    int32_t grid[3], block[3], static_shared, dynamic_shared;
    uint32_t local_per_thread, local_total, correlation;
    int64_t grid_id;
    const char *name;
    void *reserved;
    uint64_t queued, submitted;
    uint8_t launch_type, is_shared_requested, carveout_percent, padding;
    uint32_t shared_executed;
    uint64_t graph_node;
    uint32_t shared_limit, graph;
};

struct graph_record {
    uint32_t kind, correlation;
    uint64_t start, end;
    uint32_t device, graph, context, stream;
};

/* Copies, copies between devices and memsets agree in their first 48 bytes, except for what byte 4 says. */
struct move_record {
    uint32_t kind, what;
    uint64_t bytes, start, end;
    uint32_t device, context, stream, correlation;
};

struct move_graph {
    struct move_record head;
    uint64_t reserved[2];
    uint64_t graph_node;
    uint32_t graph;
};

struct peer_copy_record {
    uint32_t kind, what;
    uint64_t bytes, start, end;
    uint32_t device, context, stream, from_device, from_context, to_device, to_context, correlation;
};

struct device_record {
    uint32_t kind;
    uint8_t others[108];
    uint32_t id;
    uint32_t more;
    uint8_t uuid[16];
    const char *name;
    uint8_t copy_engines, is_mig, padding[6];
    uint32_t gpu_instance, compute_instance;
    uint8_t mig_uuid[16];
};

struct context_record {
    uint32_t kind, context, device;
    uint16_t compute_api;
};

#endif
