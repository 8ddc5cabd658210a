/* Warpline's library in a CUDA process. CUDA loads it at cuInit where CUDA_INJECTION64_PATH names it.
 *
 * It never ends, blocks or changes its host: whatever fails ends in "not collecting, because …" in the ring's header, or on
 * stderr where there is no ring. It has one thread, which polls CUPTI's drops and the collector's wishes ten times a second.
 */
#define _GNU_SOURCE
#include "library.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TICK_NS = 100000000, FLUSH_MS = 200, TICKS_PER_FLUSH = 5, PATIENCE_TICKS = 20 };

struct ring ring;
static bool started;
static int flushed;

static int refuse(const char *reason) {
    if (ring.header) ring_reason(&ring, reason);
    else fprintf(stderr, "warpline: not collecting, because %s\n", reason);
    return 1; /* To CUDA this is success: the process goes on without us. */
}

static void poll_drops(void) {
    size_t dropped = 0;
    if (cupti.activity_dropped(NULL, 0, &dropped) == CUPTI_OK && dropped)
        __atomic_fetch_add(&ring.header->lost_by_cupti, dropped, __ATOMIC_RELAXED);
}

static void *watch(void *unused) {
    (void)unused;
    pthread_setname_np(pthread_self(), "warpline");
    for (uint64_t tick = 0; ring.header; tick++) {
        struct timespec rest = {.tv_nsec = TICK_NS};
        nanosleep(&rest, NULL);
        if (!ring.header || ring.header->state != STATE_COLLECTING) break;
        levels_tick();
        if (tick % TICKS_PER_FLUSH == 0) cupti.activity_flush(0);
        poll_drops();
    }
    return NULL;
}

static bool start_thread(void) {
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all); /* The host's signals are the host's. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool made = !pthread_create(&thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (made) pthread_detach(thread);
    return made;
}

static void *flush_last(void *unused) {
    (void)unused;
    cupti.activity_flush(FLUSH_FORCED);
    poll_drops();
    __atomic_store_n(&flushed, 1, __ATOMIC_RELEASE);
    return NULL;
}

/* The last records are asked for in a thread of their own: a hung device must not keep its process from ending. */
static void at_exit(void) {
    pthread_t thread;
    if (!ring.header || ring.header->state != STATE_COLLECTING) return;
    if (!pthread_create(&thread, NULL, flush_last, NULL)) {
        pthread_detach(thread);
        struct timespec rest = {.tv_nsec = TICK_NS / 10};
        for (int i = 0; i < 10 * PATIENCE_TICKS && !__atomic_load_n(&flushed, __ATOMIC_ACQUIRE); i++)
            nanosleep(&rest, NULL);
    }
    __atomic_store_n(&ring.header->state, STATE_ENDED, __ATOMIC_RELEASE);
}

/* A fork's child has its parent's memory but not its GPU: it must not write to its parent's ring. */
static void in_child(void) {
    ring.header = NULL;
    started = false;
}

static uint32_t level_from(const char *name) {
    static const char *const names[] = {"none", "callbacks", "graph", "node"};
    for (uint32_t i = 0; name && i < LEVELS; i++)
        if (!strcmp(name, names[i])) return i;
    return LEVEL_GRAPH;
}

static void read_wishes(void) {
    const char *level = getenv("WARPLINE_GPU_LEVEL"), *eager = getenv("WARPLINE_GPU_EAGER_STEPS");
    unsigned burst = 8, period = 64;
    if (eager) sscanf(eager, "%u/%u", &burst, &period);
    ring.header->wanted_level = level_from(level);
    ring.header->eager_burst = burst;
    ring.header->eager_period = period;
    ring.header->pinned = level || eager;
}

static uint64_t timestamp(void) { return ring_now(); }

static int begin(void) {
    void *subscriber = NULL;
    const char *reason = ring_open(&ring);
    if (reason || (reason = cupti_find())) return refuse(reason);
    int result = cupti.subscribe(&subscriber, (void *)launch_callback, NULL);
    if (result != CUPTI_OK) return refuse(cupti_text(result));
    /* Before anything is enabled, and once for the process's life: changed later, first records have wrong times. */
    if ((result = cupti.activity_timestamp((void *)timestamp)) != CUPTI_OK ||
        (result = cupti.activity_register((void *)buffer_requested, (void *)buffer_completed)) != CUPTI_OK) {
        cupti.unsubscribe(subscriber);
        return refuse(cupti_text(result));
    }
    cupti.activity_enable(OF_DEVICE);
    cupti.activity_enable(OF_CONTEXT);
    cupti.activity_flush_period(FLUSH_MS);
    read_wishes();
    ring.header->state = STATE_COLLECTING;
    levels_start(subscriber);
    if (!start_thread()) {
        levels_off(false);
        return refuse("its thread could not be started");
    }
    atexit(at_exit);
    return 1;
}

__attribute__((visibility("default"))) int InitializeInjection(void) {
    if (started) return 1;
    started = true;
    pthread_atfork(NULL, NULL, in_child);
    return begin();
}
