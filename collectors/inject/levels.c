/* What is recorded now, and the switches between the levels.
 *
 *   none       nothing
 *   callbacks  launches
 *   graph      and one record for each replay of a CUDA graph; eager kernels, copies and memsets in sampled steps
 *   node       and the kernels inside graphs, each
 *
 * A step is sampled whole: the switch is made between two steps. Of each `eager_period` steps the first `eager_burst` are
 * sampled; `node_steps` asks for a window of that many steps at level node. `trial_steps` asks for so many steps each of which
 * runs at a level drawn by lot, and leaves a record of how long it lasted: under one load, their difference is each level's
 * cost. A step by lot, not by turns: a turn might fall in with the engine's own.
 */
#define _GNU_SOURCE
#include "library.h"

#include <pthread.h>
#include <string.h>

enum { IDLE_NS = 1000000000 };

uint8_t level_now = LEVEL_NONE, eager_now;
static void *handle;
static bool off, graph_on, eager_on, callbacks_on;
static uint64_t step_count, tick_count, last_step_ns, callback_before_ns;
static uint32_t node_left, trial_left;
static int rung = -1; /* Of the step that runs, where it is one of a trial. */
static bool window;   /* The step that runs is one of a window: its time is no measure. */
static pthread_mutex_t switching = PTHREAD_MUTEX_INITIALIZER;

static void set(bool *state, bool wanted, const int *kinds, int count) {
    if (*state == wanted) return;
    for (int i = 0; i < count; i++) wanted ? cupti.activity_enable(kinds[i]) : cupti.activity_disable(kinds[i]);
    *state = wanted;
}

static void apply(uint32_t level, bool sampled) {
    static const int graph[] = {OF_GRAPH}, eager[] = {OF_KERNEL, OF_MEMCPY, OF_PEER_COPY, OF_MEMSET};
    bool eager_wanted = level == LEVEL_NODE || (level == LEVEL_GRAPH && sampled);
    if (callbacks_on != (level >= LEVEL_CALLBACKS)) {
        callbacks_on = level >= LEVEL_CALLBACKS;
        launches_watch(handle, callbacks_on);
    }
    set(&graph_on, level == LEVEL_GRAPH, graph, 1);
    set(&eager_on, eager_wanted, eager, 4);
    eager_now = eager_wanted;
    level_now = (uint8_t)level;
    ring.header->level = level;
    ring.header->eager = eager_wanted;
}

static bool sampled(uint64_t count) {
    uint32_t burst = ring.header->eager_burst, period = ring.header->eager_period;
    return burst && (period <= burst || count % period < burst);
}

static uint32_t wanted_level(void) {
    uint32_t level = __atomic_load_n(&ring.header->wanted_level, __ATOMIC_RELAXED);
    return level < LEVELS ? level : LEVEL_NODE;
}

static void put_trial(uint64_t now) {
    uint64_t index;
    struct ring_record *record = ring_take(&ring, &index);
    memset(&record->kind, 0, sizeof *record - sizeof record->number);
    record->kind = RING_TRIAL;
    record->level = (uint8_t)rung;
    record->start_ns = last_step_ns;
    record->end_ns = now;
    record->step = -1;
    record->value = ring.header->callback_ns - callback_before_ns;
    ring_commit(record, index);
}

static void account(uint64_t now) {
    if (!last_step_ns || now - last_step_ns >= IDLE_NS || window) return;
    if (rung >= 0) {
        put_trial(now);
        return;
    }
    __atomic_fetch_add(&ring.header->step_ns[eager_on], now - last_step_ns, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ring.header->steps[eager_on], 1, __ATOMIC_RELAXED);
}

static int draw(void) {
    static uint32_t state = 2463534242u; /* xorshift (Marsaglia 2003) */
    state ^= state << 13, state ^= state >> 17, state ^= state << 5;
    return (int)(state % RUNGS);
}

static void begin_step(void) {
    static const uint8_t level_of[RUNGS] = {LEVEL_NONE, LEVEL_CALLBACKS, LEVEL_GRAPH, LEVEL_GRAPH, LEVEL_NODE};
    uint32_t level = wanted_level();
    uint32_t nodes = __atomic_exchange_n(&ring.header->node_steps, 0, __ATOMIC_RELAXED);
    uint32_t trials = __atomic_exchange_n(&ring.header->trial_steps, 0, __ATOMIC_RELAXED);
    if (nodes) node_left = nodes;
    if (trials) trial_left = trials;
    window = node_left && level >= LEVEL_GRAPH;
    rung = !window && trial_left ? draw() : -1;
    if (window) node_left--, apply(LEVEL_NODE, true);
    else if (rung >= 0) trial_left--, apply(level_of[rung], rung == RUNG_EAGER);
    else apply(level, sampled(step_count++));
}

/* A step begins: account for the one before it, then switch. */
void levels_step(uint64_t now) {
    if (off || pthread_mutex_trylock(&switching)) return;
    account(now);
    begin_step();
    callback_before_ns = ring.header->callback_ns;
    last_step_ns = rung >= 0 ? ring_now() : now; /* What switching takes is not what a level costs. */
    pthread_mutex_unlock(&switching);
}

/* Ten times a second: follow the collector where no step begins, and stop where it says so. */
void levels_tick(void) {
    if (off) return;
    if (__atomic_load_n(&ring.header->stop, __ATOMIC_RELAXED)) {
        levels_off(true);
        ring_reason(&ring, "it was told to stop");
        return;
    }
    tick_count++;
    if (pthread_mutex_trylock(&switching)) return;
    if (!last_step_ns || ring_now() - last_step_ns > IDLE_NS) apply(wanted_level(), sampled(tick_count));
    pthread_mutex_unlock(&switching);
}

void levels_start(void *subscriber) {
    handle = subscriber;
    off = false;
    pthread_mutex_lock(&switching);
    apply(wanted_level(), true);
    pthread_mutex_unlock(&switching);
}

/* For good: another CUPTI user may follow. What has run is still told with `flush`, which no callback of CUPTI's may ask. */
void levels_off(bool flush) {
    off = true;
    pthread_mutex_lock(&switching);
    apply(LEVEL_NONE, false);
    pthread_mutex_unlock(&switching);
    if (flush) cupti.activity_flush(FLUSH_FORCED);
    cupti.activity_disable(OF_DEVICE);
    cupti.activity_disable(OF_CONTEXT);
    cupti.unsubscribe(handle);
}
