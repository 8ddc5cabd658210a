/* CUPTI (libcupti.so.12) of the double: the calls that Warpline's injected library makes, with CUPTI's record layouts.
 *
 * Records are put down by offset, as CUPTI 12.9's header lays them out. What CUPTI can get wrong can be asked for:
 * WARPLINE_DOUBLE_DROP_EVERY, _BAD_STAMP_EVERY, _CUPTI_VERSION, _MPS, _MIG.
 */
#define _GNU_SOURCE
#include "double.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { OK = 0, INVALID_PARAMETER = 1, MAX_LIMIT_REACHED = 12, MULTIPLE_SUBSCRIBERS = 39 };
enum { KERNEL_BYTES = 208, COPY_BYTES = 96, SET_BYTES = 88, GRAPH_BYTES = 56, DEVICE_BYTES = 184, CONTEXT_BYTES = 32 };
enum { NODE_GAP_NS = 300 };

struct callback_data {
    int site;
    const char *name;
    const void *parameters;
    void *result;
    const char *symbol;
    void *context;
    uint32_t context_uid;
    uint64_t *between;
    uint32_t correlation;
};
_Static_assert(sizeof(struct callback_data) == 72, "CUpti_CallbackData");

static void (*subscriber)(void *user, int domain, uint32_t id, const struct callback_data *data);
static void *subscriber_data;
static void (*request)(uint8_t **buffer, size_t *size, size_t *most);
static void (*complete)(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid);
static uint64_t (*timestamp)(void);
static uint8_t *buffer;
static size_t buffer_size, buffer_used, dropped;
static uint64_t records, last_flush_ns, flush_period_ns;

static unsigned long fault(const char *name) {
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 0) : 0;
}

static void deliver(void) {
    if (!buffer) return;
    uint8_t *full = buffer;
    buffer = NULL;
    last_flush_ns = double_now();
    complete(NULL, 0, full, buffer_size, buffer_used);
}

/* Return room for one record of `bytes`, or NULL where it is dropped. */
static uint8_t *room(uint32_t kind, size_t bytes) {
    static unsigned long drop_every = (unsigned long)-1;
    if (drop_every == (unsigned long)-1) drop_every = fault("WARPLINE_DOUBLE_DROP_EVERY");
    records++;
    if (drop_every && records % drop_every == 0) return dropped++, NULL;
    if (buffer && buffer_used + bytes > buffer_size) deliver();
    if (!buffer && request) {
        size_t most = 0;
        request(&buffer, &buffer_size, &most);
        buffer_used = 0;
    }
    if (!buffer) return dropped++, NULL;
    uint8_t *record = buffer + buffer_used;
    buffer_used += bytes;
    memset(record, 0, bytes);
    memcpy(record, &kind, sizeof kind);
    return record;
}

static void put32(uint8_t *record, size_t at, uint32_t value) { memcpy(record + at, &value, sizeof value); }
static void put64(uint8_t *record, size_t at, uint64_t value) { memcpy(record + at, &value, sizeof value); }

/* CUPTI's time is CLOCK_REALTIME until a timestamp callback is registered. */
static uint64_t stamp(uint64_t monotonic_ns) {
    if (timestamp) return monotonic_ns;
    struct timespec real;
    clock_gettime(CLOCK_REALTIME, &real);
    return monotonic_ns + ((uint64_t)real.tv_sec * 1000000000u + (uint64_t)real.tv_nsec - double_now());
}

static void put_times(uint8_t *record, size_t at, uint64_t start, uint64_t end) {
    static unsigned long bad_every = (unsigned long)-1;
    if (bad_every == (unsigned long)-1) bad_every = fault("WARPLINE_DOUBLE_BAD_STAMP_EVERY");
    start = stamp(start), end = stamp(end);
    if (bad_every && records % bad_every == 0) {
        uint64_t which = records / bad_every % 3, swap = start;
        if (which == 0) start = end = 0;
        else if (which == 1) start = end, end = swap;
        else start = 1, end = 2;
    }
    put64(record, at, start);
    put64(record, at + 8, end);
}

static void put_kernel(const struct operation *o, uint64_t start, uint64_t end, const char *name, uint64_t node) {
    uint8_t *record = room(ACTIVITY_KERNEL, KERNEL_BYTES);
    if (!record) return;
    put_times(record, 16, start, end);
    put32(record, 44, 1);
    put32(record, 48, o->stream->id);
    put32(record, 92, o->correlation);
    put64(record, 104, (uintptr_t)name);
    put64(record, 144, node);
    put32(record, 156, o->graph);
}

static void put_move(const struct operation *o) {
    uint8_t *record = o->kind == COPY ? room(ACTIVITY_MEMCPY, COPY_BYTES) : room(ACTIVITY_MEMSET, SET_BYTES);
    if (!record) return;
    if (o->kind == COPY) record[4] = (uint8_t)o->copy_kind;
    put64(record, 8, o->bytes);
    put_times(record, 16, o->start_ns, o->end_ns);
    put32(record, 36, 1);
    put32(record, 40, o->stream->id);
    put32(record, 44, o->correlation);
}

static void put_graph(const struct operation *o) {
    uint8_t *record = room(ACTIVITY_GRAPH, GRAPH_BYTES);
    if (!record) return;
    put32(record, 4, o->correlation);
    put_times(record, 8, o->start_ns, o->end_ns);
    put32(record, 28, o->graph);
    put32(record, 32, 1);
    put32(record, 36, o->stream->id);
    put32(record, 52, 1);
}

EXPORTED int cuDeviceGetUuid(void *uuid, int device); /* of the driver's double */

static void put_device(void) {
    uint8_t *record = room(ACTIVITY_DEVICE, DEVICE_BYTES);
    if (!record) return;
    cuDeviceGetUuid(record + 120, 0);
    put64(record, 136, (uintptr_t)DEVICE_NAME);
    if (!fault("WARPLINE_DOUBLE_MIG")) return;
    record[145] = 1;
    put32(record, 152, 1);
    memcpy(record + 160, "warpline-dbl-mig", 16);
}

static void put_context(void) {
    uint8_t *record = room(ACTIVITY_CONTEXT, CONTEXT_BYTES);
    if (!record) return;
    put32(record, 4, 1);
    record[12] = fault("WARPLINE_DOUBLE_MPS") ? 2 : 1;
}

/* The device thread alone writes records; the identities come first. */
static void identify(void) {
    static bool told;
    if (told || !double_hooks.activity[ACTIVITY_CONTEXT]) return;
    told = true;
    put_device();
    put_context();
}

static void drained(void) {
    identify();
    deliver();
}

static void executed(const struct operation *o) {
    identify();
    if (o->kind == KERNEL) put_kernel(o, o->start_ns, o->end_ns, o->function->name, 0);
    else if (o->kind == COPY || o->kind == SET) put_move(o);
    else if (o->graph_record) put_graph(o);
    else
        for (uint64_t i = 0, at = o->start_ns; i < o->node_count; i++) {
            const struct node *n = &o->nodes[i];
            put_kernel(o, at, at + n->duration_ns, n->function->name, n->id);
            at += n->duration_ns + NODE_GAP_NS;
        }
    if (flush_period_ns && double_now() - last_flush_ns > flush_period_ns) deliver();
}

static void call(int domain, uint32_t id, int site, const char *name, const char *symbol, uint32_t correlation,
                 uint64_t *between, int *result) {
    struct callback_data data = {.site = site, .name = name, .result = result, .symbol = symbol, .context_uid = 1};
    data.between = between;
    data.correlation = correlation;
    void (*to)(void *, int, uint32_t, const struct callback_data *) = subscriber;
    if (to) to(subscriber_data, domain, id, &data);
}

EXPORTED int cuptiGetVersion(uint32_t *version) {
    unsigned long asked = fault("WARPLINE_DOUBLE_CUPTI_VERSION");
    return *version = asked ? (uint32_t)asked : 28, OK;
}

EXPORTED int cuptiGetResultString(int result, const char **text) {
    *text = result == MULTIPLE_SUBSCRIBERS ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED" : "CUPTI_ERROR";
    return OK;
}

EXPORTED int cuptiSubscribe(void **handle, void *callback, void *user) {
    if (subscriber) return MULTIPLE_SUBSCRIBERS;
    subscriber_data = user;
    double_hooks.call = call;
    double_hooks.executed = executed;
    double_hooks.drained = drained;
    *(void **)&subscriber = callback;
    return *handle = &subscriber, OK;
}

EXPORTED int cuptiUnsubscribe(void *handle) {
    (void)handle;
    memset(double_hooks.enabled, 0, sizeof double_hooks.enabled);
    return subscriber = NULL, OK;
}

EXPORTED int cuptiEnableCallback(uint32_t enable, void *handle, int domain, uint32_t id) {
    if (!handle || domain >= DOMAINS || id >= CALLS) return INVALID_PARAMETER;
    return double_hooks.enabled[domain][id] = (uint8_t)enable, OK;
}

EXPORTED int cuptiActivityRegisterCallbacks(void *buffer_requested, void *buffer_completed) {
    *(void **)&request = buffer_requested;
    *(void **)&complete = buffer_completed;
    return OK;
}

EXPORTED int cuptiActivityRegisterTimestampCallback(void *callback) { return *(void **)&timestamp = callback, OK; }

EXPORTED int cuptiActivityEnable(int kind) {
    if (kind <= 0 || kind >= 64) return INVALID_PARAMETER;
    double_hooks.activity[kind] = 1;
    return OK;
}

EXPORTED int cuptiActivityDisable(int kind) {
    if (kind <= 0 || kind >= 64) return INVALID_PARAMETER;
    return double_hooks.activity[kind] = 0, OK;
}

EXPORTED int cuptiActivityFlushAll(uint32_t flags) {
    (void)flags;
    return double_flush(), OK;
}

EXPORTED int cuptiActivityFlushPeriod(uint32_t milliseconds) {
    return flush_period_ns = milliseconds * 1000000ull, OK;
}

EXPORTED int cuptiActivityGetNextRecord(uint8_t *from, size_t valid, uint8_t **record) {
    static const uint16_t bytes[64] = {[ACTIVITY_KERNEL] = KERNEL_BYTES, [ACTIVITY_MEMCPY] = COPY_BYTES,
                                       [ACTIVITY_MEMSET] = SET_BYTES,    [ACTIVITY_GRAPH] = GRAPH_BYTES,
                                       [ACTIVITY_DEVICE] = DEVICE_BYTES, [ACTIVITY_CONTEXT] = CONTEXT_BYTES};
    uint32_t kind;
    uint8_t *next = from;
    if (*record) {
        memcpy(&kind, *record, sizeof kind);
        next = *record + bytes[kind];
    }
    if (next >= from + valid) return MAX_LIMIT_REACHED;
    return *record = next, OK;
}

EXPORTED int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream, size_t *count) {
    (void)context, (void)stream;
    *count = __atomic_exchange_n(&dropped, 0, __ATOMIC_RELAXED);
    return OK;
}
