/* The device: streams of operations that take real time, and the ground-truth log of every execution.
 *
 * An operation starts when it was enqueued or when the one before it in its stream ended, whichever is later, and lasts
 * its modelled duration divided by the clock ratio. One thread retires operations as their ends pass; streams overlap.
 */
#define _GNU_SOURCE
#include "double.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { TICK_NS = 1000000, IDLE_TICKS = 20, NODE_GAP_NS = 300, RETIRE_AT_ONCE = 256 };

EXPORTED struct hooks double_hooks;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work, done;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct stream default_stream = {.id = 7};
static struct stream *streams = &default_stream;
static uint32_t next_stream_id = 13;
static struct operation *spare;
static bool running, asleep;
static int waiters;
static uint64_t flush_asked, flush_done, busy_ns, executions;
static double clock_ratio = 1.0;
static FILE *truth;

EXPORTED uint64_t double_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

EXPORTED void double_lock(void) { pthread_mutex_lock(&lock); }
EXPORTED void double_unlock(void) { pthread_mutex_unlock(&lock); }

static void log_execution(const struct operation *o, const char *kind, uint64_t start, uint64_t end, uint64_t node,
                          const char *name) {
    fprintf(truth, "%s,%u,%u,%u,%" PRIu64 ",%" PRIu64 ",%u,%" PRIu64 ",%" PRIu64 ",%s\n", kind, o->correlation,
            o->thread, o->stream->id, start, end, o->graph, node, o->bytes, name);
}

/* What the log's columns mean: a replay is one line `graph` and one line `node` for each of its kernels. */
static void open_truth(void) {
    const char *path = getenv("WARPLINE_DOUBLE_TRUTH");
    if (path && (truth = fopen(path, "w")))
        fputs("kind,correlation,thread,stream,start_ns,end_ns,graph,node,bytes,name\n", truth);
}

static uint64_t scaled(uint64_t duration_ns) {
    uint64_t lasts = (uint64_t)((double)duration_ns / clock_ratio);
    return lasts ? lasts : 1;
}

static void begin(struct operation *o, struct stream *stream) {
    o->start_ns = o->enqueued_ns > stream->free_ns ? o->enqueued_ns : stream->free_ns;
    if (o->kind == WAIT_EVENT && o->event->time_ns > o->start_ns) o->start_ns = o->event->time_ns;
    o->end_ns = o->start_ns;
    if (o->kind <= SET) o->end_ns += scaled(o->duration_ns);
    for (uint32_t i = 0; o->kind == GRAPH && i < o->node_count; i++) {
        o->nodes[i].duration_ns = scaled(o->nodes[i].duration_ns);
        o->end_ns += o->nodes[i].duration_ns + (i ? NODE_GAP_NS : 0);
    }
    o->started = true;
}

static bool blocked(const struct operation *o) {
    return o->kind == WAIT_EVENT && o->event->completed < o->event_target;
}

/* Move what has ended by `now` from the streams to a list; return when the next one ends (0: nothing under way). */
static uint64_t retire(uint64_t now, struct operation ***tail) {
    uint64_t next = 0;
    int left = RETIRE_AT_ONCE;
    for (struct stream *s = streams; s; s = s->next) {
        while (s->first && left) {
            struct operation *o = s->first;
            if (!o->started && blocked(o)) break;
            if (!o->started) begin(o, s);
            if (o->end_ns > now) {
                if (!next || o->end_ns < next) next = o->end_ns;
                break;
            }
            s->first = o->next;
            if (!s->first) s->last = NULL;
            s->free_ns = o->end_ns;
            s->retired++;
            if (o->kind == RECORD_EVENT) o->event->completed++, o->event->time_ns = o->end_ns;
            if (o->kind <= GRAPH) busy_ns += o->end_ns - o->start_ns, executions++;
            o->next = NULL;
            **tail = o;
            *tail = &o->next;
            left--;
        }
        if (!left) return now;
    }
    return next;
}

static void tell(const struct operation *o) {
    static const char *const kinds[] = {"kernel", "memcpy", "memset", "graph"};
    if (o->kind > GRAPH) return;
    if (double_hooks.executed && (o->record || o->graph_record)) double_hooks.executed(o);
    if (!truth) return;
    log_execution(o, kinds[o->kind], o->start_ns, o->end_ns, 0, o->function ? o->function->name : "");
    uint64_t at = o->start_ns;
    for (uint32_t i = 0; i < o->node_count; i++) {
        const struct node *n = &o->nodes[i];
        log_execution(o, "node", at, at + n->duration_ns, n->id, n->function->name);
        at += n->duration_ns + NODE_GAP_NS;
    }
}

static void give_back(struct operation *list) {
    while (list) {
        struct operation *next = list->next;
        free(list->nodes);
        list->next = spare;
        spare = list;
        list = next;
    }
}

static void rest(uint64_t now, uint64_t next, int *idle) {
    *idle = next ? 0 : *idle + 1;
    if (!next && *idle > IDLE_TICKS) {
        asleep = true;
        pthread_cond_wait(&work, &lock);
        asleep = false;
        *idle = 0;
        return;
    }
    uint64_t until = now + TICK_NS;
    if (next && waiters && next < until) until = next;
    struct timespec at = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
    pthread_cond_timedwait(&work, &lock, &at);
}

static void *device_thread(void *unused) {
    (void)unused;
    int idle = 0;
    pthread_mutex_lock(&lock);
    for (;;) {
        struct operation *ended = NULL, **tail = &ended;
        uint64_t now = double_now(), next = retire(now, &tail), asked = flush_asked;
        if (ended) {
            pthread_cond_broadcast(&done);
            pthread_mutex_unlock(&lock);
            for (struct operation *o = ended; o; o = o->next) tell(o);
            pthread_mutex_lock(&lock);
            give_back(ended);
            continue;
        }
        if (asked != flush_done) {
            pthread_mutex_unlock(&lock);
            if (double_hooks.drained) double_hooks.drained();
            if (truth) fflush(truth);
            pthread_mutex_lock(&lock);
            flush_done = asked;
            pthread_cond_broadcast(&done);
            continue;
        }
        rest(now, next, &idle);
    }
    return NULL;
}

static void start_device(void) {
    pthread_condattr_t monotonic;
    pthread_t thread;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&work, &monotonic);
    pthread_cond_init(&done, &monotonic);
    const char *ratio = getenv("WARPLINE_DOUBLE_CLOCK_RATIO");
    if (ratio && atof(ratio) > 0) clock_ratio = atof(ratio);
    open_truth();
    pthread_atfork(double_lock, double_unlock, double_unlock); /* Else a child may inherit it locked. */
    running = !pthread_create(&thread, NULL, device_thread, NULL);
    if (running) pthread_detach(thread);
}

EXPORTED bool double_start(void) {
    pthread_once(&once, start_device);
    return running;
}

/* Faults: the clock as a share of its full speed. It holds for what begins after the call. */
EXPORTED void warpline_double_set_clock_ratio(double ratio) {
    double_lock();
    if (ratio > 0) clock_ratio = ratio;
    double_unlock();
}

EXPORTED double warpline_double_clock_ratio(void) { return clock_ratio; }

/* What the device has done since the start: sum of all executions in ns, and how many. */
EXPORTED uint64_t warpline_double_busy_ns(void) { return busy_ns; }
EXPORTED uint64_t warpline_double_executions(void) { return executions; }

EXPORTED struct stream *double_stream(void *handle) {
    return (uintptr_t)handle > 2 ? (struct stream *)handle : &default_stream;
}

EXPORTED struct stream *double_stream_new(void) {
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream) return NULL;
    double_lock();
    stream->id = next_stream_id++;
    stream->next = streams->next;
    streams->next = stream;
    double_unlock();
    return stream;
}

EXPORTED struct operation *double_operation(enum operation_kind kind, struct stream *stream, const struct call *call) {
    static __thread uint32_t thread;
    if (!thread) thread = (uint32_t)syscall(SYS_gettid);
    double_lock();
    struct operation *o = spare;
    if (o) spare = o->next;
    double_unlock();
    if (!o && !(o = malloc(sizeof *o))) return NULL;
    memset(o, 0, sizeof *o);
    o->kind = kind;
    o->stream = stream;
    o->correlation = call->correlation;
    o->thread = thread;
    return o;
}

EXPORTED void double_enqueue(struct operation *o) {
    static const uint8_t kinds[] = {ACTIVITY_KERNEL, ACTIVITY_MEMCPY, ACTIVITY_MEMSET, ACTIVITY_KERNEL};
    if (o->kind <= GRAPH) o->record = double_hooks.activity[kinds[o->kind]];
    o->graph_record = o->kind == GRAPH && double_hooks.activity[ACTIVITY_GRAPH];
    double_lock();
    struct stream *stream = o->stream;
    o->enqueued_ns = double_now();
    if (stream->last) stream->last->next = o;
    else stream->first = o;
    stream->last = o;
    stream->enqueued++;
    if (o->kind == RECORD_EVENT) o->event->recorded++;
    if (o->kind == WAIT_EVENT) o->event_target = o->event->recorded;
    if (asleep) pthread_cond_signal(&work);
    double_unlock();
}

static void wait_until(const uint64_t *count, uint64_t target) {
    waiters++;
    if (*count < target) pthread_cond_signal(&work);
    while (*count < target) pthread_cond_wait(&done, &lock);
    waiters--;
}

EXPORTED void double_wait_stream(struct stream *stream) {
    double_lock();
    wait_until(&stream->retired, stream->enqueued);
    double_unlock();
}

EXPORTED void double_wait_all(void) {
    double_lock();
    for (struct stream *s = streams; s; s = s->next) wait_until(&s->retired, s->enqueued);
    double_unlock();
}

EXPORTED void double_wait_event(struct event *event) {
    double_lock();
    wait_until(&event->completed, event->recorded);
    double_unlock();
}

EXPORTED void double_flush(void) {
    if (!running) return;
    double_lock();
    wait_until(&flush_done, ++flush_asked);
    double_unlock();
}

static void __attribute__((destructor)) close_truth(void) {
    if (!truth) return;
    double_flush();
    fflush(truth);
}
