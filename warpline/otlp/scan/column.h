/* Arrow columns being filled: validity bitmaps, fixed-width values, texts with offsets, and texts of few values by number. */
#ifndef WARPLINE_COLUMN_H
#define WARPLINE_COLUMN_H

#include "wire.h"

typedef struct {
    uint8_t *at;
    int64_t length, room, first; /* first: the room to begin with, untouched until it is used */
} Buffer;

/* Distinct texts, numbered in order of first sight; Arrow's dictionary. */
typedef struct {
    Buffer text;
    int32_t *offsets;
    uint64_t *hashes;
    uint32_t *table; /* hash → number + 1 */
    int64_t count, room, mask;
} Pool;

enum { WIDE, ID, TEXT, NAME, FLAG };

/* A column gets memory when its first value comes: of those that could be, most have none. */
typedef struct {
    int64_t kind, filled;
    Trap *trap;
    const int64_t *room; /* rows that all columns of the scan have room for */
    uint8_t *valid, *data;
    Buffer text;
    Pool pool;
    Piece last;
    int64_t last_number;
} Column;

enum { PROBES = 64, MAX_TEXT = INT32_MAX - 64, USUAL_TEXT = 48 };

static void *sized(Trap *t, void *old, size_t bytes) {
    void *made = realloc(old, bytes ? bytes : 1);
    if (!made) trap(t, NO_MEMORY);
    return made;
}

static inline uint8_t *reserve(Trap *t, Buffer *b, int64_t more) {
    if (b->length + more > b->room) {
        int64_t room = (b->length + more) * 2 + 64;
        if (room < b->first) room = b->first;
        if (b->length + more > MAX_TEXT) trap(t, UNSURE); /* Arrow's 32-bit offsets end here */
        b->at = sized(t, b->at, (size_t)room);
        b->room = room;
    }
    return b->at + b->length;
}

static inline void append(Trap *t, Buffer *b, const void *from, int64_t length) {
    if (length) memcpy(reserve(t, b, length), from, (size_t)length);
    b->length += length;
}

static inline void append_byte(Trap *t, Buffer *b, uint8_t byte) {
    *reserve(t, b, 1) = byte;
    b->length++;
}

#define APPEND(t, b, literal) append((t), (b), (literal), (int64_t)sizeof(literal) - 1)

static uint64_t hash_seed; /* set once by the process, so that nobody can choose texts that collide */

static inline uint64_t hash_of(Piece p) {
    uint64_t hash = hash_seed ^ (uint64_t)size_of(p) * 0x9E3779B97F4A7C15ull;
    for (; size_of(p) >= 8; p.at += 8) {
        hash = (hash ^ load64(p.at)) * 0xD6E8FEB86659FD93ull;
        hash ^= hash >> 32;
    }
    for (; p.at < p.end; p.at++) hash = (hash ^ *p.at) * 0x100000001B3ull;
    hash = (hash ^ hash >> 29) * 0xBF58476D1CE4E5B9ull;
    return hash ^ hash >> 32;
}

static void pool_grow(Trap *t, Pool *p) {
    int64_t room = p->room ? p->room * 4 : 64;
    p->offsets = sized(t, p->offsets, (size_t)(room + 1) * sizeof *p->offsets);
    p->hashes = sized(t, p->hashes, (size_t)room * sizeof *p->hashes);
    p->table = sized(t, p->table, (size_t)room * 2 * sizeof *p->table);
    memset(p->table, 0, (size_t)room * 2 * sizeof *p->table);
    p->room = room;
    p->mask = room * 2 - 1;
    if (!p->count) p->offsets[0] = 0;
    for (int64_t i = 0; i < p->count; i++) {
        int64_t slot = (int64_t)(p->hashes[i] & (uint64_t)p->mask);
        while (p->table[slot]) slot = (slot + 1) & p->mask;
        p->table[slot] = (uint32_t)i + 1;
    }
}

/* The number of a text; *fresh says whether it was not known. Traps on texts that collide too often to be chance. */
static int64_t pool_number(Trap *t, Pool *p, Piece text, bool *fresh) {
    if (p->count >= p->room) pool_grow(t, p);
    uint64_t hash = hash_of(text);
    int64_t slot = (int64_t)(hash & (uint64_t)p->mask);
    for (int probes = 0; p->table[slot]; slot = (slot + 1) & p->mask) {
        int64_t number = p->table[slot] - 1;
        int32_t begin = p->offsets[number];
        if (p->hashes[number] == hash && p->offsets[number + 1] - begin == size_of(text) &&
            same(p->text.at + begin, text.at, size_of(text))) {
            *fresh = false;
            return number;
        }
        if (++probes > PROBES) trap(t, UNSURE);
    }
    check_text(t, text);
    append(t, &p->text, text.at, size_of(text));
    p->table[slot] = (uint32_t)p->count + 1;
    p->hashes[p->count] = hash;
    p->offsets[p->count + 1] = (int32_t)p->text.length;
    *fresh = true;
    return p->count++;
}

static void pool_free(Pool *p) {
    free(p->text.at);
    free(p->offsets);
    free(p->hashes);
    free(p->table);
}

static inline int64_t column_bytes(const Column *c, int64_t rows) {
    switch (c->kind) {
    case WIDE: return rows * 8;
    case ID: return rows * 16;
    case FLAG: return rows / 8;
    case TEXT: return rows * 4 + 4;
    default: return rows * 4;
    }
}

static void column_begin(Column *c) {
    c->data = calloc(1, (size_t)column_bytes(c, *c->room));
    c->valid = calloc(1, (size_t)(*c->room / 8));
    if (!c->data || !c->valid) trap(c->trap, NO_MEMORY);
}

static inline void begun(Column *c) {
    if (!c->data) column_begin(c);
}

static inline bool is_set(const Column *c, int64_t row) { return c->data && c->valid[row >> 3] >> (row & 7) & 1; }

static inline void mark(Column *c, int64_t row) {
    begun(c);
    c->valid[row >> 3] |= (uint8_t)(1 << (row & 7));
    c->filled++;
}

static inline void set_wide(Column *c, int64_t row, uint64_t value) {
    begun(c);
    memcpy(c->data + row * 8, &value, 8);
    mark(c, row);
}

static inline void set_flag(Column *c, int64_t row, bool value) {
    begun(c);
    c->data[row >> 3] |= (uint8_t)(value << (row & 7));
    mark(c, row);
}

static inline void set_id(Column *c, int64_t row, const uint8_t *from) {
    begun(c);
    memcpy(c->data + row * 16, from, 16);
    mark(c, row);
}

static inline void set_text(Trap *t, Column *c, int64_t row, Piece text) {
    check_text(t, text);
    append(t, &c->text, text.at, size_of(text));
    mark(c, row);
}

static inline void set_number(Column *c, int64_t row, int64_t number) {
    int32_t value = (int32_t)number;
    begun(c);
    memcpy(c->data + row * 4, &value, 4);
    mark(c, row);
}

static inline void set_name(Trap *t, Column *c, int64_t row, Piece text) {
    bool fresh;
    if (!c->last.at || size_of(c->last) != size_of(text) || !same(c->last.at, text.at, size_of(text))) {
        c->last_number = pool_number(t, &c->pool, text, &fresh);
        c->last = text;
    }
    set_number(c, row, c->last_number);
}

static void column_grow(Trap *t, Column *c, int64_t old, int64_t rows) {
    int64_t had = column_bytes(c, old), wants = column_bytes(c, rows);
    c->text.first = rows * USUAL_TEXT;
    if (!c->data) return;
    c->data = sized(t, c->data, (size_t)wants);
    memset(c->data + had, 0, (size_t)(wants - had));
    c->valid = sized(t, c->valid, (size_t)(rows / 8));
    memset(c->valid + old / 8, 0, (size_t)(rows / 8 - old / 8));
}

/* Take back what was set in a row that turned out to be refused. */
static void column_undo(Column *c, int64_t row) {
    if (!c->data) {
        c->text.length = 0;
        return;
    }
    if (c->kind == TEXT) {
        int32_t begin;
        memcpy(&begin, c->data + row * 4, 4);
        c->text.length = begin;
    }
    if (is_set(c, row)) {
        c->valid[row >> 3] &= (uint8_t)~(1 << (row & 7));
        c->filled--;
    }
}

static void column_free(Column *c) {
    free(c->valid);
    free(c->data);
    free(c->text.at);
    pool_free(&c->pool);
}

#endif
