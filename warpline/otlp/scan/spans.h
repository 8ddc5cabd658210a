/* Span → one row. Field numbers: opentelemetry/proto/trace/v1/trace.proto. */
#ifndef WARPLINE_SPANS_H
#define WARPLINE_SPANS_H

#include "scan.h"

/* The order of COLUMNS["traces"] in scanner.py. */
enum {
    S_START, S_END, S_TRACE, S_SPAN, S_PARENT, S_NAME, S_KIND, S_STATUS, S_MESSAGE, S_ATTRIBUTES, S_EVENTS, S_LINKS,
    S_STATE, S_FLAGS, S_DROPPED, S_PROMOTED
};

typedef struct {
    Piece trace, span, parent, name, state, message;
    uint64_t start, end, dropped[3];
    uint32_t flags;
    int32_t kind, status;
} Span;

/* Put a value into the column that its key has; false where it has none, is of another type, or came before. */
static inline bool promote(Scan *s, int64_t column, Value v) {
    if (column < 0) return false;
    Column *c = &s->columns[column];
    if (v.kind != (c->kind == WIDE ? INT : STRING) || is_set(c, s->rows)) return false;
    if (c->kind == WIDE) set_wide(c, s->rows, v.number);
    else if (c->kind == NAME) set_name(&s->trap, c, s->rows, v.text);
    else set_text(&s->trap, c, s->rows, v.text);
    return true;
}

static void write_event(Scan *s, Piece p) {
    Trap *t = &s->trap;
    Buffer *b = &s->columns[S_EVENTS].text;
    Piece rest = p, name = {0, 0};
    uint64_t time = 0, dropped = 0;
    uint32_t tag;
    while (next(t, &rest, &tag)) {
        if (tag == (1 << 3 | 1)) time = fixed64(t, &rest);
        else if (tag == (2 << 3 | 2)) name = piece(t, &rest);
        else if (tag == 4 << 3) dropped = (uint32_t)varint(t, &rest);
        else skip(t, &rest, tag);
    }
    APPEND(t, b, "{\"time_ns\":");
    json_unsigned(t, b, time);
    APPEND(t, b, ",\"name\":");
    json_text(t, b, name);
    APPEND(t, b, ",\"attributes\":");
    int64_t begin = b->length;
    write_pairs(t, &s->writer, b, p, 3 << 3 | 2, 0);
    if (b->length == begin) b->length -= (int64_t)sizeof(",\"attributes\":") - 1;
    if (dropped) {
        APPEND(t, b, ",\"dropped\":");
        json_unsigned(t, b, dropped);
    }
    append_byte(t, b, '}');
}

static void write_link(Scan *s, Piece p) {
    Trap *t = &s->trap;
    Buffer *b = &s->columns[S_LINKS].text;
    Piece rest = p, trace = {0, 0}, span = {0, 0}, state = {0, 0};
    uint64_t dropped = 0, flags = 0;
    uint32_t tag;
    while (next(t, &rest, &tag)) {
        if (tag == (1 << 3 | 2)) trace = piece(t, &rest);
        else if (tag == (2 << 3 | 2)) span = piece(t, &rest);
        else if (tag == (3 << 3 | 2)) state = piece(t, &rest);
        else if (tag == 5 << 3) dropped = (uint32_t)varint(t, &rest);
        else if (tag == (6 << 3 | 5)) flags = fixed32(t, &rest);
        else skip(t, &rest, tag);
    }
    APPEND(t, b, "{\"trace_id\":");
    json_hex(t, b, trace);
    APPEND(t, b, ",\"span_id\":");
    json_hex(t, b, span);
    if (size_of(state)) {
        APPEND(t, b, ",\"trace_state\":");
        json_text(t, b, state);
    }
    APPEND(t, b, ",\"attributes\":");
    int64_t begin = b->length;
    write_pairs(t, &s->writer, b, p, 4 << 3 | 2, 0);
    if (b->length == begin) b->length -= (int64_t)sizeof(",\"attributes\":") - 1;
    if (dropped) {
        APPEND(t, b, ",\"dropped\":");
        json_unsigned(t, b, dropped);
    }
    if (flags) {
        APPEND(t, b, ",\"flags\":");
        json_unsigned(t, b, flags);
    }
    append_byte(t, b, '}');
}

static void read_status(Scan *s, Piece p, Span *into) {
    uint32_t tag;
    while (next(&s->trap, &p, &tag)) {
        if (tag == (2 << 3 | 2)) into->message = piece(&s->trap, &p);
        else if (tag == 3 << 3) into->status = (int32_t)varint(&s->trap, &p);
        else skip(&s->trap, &p, tag);
    }
}

static inline void read_attribute(Scan *s, Piece p, int64_t begin, int place) {
    Pair pair;
    Value v = {NOTHING, 0, {0, 0}};
    if (!usual_pair(&s->trap, p, &pair.key, &v)) {
        pair = read_pair(&s->trap, p);
        v = read_value(&s->trap, pair.value);
    }
    int64_t key = key_at_place(s, place, pair.key);
    if (promote(s, s->writer.keys->uses[key], v)) return;
    write_pair(&s->trap, &s->writer, &s->columns[S_ATTRIBUTES].text, begin, key, v, 0);
}

static void list_item(Scan *s, Column *c, int64_t begin) { append_byte(&s->trap, &c->text, c->text.length > begin ? ',' : '['); }

/* Read all fields of a span; attributes, events and links go straight to their columns. */
static Span read_span(Scan *s, Piece p) {
    Trap *t = &s->trap;
    Column *c = s->columns;
    Span span;
    memset(&span, 0, sizeof span);
    int64_t attributes = c[S_ATTRIBUTES].text.length, events = c[S_EVENTS].text.length, links = c[S_LINKS].text.length;
    int place = 0;
    uint32_t tag;
    while (next(t, &p, &tag)) {
        switch (tag) {
        case 9 << 3 | 2: read_attribute(s, message(t, &p), attributes, place++); break;
        case 1 << 3 | 2: span.trace = piece(t, &p); break;
        case 2 << 3 | 2: span.span = piece(t, &p); break;
        case 3 << 3 | 2: span.state = piece(t, &p); break;
        case 4 << 3 | 2: span.parent = piece(t, &p); break;
        case 5 << 3 | 2: span.name = piece(t, &p); break;
        case 6 << 3: span.kind = (int32_t)varint(t, &p); break;
        case 7 << 3 | 1: span.start = fixed64(t, &p); break;
        case 8 << 3 | 1: span.end = fixed64(t, &p); break;
        case 10 << 3: span.dropped[0] = (uint32_t)varint(t, &p); break;
        case 11 << 3 | 2: list_item(s, &c[S_EVENTS], events), write_event(s, message(t, &p)); break;
        case 12 << 3: span.dropped[1] = (uint32_t)varint(t, &p); break;
        case 13 << 3 | 2: list_item(s, &c[S_LINKS], links), write_link(s, message(t, &p)); break;
        case 14 << 3: span.dropped[2] = (uint32_t)varint(t, &p); break;
        case 15 << 3 | 2: read_status(s, message(t, &p), &span); break;
        case 16 << 3 | 5: span.flags = fixed32(t, &p); break;
        default: skip(t, &p, tag);
        }
    }
    if (c[S_ATTRIBUTES].text.length > attributes) append_byte(t, &c[S_ATTRIBUTES].text, '}');
    if (c[S_EVENTS].text.length > events) append_byte(t, &c[S_EVENTS].text, ']');
    if (c[S_LINKS].text.length > links) append_byte(t, &c[S_LINKS].text, ']');
    mark_written(s, &c[S_ATTRIBUTES], attributes);
    mark_written(s, &c[S_EVENTS], events);
    mark_written(s, &c[S_LINKS], links);
    return span;
}

static void scan_span(Scan *s, Piece p) {
    begin_row(s);
    int64_t row = s->rows, redacted = s->writer.redacted;
    Column *c = s->columns;
    Span span = read_span(s, p);
    bool ids = valid_trace_id(span.trace) && size_of(span.span) == 8 && load64(span.span.at);
    uint64_t start = span.start ? span.start : span.end ? span.end : (uint64_t)s->now;
    if (!ids || !in_range(start) || (span.end && !in_range(span.end))) {
        check_text(&s->trap, span.name), check_text(&s->trap, span.message), check_text(&s->trap, span.state);
        if (!ids) s->rejected_ids++;
        else refuse_time(s, start, span.end);
        s->writer.redacted = redacted;
        undo_row(s);
        return;
    }
    if (span.kind < 0 || span.kind > 5 || span.status < 0 || span.status > 2) trap(&s->trap, UNSURE);
    s->untimed += !span.start && !span.end;
    set_wide(&c[S_START], row, start);
    if (span.end) set_wide(&c[S_END], row, span.end);
    set_id(&c[S_TRACE], row, span.trace.at);
    set_wide(&c[S_SPAN], row, __builtin_bswap64(load64(span.span.at)));
    optional_span_id(s, &c[S_PARENT], span.parent);
    set_name(&s->trap, &c[S_NAME], row, span.name);
    set_number(&c[S_KIND], row, span.kind);
    set_number(&c[S_STATUS], row, span.status);
    optional_text(s, &c[S_MESSAGE], span.message);
    optional_text(s, &c[S_STATE], span.state);
    set_wide(&c[S_FLAGS], row, span.flags);
    uint64_t dropped = span.dropped[0] + span.dropped[1] + span.dropped[2];
    if (dropped) set_wide(&c[S_DROPPED], row, dropped);
    end_row(s);
}

#endif
