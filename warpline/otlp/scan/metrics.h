/* Metric → one row for each of its points. Field numbers: opentelemetry/proto/metrics/v1/metrics.proto. */
#ifndef WARPLINE_METRICS_H
#define WARPLINE_METRICS_H

#include "scan.h"

/* The order of COLUMNS["metrics"] in scanner.py. */
enum {
    M_TIME, M_START, M_NAME, M_DESCRIPTION, M_UNIT, M_METADATA, M_KIND, M_TEMPORALITY, M_MONOTONIC, M_VALUE, M_WHOLE, M_COUNT,
    M_BUCKETS, M_LEAST, M_GREATEST, M_EXEMPLARS, M_ATTRIBUTES, M_FLAGS
};

enum { GAUGE, SUM, HISTOGRAM, EXPONENTIAL, SUMMARY };

/* What all points of a metric share. */
typedef struct {
    Piece name, description, unit, data;
    int64_t metadata; /* its number in the column's pool, -1 for none */
    int kind, temporality;
    bool monotonic;
} Metric;

/* A point, its scalars read; the pieces are read again for what repeats. */
typedef struct {
    uint64_t start, time, count, zero_count, flags;
    uint64_t sum, least, greatest, zero_threshold, number; /* doubles by their bits, but for a whole number */
    bool has_sum, has_least, has_greatest, has_number, whole;
    int32_t scale;
    Piece positive, negative;
} Point;

static double as_double(uint64_t bits) {
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

static int32_t zigzag(uint64_t raw) {
    uint32_t value = (uint32_t)raw;
    return (int32_t)(value >> 1 ^ (0 - (value & 1)));
}

/* Where the kinds of point keep what: field numbers, 0 where a kind has no such field. */
typedef struct {
    uint32_t attributes, exemplars, flags;
} Layout;

static const Layout layouts[] = {{7, 5, 8}, {7, 5, 8}, {9, 8, 10}, {1, 11, 10}, {7, 0, 8}};

static bool read_number(Trap *t, Piece *p, uint32_t tag, Point *point) {
    if (tag != (4 << 3 | 1) && tag != (6 << 3 | 1)) return false;
    point->number = fixed64(t, p);
    point->has_number = true;
    point->whole = tag == (6 << 3 | 1);
    return true;
}

static Piece once(Trap *t, Piece *p, Piece before) {
    if (before.at) trap(t, UNSURE);
    return message(t, p);
}

static void read_optional(Trap *t, Piece *p, uint64_t *value, bool *has) {
    *value = fixed64(t, p);
    *has = true;
}

/* Fields of histograms and summaries that hold one value. */
static bool read_distribution(Trap *t, Piece *p, uint32_t tag, int kind, Point *point) {
    bool exponential = kind == EXPONENTIAL;
    if (tag == (4 << 3 | 1)) point->count = fixed64(t, p);
    else if (tag == (5 << 3 | 1)) read_optional(t, p, &point->sum, &point->has_sum);
    else if (kind == SUMMARY) return false;
    else if (tag == ((exponential ? 12 : 11) << 3 | 1)) read_optional(t, p, &point->least, &point->has_least);
    else if (tag == ((exponential ? 13 : 12) << 3 | 1)) read_optional(t, p, &point->greatest, &point->has_greatest);
    else if (!exponential) return false;
    else if (tag == 6 << 3) point->scale = zigzag(varint(t, p));
    else if (tag == (7 << 3 | 1)) point->zero_count = fixed64(t, p);
    else if (tag == (14 << 3 | 1)) point->zero_threshold = fixed64(t, p);
    else if (tag == (8 << 3 | 2)) point->positive = once(t, p, point->positive);
    else if (tag == (9 << 3 | 2)) point->negative = once(t, p, point->negative);
    else return false;
    return true;
}

static Point read_point(Trap *t, Piece p, int kind) {
    Point point;
    memset(&point, 0, sizeof point);
    uint32_t tag, flags = layouts[kind].flags << 3;
    while (next(t, &p, &tag)) {
        if (tag == (2 << 3 | 1)) point.start = fixed64(t, &p);
        else if (tag == (3 << 3 | 1)) point.time = fixed64(t, &p);
        else if (tag == flags) point.flags = (uint32_t)varint(t, &p);
        else if (kind <= SUM ? read_number(t, &p, tag, &point) : read_distribution(t, &p, tag, kind, &point)) continue;
        else skip(t, &p, tag);
    }
    return point;
}

static void list_number(Trap *t, Buffer *b, int64_t begin, uint64_t value, bool real) {
    append_byte(t, b, b->length > begin ? ',' : '[');
    if (real) json_double(t, b, as_double(value));
    else json_unsigned(t, b, value);
}

/* The numbers of a repeated field, packed or not, as a JSON array after `head`; nothing where there are none. */
static void write_numbers(Trap *t, Buffer *b, const char *head, Piece p, uint32_t field, uint32_t wire, bool real) {
    int64_t before = b->length;
    append(t, b, head, (int64_t)strlen(head));
    int64_t begin = b->length;
    uint32_t tag;
    while (next(t, &p, &tag)) {
        if (tag == (field << 3 | wire)) {
            list_number(t, b, begin, wire ? fixed64(t, &p) : varint(t, &p), real);
        } else if (tag == (field << 3 | 2)) {
            Piece packed = piece(t, &p);
            while (packed.at < packed.end) list_number(t, b, begin, wire ? fixed64(t, &packed) : varint(t, &packed), real);
        } else {
            skip(t, &p, tag);
        }
    }
    if (b->length == begin) b->length = before;
    else append_byte(t, b, ']');
}

static void write_half(Trap *t, Buffer *b, const char *head, Piece p) {
    if (!p.at) return;
    int32_t offset = 0;
    Piece rest = p;
    uint32_t tag;
    while (next(t, &rest, &tag)) {
        if (tag == 1 << 3) offset = zigzag(varint(t, &rest));
        else skip(t, &rest, tag);
    }
    append(t, b, head, (int64_t)strlen(head));
    json_signed(t, b, offset);
    APPEND(t, b, ",\"counts\":");
    int64_t begin = b->length;
    write_numbers(t, b, "", p, 2, 0, false);
    if (b->length == begin) APPEND(t, b, "[]");
    append_byte(t, b, '}');
}

static void write_quantiles(Trap *t, Buffer *b, Piece p) {
    uint32_t tag;
    bool first = true;
    while (next(t, &p, &tag)) {
        if (tag != (6 << 3 | 2)) {
            skip(t, &p, tag);
            continue;
        }
        Piece each = message(t, &p);
        uint64_t quantile = 0, value = 0;
        while (next(t, &each, &tag)) {
            if (tag == (1 << 3 | 1)) quantile = fixed64(t, &each);
            else if (tag == (2 << 3 | 1)) value = fixed64(t, &each);
            else skip(t, &each, tag);
        }
        if (first) APPEND(t, b, ",\"quantiles\":[{\"q\":");
        else APPEND(t, b, ",{\"q\":");
        first = false;
        json_double(t, b, as_double(quantile));
        APPEND(t, b, ",\"value\":");
        json_double(t, b, as_double(value));
        append_byte(t, b, '}');
    }
    if (!first) append_byte(t, b, ']');
}

/* Bounds and counts as one JSON object; every part begins with a comma, the first of which becomes the brace. */
static void write_buckets(Scan *s, Piece p, int kind, const Point *point) {
    Trap *t = &s->trap;
    Column *c = &s->columns[M_BUCKETS];
    Buffer *b = &c->text;
    int64_t begin = b->length;
    if (kind == HISTOGRAM) {
        write_numbers(t, b, ",\"bounds\":", p, 7, 1, true);
        write_numbers(t, b, ",\"counts\":", p, 6, 1, false);
    } else if (kind == SUMMARY) {
        write_quantiles(t, b, p);
    } else {
        APPEND(t, b, ",\"scale\":");
        json_signed(t, b, point->scale);
        APPEND(t, b, ",\"zero_count\":");
        json_unsigned(t, b, point->zero_count);
        if (as_double(point->zero_threshold) != 0) {
            APPEND(t, b, ",\"zero_threshold\":");
            json_double(t, b, as_double(point->zero_threshold));
        }
        write_half(t, b, ",\"positive\":{\"offset\":", point->positive);
        write_half(t, b, ",\"negative\":{\"offset\":", point->negative);
    }
    if (point->count > INT64_MAX) {
        APPEND(t, b, ",\"count\":");
        json_unsigned(t, b, point->count);
    }
    if (b->length == begin) return;
    b->at[begin] = '{';
    append_byte(t, b, '}');
    mark(c, s->rows);
}

static void write_exemplar(Scan *s, Piece p) {
    Trap *t = &s->trap;
    Buffer *b = &s->columns[M_EXEMPLARS].text;
    Piece rest = p, trace = {0, 0}, span = {0, 0};
    uint64_t time = 0, value = 0;
    uint32_t tag, kind = 0;
    while (next(t, &rest, &tag)) {
        if (tag == (2 << 3 | 1)) time = fixed64(t, &rest);
        else if (tag == (3 << 3 | 1) || tag == (6 << 3 | 1)) value = fixed64(t, &rest), kind = tag;
        else if (tag == (4 << 3 | 2)) span = piece(t, &rest);
        else if (tag == (5 << 3 | 2)) trace = piece(t, &rest);
        else skip(t, &rest, tag);
    }
    APPEND(t, b, "{\"time_ns\":");
    json_unsigned(t, b, time);
    if (kind) APPEND(t, b, ",\"value\":");
    if (kind == (3 << 3 | 1)) json_double(t, b, as_double(value));
    if (kind == (6 << 3 | 1)) json_signed(t, b, (int64_t)value);
    if (size_of(trace)) APPEND(t, b, ",\"trace_id\":"), json_hex(t, b, trace);
    if (size_of(span)) APPEND(t, b, ",\"span_id\":"), json_hex(t, b, span);
    APPEND(t, b, ",\"attributes\":");
    int64_t begin = b->length;
    write_pairs(t, &s->writer, b, p, 7 << 3 | 2, 0);
    if (b->length == begin) b->length -= (int64_t)sizeof(",\"attributes\":") - 1;
    append_byte(t, b, '}');
}

static void write_exemplars(Scan *s, Piece p, uint32_t field) {
    Column *c = &s->columns[M_EXEMPLARS];
    int64_t begin = c->text.length;
    uint32_t tag;
    while (next(&s->trap, &p, &tag)) {
        if (field && tag == (field << 3 | 2)) {
            append_byte(&s->trap, &c->text, c->text.length > begin ? ',' : '[');
            write_exemplar(s, message(&s->trap, &p));
        } else {
            skip(&s->trap, &p, tag);
        }
    }
    if (c->text.length > begin) append_byte(&s->trap, &c->text, ']');
    mark_written(s, c, begin);
}

static void set_point(Scan *s, const Metric *m, const Point *point) {
    Column *c = s->columns;
    int64_t row = s->rows;
    bounded(s, &c[M_START], point->start);
    set_wide(&c[M_FLAGS], row, point->flags);
    if (m->kind <= SUM) {
        double real = point->whole ? (double)(int64_t)point->number : as_double(point->number);
        uint64_t bits;
        memcpy(&bits, &real, 8);
        if (point->has_number) set_wide(&c[M_VALUE], row, bits);
        if (point->whole) set_wide(&c[M_WHOLE], row, point->number);
        return;
    }
    if (point->count <= INT64_MAX) set_wide(&c[M_COUNT], row, point->count);
    if (point->has_sum || m->kind == SUMMARY) set_wide(&c[M_VALUE], row, point->sum);
    if (point->has_least) set_wide(&c[M_LEAST], row, point->least);
    if (point->has_greatest) set_wide(&c[M_GREATEST], row, point->greatest);
}

static void set_metric(Scan *s, const Metric *m) {
    static const char *const temporalities[] = {"", "delta", "cumulative"};
    Column *c = s->columns;
    set_name(&s->trap, &c[M_NAME], s->rows, m->name);
    optional_name(s, &c[M_DESCRIPTION], m->description);
    optional_name(s, &c[M_UNIT], m->unit);
    if (m->metadata >= 0) set_number(&c[M_METADATA], s->rows, m->metadata);
    set_number(&c[M_KIND], s->rows, m->kind);
    if (m->temporality) set_name(&s->trap, &c[M_TEMPORALITY], s->rows, literal(temporalities[m->temporality]));
    if (m->kind == SUM) set_flag(&c[M_MONOTONIC], s->rows, m->monotonic);
}

static void scan_point(Scan *s, const Metric *m, Piece p) {
    Point point = read_point(&s->trap, p, m->kind);
    uint64_t time = point.time ? point.time : (uint64_t)s->now;
    begin_row(s);
    int64_t redacted = s->writer.redacted;
    Column *attributes = &s->columns[M_ATTRIBUTES];
    int64_t begin = attributes->text.length;
    write_pairs(&s->trap, &s->writer, &attributes->text, p, layouts[m->kind].attributes << 3 | 2, 0);
    mark_written(s, attributes, begin);
    if (m->kind > SUM) write_buckets(s, p, m->kind, &point);
    write_exemplars(s, p, layouts[m->kind].exemplars);
    if (!in_range(time)) {
        refuse_time(s, time, time);
        s->writer.redacted = redacted;
        undo_row(s);
        return;
    }
    set_wide(&s->columns[M_TIME], s->rows, time);
    set_metric(s, m);
    set_point(s, m, &point);
    end_row(s);
}

static int kind_of(uint32_t tag) {
    switch (tag) {
    case 5 << 3 | 2: return GAUGE;
    case 7 << 3 | 2: return SUM;
    case 9 << 3 | 2: return HISTOGRAM;
    case 10 << 3 | 2: return EXPONENTIAL;
    case 11 << 3 | 2: return SUMMARY;
    default: return -1;
    }
}

static Metric read_metric(Scan *s, Piece p) {
    Trap *t = &s->trap;
    Metric m = {{0, 0}, {0, 0}, {0, 0}, {0, 0}, -1, -1, 0, false};
    uint32_t tag;
    while (next(t, &p, &tag)) {
        int kind = kind_of(tag);
        if (kind >= 0) m.data = once(t, &p, m.data), m.kind = kind;
        else if (tag == (1 << 3 | 2)) m.name = piece(t, &p);
        else if (tag == (2 << 3 | 2)) m.description = piece(t, &p);
        else if (tag == (3 << 3 | 2)) m.unit = piece(t, &p);
        else skip(t, &p, tag);
    }
    check_text(t, m.name), check_text(t, m.description), check_text(t, m.unit);
    Piece data = m.data;
    while (next(t, &data, &tag)) {
        if (tag == 2 << 3 && m.kind != GAUGE && m.kind != SUMMARY) m.temporality = (int32_t)varint(t, &data);
        else if (tag == 3 << 3 && m.kind == SUM) m.monotonic = varint(t, &data) != 0;
        else skip(t, &data, tag);
    }
    if (m.temporality < 0 || m.temporality > 2) trap(t, UNSURE);
    return m;
}

static void read_metadata(Scan *s, Piece p, Metric *m) {
    bool fresh;
    s->scratch.length = 0;
    write_pairs(&s->trap, &s->writer, &s->scratch, p, 12 << 3 | 2, 0);
    Piece text = {s->scratch.at, s->scratch.at + s->scratch.length};
    if (s->scratch.length) m->metadata = pool_number(&s->trap, &s->columns[M_METADATA].pool, text, &fresh);
}

static void scan_metric(Scan *s, Piece p) {
    Metric m = read_metric(s, p);
    uint32_t tag;
    if (m.kind < 0 || !size_of(m.name)) trap(&s->trap, UNSURE); /* nothing to store, or to be refused */
    read_metadata(s, p, &m);
    while (next(&s->trap, &m.data, &tag)) {
        if (tag == (1 << 3 | 2)) scan_point(s, &m, message(&s->trap, &m.data));
        else skip(&s->trap, &m.data, tag);
    }
}

#endif
