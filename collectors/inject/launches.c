/* The launch callbacks: one ring record for each call that enqueues GPU work, at its exit. */
#define _GNU_SOURCE
#include "library.h"
#include "calls.h"

#include <sys/syscall.h>
#include <unistd.h>

enum { NOTES = 1 << 16, TIMED_EVERY = 64 };

static struct launch_note notes[NOTES];
static uint64_t newest;
static int64_t process_step = -1;
#define NEVER_TOLD INT64_MIN
static __thread int64_t thread_step = NEVER_TOLD; /* then the process's holds */
static __thread uint32_t outer_correlation, thread_id;
static uint16_t call_names[3][1024];
static int8_t capture_calls[1024]; /* 1: begins a capture, -1: ends one */
static int captures;
static bool tells_kernel[3][1024];

/* CUPTI's correlation ids have 32 bits and wrap; two that are seen within 2^31 calls of each other are told apart. */
uint64_t unwrap(uint32_t correlation) {
    uint64_t last = __atomic_load_n(&newest, __ATOMIC_RELAXED);
    uint64_t wide = last ? last + (uint64_t)(int64_t)(int32_t)(correlation - (uint32_t)last) : correlation;
    while (wide > last && !__atomic_compare_exchange_n(&newest, &last, wide, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return wide;
}

int64_t current_step(void) {
    return thread_step != NEVER_TOLD ? thread_step : __atomic_load_n(&process_step, __ATOMIC_RELAXED);
}

static void remember(uint64_t correlation, int64_t step, uint16_t kernel) {
    struct launch_note *note = &notes[correlation % NOTES];
    __atomic_store_n(&note->correlation, 0, __ATOMIC_RELEASE);
    note->step = step;
    note->kernel = kernel;
    note->sampled = eager_now;
    note->level = level_now;
    __atomic_store_n(&note->correlation, correlation, __ATOMIC_RELEASE);
}

bool launch_find(uint64_t correlation, struct launch_note *found) {
    struct launch_note *note = &notes[correlation % NOTES];
    if (__atomic_load_n(&note->correlation, __ATOMIC_ACQUIRE) != correlation) return false;
    found->step = note->step;
    found->kernel = note->kernel;
    found->sampled = note->sampled;
    found->level = note->level;
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&note->correlation, __ATOMIC_RELAXED) == correlation;
}

static uint16_t call_name(int domain, uint32_t id, const char *name) {
    if (id >= 1024) return ring_name(&ring, name);
    uint16_t number = __atomic_load_n(&call_names[domain][id], __ATOMIC_RELAXED);
    if (!number) {
        number = ring_name(&ring, name);
        __atomic_store_n(&call_names[domain][id], number, __ATOMIC_RELAXED);
    }
    return number;
}

static void enter(int domain, uint32_t id, const struct callback_data *data) {
    if (domain == DOMAIN_RUNTIME) outer_correlation = data->correlation;
    else if (data->correlation == outer_correlation) return; /* The runtime's call is already noted. */
    if (data->between) *data->between = ring_now();
    uint16_t kernel = id < 1024 && tells_kernel[domain][id] ? ring_known_name(&ring, data->symbol_name) : 0;
    remember(unwrap(data->correlation), current_step(), kernel);
}

static void leave(int domain, uint32_t id, const struct callback_data *data) {
    bool nested = domain == DOMAIN_DRIVER && outer_correlation;
    if (nested && data->correlation == outer_correlation) return;
    if (domain == DOMAIN_RUNTIME) outer_correlation = 0;
    if (!thread_id) thread_id = (uint32_t)syscall(SYS_gettid);
    uint64_t now = ring_now(), start = data->between && *data->between ? *data->between : now, index;
    uint16_t name = call_name(domain, id, data->function_name);
    struct launch_note note = {.step = current_step(), .sampled = eager_now, .level = level_now};
    uint64_t correlation = unwrap(data->correlation);
    launch_find(correlation, &note); /* What held at its entry holds for its execution, too. */
    uint8_t captured = __atomic_load_n(&captures, __ATOMIC_RELAXED) > 0 ? FLAG_CAPTURED : 0;
    struct ring_record *record = ring_take(&ring, &index);
    record->kind = RING_LAUNCH;
    record->flags = (uint8_t)((note.sampled ? FLAG_SAMPLED : 0) | (nested ? FLAG_NESTED : 0) | captured);
    record->level = note.level;
    record->device = RING_NO_DEVICE;
    record->thread = thread_id;
    record->start_ns = start;
    record->end_ns = now;
    record->correlation = correlation;
    record->step = note.step;
    record->name = name;
    record->context = note.kernel;
    record->graph = 0;
    record->value = data->result ? (uint64_t)(int64_t)*data->result : 0;
    ring_commit(record, index);
    __atomic_fetch_add(&ring.header->launches, 1, __ATOMIC_RELAXED);
}

void launch_callback(void *user, int domain, uint32_t id, const struct callback_data *data) {
    static __thread uint32_t calls;
    (void)user;
    if (!ring.header || (domain != DOMAIN_RUNTIME && domain != DOMAIN_DRIVER)) return;
    if (domain == DOMAIN_DRIVER && id < 1024 && capture_calls[id]) {
        bool done = data->site == SITE_EXIT && data->result && !*data->result;
        if (done) __atomic_fetch_add(&captures, capture_calls[id], __ATOMIC_RELAXED);
        return;
    }
    bool timed = ++calls % TIMED_EVERY == 0;
    uint64_t began = timed ? ring_now() : 0;
    if (data->site == SITE_ENTER) enter(domain, id, data);
    else leave(domain, id, data);
    if (timed) __atomic_fetch_add(&ring.header->callback_ns, (ring_now() - began) * TIMED_EVERY, __ATOMIC_RELAXED);
}

static void note_captures(const struct call_range *ranges, size_t count, int8_t change) {
    for (size_t i = 0; i < count; i++)
        for (uint32_t id = ranges[i].first; id <= ranges[i].last; id++) capture_calls[id] = change;
}

static void note_kernels(int domain, const struct call_range *ranges, size_t count) {
    for (size_t i = 0; i < count; i++)
        for (uint32_t id = ranges[i].first; id <= ranges[i].last; id++) tells_kernel[domain][id] = true;
}

static void watch(void *subscriber, int domain, const struct call_range *ranges, size_t count, bool on) {
    for (size_t i = 0; i < count; i++)
        for (uint32_t id = ranges[i].first; id <= ranges[i].last; id++)
            cupti.enable_callback(on, subscriber, domain, id);
}

void launches_watch(void *subscriber, bool on) {
    const size_t begins = sizeof capture_begins / sizeof *capture_begins;
    const size_t ends = sizeof capture_ends / sizeof *capture_ends;
    note_captures(capture_begins, begins, 1);
    note_captures(capture_ends, ends, -1);
    note_kernels(DOMAIN_DRIVER, driver_kernels, sizeof driver_kernels / sizeof *driver_kernels);
    note_kernels(DOMAIN_RUNTIME, runtime_kernels, sizeof runtime_kernels / sizeof *runtime_kernels);
    __atomic_store_n(&captures, 0, __ATOMIC_RELAXED);
    watch(subscriber, DOMAIN_DRIVER, capture_begins, begins, on);
    watch(subscriber, DOMAIN_DRIVER, capture_ends, ends, on);
    watch(subscriber, DOMAIN_RUNTIME, runtime_calls, sizeof runtime_calls / sizeof *runtime_calls, on);
    watch(subscriber, DOMAIN_DRIVER, driver_calls, sizeof driver_calls / sizeof *driver_calls, on);
}

/* The engine's plugin calls this before each step, on the thread that runs it, and with -1 after it. Steps that no request
 * caused have numbers below that. */
__attribute__((visibility("default"))) void warpline_set_step(int64_t ordinal) {
    thread_step = ordinal;
    __atomic_store_n(&process_step, ordinal, __ATOMIC_RELAXED);
    if (ordinal >= 0 && ring.header) levels_step(ring_now());
}
