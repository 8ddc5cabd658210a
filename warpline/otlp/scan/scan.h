/* One scan of one request: its columns, the blocks that its rows came from, and what was refused. */
#ifndef WARPLINE_SCAN_H
#define WARPLINE_SCAN_H

#include "json.h"

/* Where a resource and a scope stand in memory; Python reads them, once for each distinct one. NULL: absent. */
typedef struct {
    const uint8_t *at;
    int64_t length;
    const uint8_t *schema_at;
    int64_t schema_length;
} Place;

typedef struct {
    int64_t resource; /* number of its Place */
    Place scope;
} Block;

/* The head of this struct is read by warpline/otlp/scanner.py, field by field in this order. */
typedef struct {
    int64_t rows, redacted, invalid_ids, invalid_numbers, rejected_ids, rejected_times;
    int64_t untimed; /* spans that have no time but that of their receipt */
    int64_t first_time, second_time; /* of the first row that was refused for its time */
    int64_t resource_count, block_count;
    Place *resources;
    Block *blocks;

    Column *columns;
    Column **texts; /* those of them that hold texts */
    int32_t *block_of; /* each row's block */
    int64_t column_count, text_count, room, first_room, resource_room, block_room, now;
    Trap trap;
    Writer writer;
    Buffer scratch;
    Piece key_at[64]; /* the key last seen at each place of a span's attributes, and its number: most spans look alike */
    int64_t key_numbers[64];
} Scan;

enum { MAX_BLOCKS = 20000, MOST_EMPTY = 100000 };

#define EARLIEST 946684800000000000ull  /* 2000-01-01, as in records.py */
#define LATEST 4102444800000000000ull   /* 2100-01-01 */

static int64_t key_at_place(Scan *s, int place, Piece key) {
    if (place >= 64) return key_number(&s->trap, s->writer.keys, key);
    Piece known = s->key_at[place];
    if (!known.at || size_of(known) != size_of(key) || !same(known.at, key.at, size_of(key))) {
        s->key_numbers[place] = key_number(&s->trap, s->writer.keys, key);
        s->key_at[place] = key;
    }
    return s->key_numbers[place];
}

static Piece literal(const char *text) { return (Piece){(const uint8_t *)text, (const uint8_t *)text + strlen(text)}; }

static inline bool in_range(uint64_t time) { return time >= EARLIEST && time < LATEST; }

static void scan_grow(Scan *s) {
    int64_t room = s->room ? s->room * 2 : s->first_room;
    for (int64_t i = 0; i < s->column_count; i++) column_grow(&s->trap, &s->columns[i], s->room, room);
    s->block_of = sized(&s->trap, s->block_of, (size_t)room * sizeof *s->block_of);
    s->room = room;
}

static inline void begin_row(Scan *s) {
    if (s->rows >= s->room) scan_grow(s);
}

static inline void end_row(Scan *s) {
    for (int64_t i = 0; i < s->text_count; i++) {
        Column *c = s->texts[i];
        if (!c->data) continue;
        int32_t end = (int32_t)c->text.length;
        memcpy(c->data + (s->rows + 1) * 4, &end, 4);
    }
    s->block_of[s->rows] = (int32_t)s->block_count - 1;
    s->rows++;
}

static void undo_row(Scan *s) {
    for (int64_t i = 0; i < s->column_count; i++) column_undo(&s->columns[i], s->rows);
}

static void refuse_time(Scan *s, uint64_t first, uint64_t second) {
    if (!s->rejected_times++) s->first_time = (int64_t)first, s->second_time = (int64_t)second;
}

/* An id that may be absent: set where it is valid, counted where it is there and invalid. */
static inline void optional_span_id(Scan *s, Column *c, Piece id) {
    uint64_t value = size_of(id) == 8 ? load64(id.at) : 0;
    if (value) set_wide(c, s->rows, __builtin_bswap64(value));
    else if (size_of(id)) s->invalid_ids++;
}

static inline bool valid_trace_id(Piece id) { return size_of(id) == 16 && (load64(id.at) | load64(id.at + 8)); }

static inline void optional_trace_id(Scan *s, Column *c, Piece id) {
    if (valid_trace_id(id)) set_id(c, s->rows, id.at);
    else if (size_of(id)) s->invalid_ids++;
}

static inline void optional_text(Scan *s, Column *c, Piece text) {
    if (size_of(text)) set_text(&s->trap, c, s->rows, text);
}

static inline void optional_name(Scan *s, Column *c, Piece text) {
    if (size_of(text)) set_name(&s->trap, c, s->rows, text);
}

/* A text column that was written into since the row began has a value. */
static inline void mark_written(Scan *s, Column *c, int64_t begin) {
    if (c->text.length > begin) mark(c, s->rows);
}

/* An unsigned number in a signed column; NULL for 0, and NULL and counted where it does not fit. */
static inline void bounded(Scan *s, Column *c, uint64_t value) {
    if (value > INT64_MAX) s->invalid_numbers++;
    else if (value) set_wide(c, s->rows, value);
}

/* One level of resource or scope: remembers where its head (field 1) and schema URL (field 3) stand. A head that is given
 * twice would have to be merged: upb's work. Returns the next of its children (field 2). */
static bool next_child(Scan *s, Piece *p, Place *head, Piece *child) {
    uint32_t tag;
    while (next(&s->trap, p, &tag)) {
        if (tag == (2 << 3 | 2)) {
            *child = message(&s->trap, p);
            return true;
        }
        if (tag == (1 << 3 | 2)) {
            if (head->at) trap(&s->trap, UNSURE);
            Piece found = message(&s->trap, p);
            head->at = found.at, head->length = size_of(found);
        } else if (tag == (3 << 3 | 2)) {
            Piece found = piece(&s->trap, p);
            head->schema_at = found.at, head->schema_length = size_of(found);
        } else {
            skip(&s->trap, p, tag);
        }
    }
    return false;
}

static Place *add_resource(Scan *s) {
    if (s->resource_count >= MAX_BLOCKS) trap(&s->trap, UNSURE);
    if (s->resource_count >= s->resource_room) {
        s->resource_room = s->resource_room ? s->resource_room * 4 : 4;
        s->resources = sized(&s->trap, s->resources, (size_t)s->resource_room * sizeof *s->resources);
    }
    Place *made = &s->resources[s->resource_count++];
    *made = (Place){0};
    return made;
}

static Block *add_block(Scan *s) {
    if (s->block_count >= MAX_BLOCKS) trap(&s->trap, UNSURE);
    if (s->block_count >= s->block_room) {
        s->block_room = s->block_room ? s->block_room * 4 : 4;
        s->blocks = sized(&s->trap, s->blocks, (size_t)s->block_room * sizeof *s->blocks);
    }
    Block *made = &s->blocks[s->block_count++];
    *made = (Block){s->resource_count - 1, {0}};
    return made;
}

/* Walk a whole request of any signal: resources, scopes, and `record` for each record in them. */
static void scan_request(Scan *s, Piece body, void (*record)(Scan *, Piece)) {
    uint32_t tag;
    while (next(&s->trap, &body, &tag)) {
        if (tag != (1 << 3 | 2)) {
            skip(&s->trap, &body, tag);
            continue;
        }
        Piece resource = message(&s->trap, &body), scope, each;
        Place *head = add_resource(s);
        while (next_child(s, &resource, head, &scope)) {
            Block *block = add_block(s);
            while (next_child(s, &scope, &block->scope, &each)) record(s, each);
        }
    }
}

#endif
