/* The two passes over all bars of a timeline: putting each in its place as it is read, and drawing together what is shorter
 * than a bucket. timeline_draw.py calls them; timeline_kept.py and timeline_lod.py have the same in numpy.
 *
 * Why C: numpy passes over memory some twenty times for each, which was most of what the first look at ten million kernels
 * cost, and of a chunk; and it keeps Python's lock, so that ten who look at once wait for each other.
 */
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

static inline uint32_t code_at(const void *codes, int64_t size, int64_t at) {
    return size == 2 ? ((const uint16_t *)codes)[at] : ((const uint32_t *)codes)[at];
}

static inline void put_code(void *codes, int64_t size, int64_t at, uint32_t code) {
    if (size == 2) ((uint16_t *)codes)[at] = (uint16_t)code;
    else ((uint32_t *)codes)[at] = code;
}

/* Return the place of the first of `sorted` in [low, high) that is not below `value`. */
static int64_t place_of(const int64_t *sorted, int64_t low, int64_t high, int64_t value) {
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (sorted[middle] < value) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Set from[r] and to[r] to where the starts of row r that lie in [low[r], high) stand; return how many there are in all. */
EXPORT int64_t warpline_stretches(
    const int64_t *start, const int64_t *first, int64_t rows, const int64_t *low, int64_t high, int64_t *from, int64_t *to) {
    int64_t total = 0;
    for (int64_t r = 0; r < rows; r++) {
        from[r] = place_of(start, first[r], first[r + 1], low[r]);
        to[r] = place_of(start, from[r], first[r + 1], high);
        total += to[r] - from[r];
    }
    return total;
}

/* Bars by row and start: each by itself, or, where `longest` is not null, drawn together before. Row r's are in
 * [from[r], to[r]); of bars by themselves, those count that overlap [since, until) or are an instant in it. */
typedef struct {
    const int64_t *start, *end, *longest, *busy;
    const int32_t *count;
    const void *label;
    const int64_t *from, *to;
    int64_t since;
} Part;

typedef struct {
    int64_t *start, *end, *longest, *busy;
    int32_t *count;
    void *label;
    int64_t *of_row; /* how many of each row */
} Drawn;

/* Draw together, by row, what starts in one bucket of 2^level ns and is shorter than that; cut all at `until`. The parts of
 * a row follow each other in time. Return how many there are; `out` has room for as many as all parts have. */
EXPORT int64_t warpline_draw(
    const Part *parts, int64_t part_count, int64_t rows, int64_t until, int64_t level, int64_t label_size, const Drawn *out) {
    const int64_t bucket_ns = (int64_t)1 << level;
    int64_t n = 0;
    for (int64_t r = 0; r < rows; r++) {
        int64_t begin = n, group = -1, bucket = 0;
        for (int64_t p = 0; p < part_count; p++) {
            const Part part = parts[p];
            for (int64_t i = part.from[r]; i < part.to[r]; i++) {
                int64_t start = part.start[i], end = part.end[i], longest, busy, count = 1;
                if (part.longest) {
                    longest = part.longest[i], busy = part.busy[i], count = part.count[i];
                    if (end > until) longest = busy = until - start, end = until; /* a bar by itself: no other reaches so far */
                } else {
                    if (start >= until || !(end > part.since || (start == end && start >= part.since))) continue;
                    if (start < part.since) start = part.since;
                    if (end > until) end = until;
                    longest = busy = end - start;
                }
                uint32_t label = code_at(part.label, label_size, i);
                if (longest < bucket_ns) {
                    if (group >= 0 && start >> level == bucket) {
                        if (longest > out->longest[group]) {
                            out->longest[group] = longest;
                            put_code(out->label, label_size, group, label);
                        }
                        if (end > out->end[group]) out->end[group] = end;
                        out->busy[group] += busy;
                        out->count[group] += (int32_t)count;
                        continue;
                    }
                    group = n, bucket = start >> level;
                }
                out->start[n] = start, out->end[n] = end, out->longest[n] = longest, out->busy[n] = busy;
                out->count[n] = (int32_t)count;
                put_code(out->label, label_size, n++, label);
            }
        }
        out->of_row[r] = n - begin;
    }
    return n;
}

enum { LATELY = 1024 }; /* ids that were looked up lately, by their lowest bits: they are hashes */

typedef struct {
    const uint64_t *known;
    int64_t count;
    uint64_t id[LATELY];
    int32_t code[LATELY];
} Codes;

static void begin_codes(Codes *codes, const uint64_t *known, int64_t count) {
    codes->known = known, codes->count = count;
    for (int64_t i = 0; i < LATELY; i++) codes->code[i] = -2;
}

/* Return the place of an id among the known ones, which are sorted; -1 where it is none of them. */
static inline int32_t code_of(Codes *codes, uint64_t id) {
    uint64_t slot = id & (LATELY - 1);
    if (codes->code[slot] != -2 && codes->id[slot] == id) return codes->code[slot];
    int64_t low = 0, high = codes->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (codes->known[middle] < id) low = middle + 1;
        else high = middle;
    }
    codes->id[slot] = id;
    return codes->code[slot] = low < codes->count && codes->known[low] == id ? (int32_t)low : -1;
}

/* What is drawn of all bars so far, one cell for each row and bucket, and those of a bucket or more by themselves:
 * timeline_preview.py reads it. */
typedef struct {
    int64_t level, buckets;
    int64_t *busy, *longest;
    int32_t *count;
    uint32_t *label, *long_row;
    int64_t *long_start, *long_end;
    uint32_t *long_label;
    int64_t longs, most_longs;
} Grid;

static inline void draw_early(Grid *grid, int64_t row, int64_t start, int64_t end, uint32_t label) {
    int64_t lasted = end - start, bucket = start >> grid->level;
    if (lasted >> grid->level) {
        if (grid->longs == grid->most_longs) return;
        int64_t n = grid->longs;
        grid->long_row[n] = (uint32_t)row, grid->long_label[n] = label;
        grid->long_start[n] = start, grid->long_end[n] = end;
        grid->longs = n + 1;
        return;
    }
    int64_t cell = row * grid->buckets + (bucket < grid->buckets ? bucket : grid->buckets - 1);
    if (lasted > grid->longest[cell] || !grid->count[cell]) grid->longest[cell] = lasted, grid->label[cell] = label;
    grid->busy[cell] += lasted;
    grid->count[cell]++;
}

typedef struct {
    const uint64_t *row_ids, *name_ids;
    int64_t rows, names, owns;
    const int64_t *first; /* where each row's place begins, and where the last one's ends */
    int64_t *filled;      /* how much of it is taken */
    int64_t *start, *end;
    void *label;
    int64_t label_size;
    Grid *grid; /* or null */
} Places;

/* Put bars behind those that their rows have already, times moved by `offset`; those of rows and names that are not known,
 * and those that have no place left, are left out. What is drawn of them goes into the grid. */
EXPORT void warpline_place(
    const Places *to, int64_t count, const uint64_t *row_id, const uint64_t *name_id, const int64_t *start, const int64_t *end,
    const uint8_t *own, int64_t offset) {
    Codes rows, names;
    begin_codes(&rows, to->row_ids, to->rows);
    begin_codes(&names, to->name_ids, to->names);
    for (int64_t i = 0; i < count; i++) {
        int32_t row = code_of(&rows, row_id[i]), name = code_of(&names, name_id[i]);
        if (row < 0 || name < 0) continue;
        int64_t at = to->first[row] + to->filled[row];
        if (at >= to->first[row + 1]) continue;
        to->filled[row]++;
        to->start[at] = start[i] + offset, to->end[at] = end[i] + offset;
        uint32_t label = (uint32_t)(name * to->owns + own[i]);
        put_code(to->label, to->label_size, at, label);
        if (to->grid) draw_early(to->grid, row, to->start[at], to->end[at], label);
    }
}
