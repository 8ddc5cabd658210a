/* What the parts of the injected library share. */
#ifndef WARPLINE_LIBRARY_H
#define WARPLINE_LIBRARY_H

#include "abi.h"
#include "ring.h"

/* CUPTI's functions, found in the CUPTI that the process has. */
struct cupti {
    int (*get_version)(uint32_t *version);
    int (*get_result_string)(int result, const char **text);
    int (*subscribe)(void **handle, void *callback, void *user);
    int (*unsubscribe)(void *handle);
    int (*enable_callback)(uint32_t enable, void *handle, int domain, uint32_t id);
    int (*activity_enable)(int kind);
    int (*activity_disable)(int kind);
    int (*activity_register)(void *requested, void *completed);
    int (*activity_timestamp)(void *callback);
    int (*activity_flush)(uint32_t flags);
    int (*activity_flush_period)(uint32_t milliseconds);
    int (*activity_next)(uint8_t *buffer, size_t valid, uint8_t **record);
    int (*activity_dropped)(void *context, uint32_t stream, size_t *count);
};

struct launch_note {
    uint64_t correlation;
    int64_t step;
    uint16_t kernel; /* Number of the kernel's name, where the call tells it. */
    uint8_t sampled, level;
};

extern struct cupti cupti;
extern struct ring ring;

/* cupti.c: return why CUPTI cannot be used, or NULL. */
const char *cupti_find(void);
const char *cupti_text(int result);

/* launches.c: the callbacks, and which step made a launch. */
void launch_callback(void *user, int domain, uint32_t id, const struct callback_data *data);
void launches_watch(void *subscriber, bool on);
uint64_t unwrap(uint32_t correlation);
bool launch_find(uint64_t correlation, struct launch_note *note);
int64_t current_step(void);

/* executions.c: CUPTI's activity records. */
void buffer_requested(uint8_t **buffer, size_t *size, size_t *most_records);
void buffer_completed(void *context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid);

/* levels.c: what is on, and the switches. */
extern uint8_t level_now, eager_now;
void levels_start(void *subscriber);
void levels_step(uint64_t now);
void levels_tick(void);
void levels_off(bool flush);

#endif
