/* What is recorded now, and the switches between the levels.
 *
 *   none       nothing
 *   callbacks  launches
 *   graph      and one record for each replay of a CUDA graph; eager kernels, copies and memsets in sampled steps
 *   node       and the kernels inside graphs, each
 *
 * A step is sampled whole: the switch is made between two steps. Of each `eager_period` steps the first `eager_burst` are
 * sampled; `node_steps` asks for a window of that many steps at level node.
 */
#define _GNU_SOURCE
#include "library.h"

#include <pthread.h>

enum { IDLE_NS = 1000000000 };

uint8_t level_now = LEVEL_NONE, eager_now;
static void *handle;
static bool off, graph_on, eager_on, callbacks_on;
static uint64_t step_count, tick_count, last_step_ns;
static uint32_t node_left;
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

/* A step begins: account for the one before it, then switch. */
void levels_step(uint64_t now) {
    if (off || pthread_mutex_trylock(&switching)) return;
    if (last_step_ns && now - last_step_ns < IDLE_NS && !node_left) {
        __atomic_fetch_add(&ring.header->step_ns[eager_on], now - last_step_ns, __ATOMIC_RELAXED);
        __atomic_fetch_add(&ring.header->steps[eager_on], 1, __ATOMIC_RELAXED);
    }
    last_step_ns = now;
    uint32_t level = wanted_level();
    uint32_t window = __atomic_exchange_n(&ring.header->node_steps, 0, __ATOMIC_RELAXED);
    if (window) node_left = window;
    if (node_left && level >= LEVEL_GRAPH) level = LEVEL_NODE, node_left--;
    apply(level, sampled(step_count++));
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
