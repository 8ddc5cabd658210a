/* What the parts of the CUDA double share: streams, operations, and the hooks that its CUPTI hangs on.
 *
 * The double stands in for a GPU where there is none. Its clock is CLOCK_MONOTONIC; its device takes real time; it
 * computes nothing. Every name that a person may see carries the word "simulated".
 */
#ifndef WARPLINE_CUDA_DOUBLE_H
#define WARPLINE_CUDA_DOUBLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEVICE_NAME "Warpline CUDA double (simulated)"
#define EXPORTED __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_HANDLE = 400, NOT_READY = 600, NOT_SUPPORTED = 801 };

/* CUPTI's numbers, which the driver's double hands through: callback domains and activity kinds. */
enum { DOMAIN_DRIVER = 1, DOMAIN_RUNTIME = 2, DOMAINS = 3, CALLS = 1024 };
enum { ACTIVITY_MEMCPY = 1, ACTIVITY_MEMSET = 2, ACTIVITY_DEVICE = 8, ACTIVITY_CONTEXT = 9, ACTIVITY_KERNEL = 10 };
enum { ACTIVITY_GRAPH = 51 };

enum operation_kind { KERNEL, COPY, SET, GRAPH, RECORD_EVENT, WAIT_EVENT };

struct function {
    char name[120];
    struct function *next;
};

struct node {
    struct function *function;
    uint64_t duration_ns;
    uint64_t id;
};

struct event {
    uint64_t recorded, completed; /* how often */
    uint64_t time_ns;
};

struct operation {
    struct operation *next;
    enum operation_kind kind;
    uint32_t correlation, thread, graph, copy_kind;
    uint64_t enqueued_ns, start_ns, end_ns, duration_ns, bytes, event_target;
    struct function *function;
    struct event *event;
    struct node *nodes;
    uint32_t node_count;
    bool started, graph_record, record;
    struct stream *stream;
};

struct stream {
    struct stream *next;
    uint32_t id;
    uint64_t enqueued, retired, free_ns;
    struct operation *first, *last;
    struct graph *capture;
};

struct graph {
    uint32_t id;
    struct node *nodes;
    uint32_t count, room;
};

/* Set by the double of CUPTI; unset, nobody watches. */
struct hooks {
    void (*call)(int domain, uint32_t id, int site, const char *name, const char *symbol, uint32_t correlation,
                 uint64_t *between, int *result);
    void (*executed)(const struct operation *operation);
    void (*drained)(void);
    uint8_t enabled[DOMAINS][CALLS];
    uint8_t activity[64];
};
extern struct hooks double_hooks;

/* One API call, from entry to exit, as CUPTI's callbacks see it. */
struct call {
    int domain;
    uint32_t id, correlation, outer;
    const char *name, *symbol;
    uint64_t between;
    int result;
    bool watched;
};

uint64_t double_now(void);
void double_call_begin(struct call *call, int domain, uint32_t id, const char *name, const char *symbol);
int double_call_end(struct call *call, int result);

struct stream *double_stream(void *handle);
struct stream *double_stream_new(void);
bool double_start(void);
struct operation *double_operation(enum operation_kind kind, struct stream *stream, const struct call *call);
void double_enqueue(struct operation *operation);
void double_wait_stream(struct stream *stream);
void double_wait_all(void);
void double_wait_event(struct event *event);
void double_flush(void);
void double_lock(void);
void double_unlock(void);
void double_capture(struct stream *stream, struct function *function, uint64_t duration_ns);

#endif
