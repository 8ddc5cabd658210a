/* CUPTI's activity records: each becomes one ring record, with the step of its launch and a word on its times. */
#define _GNU_SOURCE
#include "library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BUFFER_BYTES = 256 << 10, BUFFERS = 32, LATEST_END_NS = 1000000000 };

static int buffers_out;

void buffer_requested(uint8_t **buffer, size_t *size, size_t *most_records) {
    *most_records = 0;
    *size = BUFFER_BYTES;
    *buffer = NULL;
    /* Without a buffer CUPTI drops records and counts them: better than memory without end in the host process. */
    if (__atomic_add_fetch(&buffers_out, 1, __ATOMIC_RELAXED) > BUFFERS || !ring.header) {
        __atomic_fetch_sub(&buffers_out, 1, __ATOMIC_RELAXED);
        *size = 0;
        return;
    }
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    if (!*buffer) *size = 0, __atomic_fetch_sub(&buffers_out, 1, __ATOMIC_RELAXED);
}

static uint8_t check_times(uint64_t start, uint64_t end) {
    if (!start && !end) return FLAG_NO_TIME;
    if (end < start) return FLAG_REVERSED;
    if (start < ring.header->opened_ns || end > ring_now() + LATEST_END_NS) return FLAG_OUTSIDE;
    return 0;
}

struct execution {
    enum ring_kind kind;
    uint32_t device, context, stream, correlation, graph;
    uint64_t start, end, value;
    const char *name;
};

static void put(const struct execution *e) {
    struct launch_note note = {.step = -1, .sampled = 1, .level = level_now};
    uint64_t correlation = unwrap(e->correlation), index;
    launch_find(correlation, &note);
    /* A step is recorded whole or not at all, so that the sums inside it are whole. */
    if (!note.sampled && e->kind != RING_GRAPH) {
        __atomic_fetch_add(&ring.header->lost_outside_sample, 1, __ATOMIC_RELAXED);
        return;
    }
    uint16_t name = ring_known_name(&ring, e->name);
    struct ring_record *record = ring_take(&ring, &index);
    record->kind = (uint8_t)e->kind;
    record->flags = (uint8_t)((note.sampled ? FLAG_SAMPLED : 0) | check_times(e->start, e->end));
    record->level = note.level;
    record->device = e->device < RING_DEVICES ? (uint8_t)e->device : RING_NO_DEVICE;
    record->thread = e->stream;
    record->start_ns = e->start;
    record->end_ns = e->end;
    record->correlation = correlation;
    record->step = note.step;
    record->name = name;
    record->context = e->context < 65536 ? (uint16_t)e->context : 65535;
    record->graph = e->graph;
    record->value = e->value;
    ring_commit(record, index);
    __atomic_fetch_add(&ring.header->executions, 1, __ATOMIC_RELAXED);
}

static void put_kernel(const struct kernel_record *k) {
    put(&(struct execution){RING_KERNEL, k->device, k->context, k->stream, k->correlation, k->graph, k->start, k->end,
                            k->graph_node, k->name});
}

static void put_move(const struct move_graph *m) {
    put(&(struct execution){m->head.kind == OF_MEMSET ? RING_MEMSET : RING_MEMCPY, m->head.device, m->head.context,
                            m->head.stream, m->head.correlation, m->graph, m->head.start, m->head.end, m->head.bytes,
                            NULL});
}

static void put_peer(const struct peer_copy_record *p) {
    put(&(struct execution){RING_MEMCPY, p->device, p->context, p->stream, p->correlation, 0, p->start, p->end,
                            p->bytes, NULL});
}

static void put_graph(const struct graph_record *g) {
    put(&(struct execution){RING_GRAPH, g->device, g->context, g->stream, g->correlation, g->graph, g->start, g->end, 0,
                            NULL});
}

static void print_uuid(char *into, size_t room, const char *prefix, const uint8_t *u) {
    snprintf(into, room, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", prefix, u[0], u[1],
             u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

static void note_device(const struct device_record *d) {
    if (d->id >= RING_DEVICES) return;
    struct ring_device *device = &ring.header->devices[d->id];
    if (d->is_mig) {
        print_uuid(device->uuid, sizeof device->uuid, "MIG", d->mig_uuid);
        device->gpu_instance = (int32_t)d->gpu_instance;
        device->compute_instance = (int32_t)d->compute_instance;
    } else {
        print_uuid(device->uuid, sizeof device->uuid, "GPU", d->uuid);
        device->gpu_instance = device->compute_instance = -1;
    }
    if (d->name) snprintf(device->name, sizeof device->name, "%s", d->name);
    if (d->name && strstr(d->name, "(simulated)")) ring.header->simulated = 1;
}

static void note_context(const struct context_record *c) {
    if (c->compute_api != COMPUTE_API_MPS) return;
    ring_reason(&ring, "the process uses the GPU through MPS, where CUPTI's times are not those of one process");
    levels_off(false);
}

static void put_record(const uint8_t *record) {
    uint32_t kind;
    memcpy(&kind, record, sizeof kind);
    switch (kind) {
    case OF_KERNEL: put_kernel((const void *)record); break;
    case OF_MEMCPY: case OF_MEMSET: put_move((const void *)record); break;
    case OF_PEER_COPY: put_peer((const void *)record); break;
    case OF_GRAPH: put_graph((const void *)record); break;
    case OF_DEVICE: note_device((const void *)record); break;
    case OF_CONTEXT: note_context((const void *)record); break;
    default: break;
    }
}

static uint64_t own_cpu(void) {
    struct timespec used;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

void buffer_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    uint64_t began = own_cpu();
    uint8_t *record = NULL;
    size_t dropped = 0;
    (void)size;
    if (ring.header && buffer) {
        while (cupti.activity_next(buffer, valid, &record) == CUPTI_OK) put_record(record);
        cupti.activity_dropped(context, stream, &dropped);
        __atomic_fetch_add(&ring.header->lost_by_cupti, dropped, __ATOMIC_RELAXED);
        __atomic_fetch_add(&ring.header->record_ns, own_cpu() - began, __ATOMIC_RELAXED);
    }
    if (buffer) __atomic_fetch_sub(&buffers_out, 1, __ATOMIC_RELAXED);
    free(buffer);
}
