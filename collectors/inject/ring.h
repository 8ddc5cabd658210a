/* The ring file through which a watched process tells the collector what it did. collectors/rings/format.py reads it.
 *
 * The file lies in a shared directory and is mapped, so it outlives the process. Records are 64 bytes; a writer takes the
 * next index from `position`, fills the record and stores `index + 1` in it last: a record that does not hold its number
 * was never finished, and one that holds a later number was overwritten. Names lie once each in the arena behind the
 * header. The writer holds a POSIX lock on byte 0 for as long as it lives, so that a reader in any PID namespace learns
 * from F_GETLK which process it is, and whether it still is.
 */
#ifndef WARPLINE_RING_H
#define WARPLINE_RING_H

#include <stdbool.h>
#include <stdint.h>

enum { RING_VERSION = 1, RING_HEADER_BYTES = 4096, RING_NAME_BYTES = 1 << 20, RING_DEVICES = 16, RING_NO_DEVICE = 255 };
enum ring_kind { RING_LAUNCH = 1, RING_KERNEL, RING_MEMCPY, RING_MEMSET, RING_GRAPH, RING_TRIAL };
enum ring_flag { FLAG_SAMPLED = 1, FLAG_NESTED = 2, FLAG_NO_TIME = 4, FLAG_REVERSED = 8, FLAG_OUTSIDE = 16, FLAG_CAPTURED = 32 };
enum ring_state { STATE_STARTING, STATE_COLLECTING, STATE_NOT_COLLECTING, STATE_ENDED };
enum level { LEVEL_NONE, LEVEL_CALLBACKS, LEVEL_GRAPH, LEVEL_NODE, LEVELS };
/* What a trial compares, in the field `level` of its record: the levels, and graph with eager records. */
enum rung { RUNG_NONE, RUNG_CALLBACKS, RUNG_GRAPH, RUNG_EAGER, RUNG_NODE, RUNGS };

struct ring_record {
    uint64_t number; /* index + 1, stored last */
    uint8_t kind, flags, level, device;
    uint32_t thread; /* of a launch; of an execution its CUDA stream */
    uint64_t start_ns, end_ns, correlation;
    int64_t step; /* -1: none; below: one that no request caused */
    uint16_t name, context; /* of a launch: its call, and the kernel's name where the call tells it */
    uint32_t graph;
    uint64_t value; /* launch: result; kernel: graph node; copy, memset: bytes; trial: ns in callbacks */
};
_Static_assert(sizeof(struct ring_record) == 64, "a record is one cache line");

struct ring_device {
    char uuid[48], name[64];
    int32_t gpu_instance, compute_instance;
    uint8_t room[8];
};
_Static_assert(sizeof(struct ring_device) == 128, "devices");

struct ring_header {
    char magic[8]; /* "WLRING01" */
    uint32_t version, header_bytes, record_bytes, name_bytes;
    uint64_t records;
    uint32_t pid, state;
    uint64_t start_ticks;
    char boot_id[40];
    uint64_t opened_ns;
    uint32_t cupti_version, driver_version, simulated, pinned; /* pinned: the levels were set by hand */

    _Alignas(128) uint64_t position; /* at 128: how many records were ever taken */
    uint64_t names;    /* bytes of the arena in use */

    /* at 192: written by the collector */
    _Alignas(64) uint32_t wanted_level;
    uint32_t eager_burst, eager_period, node_steps, stop, trial_steps;

    /* at 256: counters */
    _Alignas(64) uint32_t level;
    uint32_t eager;
    uint64_t launches, executions, lost_by_cupti, lost_outside_sample, lost_names;
    uint64_t callback_ns, record_ns; /* its own cost: in the callbacks (from one in 64), and behind them */
    uint64_t step_ns[2], steps[2];   /* how long steps lasted without and with eager records, and their number */

    _Alignas(512) char reason[256];           /* at 512: why it does not collect */
    struct ring_device devices[RING_DEVICES]; /* at 768 */
};
_Static_assert(__builtin_offsetof(struct ring_header, position) == 128, "position");
_Static_assert(__builtin_offsetof(struct ring_header, wanted_level) == 192, "control");
_Static_assert(__builtin_offsetof(struct ring_header, level) == 256, "counters");
_Static_assert(__builtin_offsetof(struct ring_header, reason) == 512, "reason");
_Static_assert(__builtin_offsetof(struct ring_header, devices) == 768, "devices");
_Static_assert(sizeof(struct ring_header) <= RING_HEADER_BYTES, "header");

struct ring {
    struct ring_header *header;
    struct ring_record *records;
    uint8_t *names;
    uint64_t mask;
    int lock_file;
};

/* Make the ring file; return a text that says what failed, or NULL. Nothing is mapped after a failure. */
const char *ring_open(struct ring *ring);
void ring_reason(struct ring *ring, const char *reason);
/* Take the next record; its fields may be filled until ring_commit. */
struct ring_record *ring_take(struct ring *ring, uint64_t *index);
void ring_commit(struct ring_record *record, uint64_t index);
/* Return the number of a name, adding it where it is new; 0 stands for none, or no room. */
uint16_t ring_name(struct ring *ring, const char *name);
/* The same for a text that is likely to come again at the same address: it is compared, not hashed. */
uint16_t ring_known_name(struct ring *ring, const char *name);
uint64_t ring_now(void);

#endif
