#define _GNU_SOURCE
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DEFAULT_RECORDS = 1 << 18, NAME_SLOTS = 1 << 14, LONGEST_NAME = 2000, KNOWN_NAMES = 1 << 10 };

static struct {
    uint64_t hash;
    uint32_t number;
} name_slots[NAME_SLOTS];
static uint32_t name_count;
static uint64_t name_at[NAME_SLOTS]; /* Where in the arena a name lies, by its number. */
static struct {
    const char *text;
    uint32_t number;
} known_names[KNOWN_NAMES];
static pthread_mutex_t name_lock = PTHREAD_MUTEX_INITIALIZER;

uint64_t ring_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t capacity(void) {
    const char *asked = getenv("WARPLINE_RING_RECORDS");
    uint64_t least = asked ? strtoull(asked, NULL, 0) : DEFAULT_RECORDS, records = 64;
    while (records < least && records < (1u << 24)) records *= 2;
    return records;
}

static void read_line(const char *path, char *into, size_t room) {
    FILE *file = fopen(path, "re");
    if (!file) return;
    if (fgets(into, (int)room, file)) into[strcspn(into, "\n")] = 0;
    fclose(file);
}

/* proc(5): starttime is field 22, counted from behind the command's closing parenthesis, which may hold anything. */
static uint64_t start_ticks(void) {
    char line[1024] = "";
    read_line("/proc/self/stat", line, sizeof line);
    char *at = strrchr(line, ')');
    for (int field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
    return at ? strtoull(at, NULL, 10) : 0;
}

static const char *failed(int fd, const char *path, const char *what) {
    static char text[240];
    int error = errno;
    snprintf(text, sizeof text, "%s: cannot %s: %s", path, what, strerror(error));
    if (fd >= 0) close(fd), unlink(path);
    return text;
}

const char *ring_open(struct ring *ring) {
    char path[512];
    const char *directory = getenv("WARPLINE_RING_DIR");
    if (!directory || !*directory) directory = "/run/warpline/rings";
    uint64_t ticks = start_ticks(), records = capacity();
    size_t bytes = RING_HEADER_BYTES + RING_NAME_BYTES + records * sizeof(struct ring_record);
    mkdir(directory, 0755);
    snprintf(path, sizeof path, "%s/cuda-%d-%llu-%llx.ring", directory, getpid(), (unsigned long long)ticks,
             (unsigned long long)ring_now());
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0) return failed(fd, path, "make the ring");
    fchmod(fd, 0660); /* Where the directory gives files its group, the collector is in it, and may be nothing else to us. */
    /* Without its blocks, a full disk would end the process with SIGBUS at some later store. */
    if ((errno = posix_fallocate(fd, 0, (off_t)bytes))) return failed(fd, path, "reserve the ring's space");
    struct ring_header *header = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (header == MAP_FAILED) return failed(fd, path, "map the ring");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
    fcntl(fd, F_SETLK, &lock);
    header->version = RING_VERSION;
    header->header_bytes = RING_HEADER_BYTES;
    header->record_bytes = sizeof(struct ring_record);
    header->name_bytes = RING_NAME_BYTES;
    header->records = records;
    header->pid = (uint32_t)getpid();
    header->start_ticks = ticks;
    header->opened_ns = ring_now();
    read_line("/proc/sys/kernel/random/boot_id", header->boot_id, sizeof header->boot_id);
    ring->header = header;
    ring->names = (uint8_t *)header + RING_HEADER_BYTES;
    ring->records = (void *)(ring->names + RING_NAME_BYTES);
    ring->mask = records - 1;
    ring->lock_file = fd;
    name_count = 0;
    memset(name_slots, 0, sizeof name_slots);
    memset(known_names, 0, sizeof known_names);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(header->magic, "WLRING01", 8);
    return NULL;
}

void ring_reason(struct ring *ring, const char *reason) {
    if (!ring->header) return;
    snprintf(ring->header->reason, sizeof ring->header->reason, "not collecting, because %s", reason);
    __atomic_store_n(&ring->header->state, STATE_NOT_COLLECTING, __ATOMIC_RELEASE);
}

struct ring_record *ring_take(struct ring *ring, uint64_t *index) {
    *index = __atomic_fetch_add(&ring->header->position, 1, __ATOMIC_ACQ_REL);
    struct ring_record *record = &ring->records[*index & ring->mask];
    __atomic_store_n(&record->number, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    return record;
}

void ring_commit(struct ring_record *record, uint64_t index) {
    __atomic_store_n(&record->number, index + 1, __ATOMIC_RELEASE);
}

static uint64_t hash_of(const char *name, size_t length) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)name[i]) * 0x100000001b3u;
    return hash ? hash : 1;
}

static uint32_t add_name(struct ring *ring, const char *name, size_t length) {
    uint64_t used = ring->header->names;
    if (used + 2 + length > RING_NAME_BYTES || name_count >= NAME_SLOTS / 2) {
        __atomic_fetch_add(&ring->header->lost_names, 1, __ATOMIC_RELAXED);
        return 0;
    }
    uint16_t size = (uint16_t)length;
    memcpy(ring->names + used, &size, 2);
    memcpy(ring->names + used + 2, name, length);
    name_at[name_count + 1] = used;
    __atomic_store_n(&ring->header->names, used + 2 + length, __ATOMIC_RELEASE);
    return ++name_count;
}

uint16_t ring_name(struct ring *ring, const char *name) {
    if (!name) return 0;
    size_t length = strnlen(name, LONGEST_NAME);
    uint64_t hash = hash_of(name, length);
    pthread_mutex_lock(&name_lock);
    uint32_t at = (uint32_t)hash & (NAME_SLOTS - 1);
    while (name_slots[at].hash && name_slots[at].hash != hash) at = (at + 1) & (NAME_SLOTS - 1);
    if (!name_slots[at].hash) {
        uint32_t number = add_name(ring, name, length);
        if (number) name_slots[at].hash = hash, name_slots[at].number = number;
        pthread_mutex_unlock(&name_lock);
        return (uint16_t)number;
    }
    uint32_t number = name_slots[at].number;
    pthread_mutex_unlock(&name_lock);
    return (uint16_t)number;
}

static bool is_name(const struct ring *ring, uint32_t number, const char *name) {
    const uint8_t *at = ring->names + name_at[number];
    uint16_t length;
    memcpy(&length, at, 2);
    return !strncmp(name, (const char *)at + 2, length) && (length == LONGEST_NAME || !name[length]);
}

/* Another text may have come to lie at a known address, and another thread may be half through changing an entry: so what is
 * found is compared whole, which costs a tenth of hashing it. */
uint16_t ring_known_name(struct ring *ring, const char *name) {
    if (!name) return 0;
    size_t slot = ((uintptr_t)name >> 3 ^ (uintptr_t)name >> 13) & (KNOWN_NAMES - 1);
    uint32_t number = __atomic_load_n(&known_names[slot].number, __ATOMIC_ACQUIRE);
    bool known = __atomic_load_n(&known_names[slot].text, __ATOMIC_RELAXED) == name;
    if (known && number && is_name(ring, number, name)) return (uint16_t)number;
    number = ring_name(ring, name);
    __atomic_store_n(&known_names[slot].text, name, __ATOMIC_RELAXED);
    __atomic_store_n(&known_names[slot].number, number, __ATOMIC_RELEASE);
    return (uint16_t)number;
}
