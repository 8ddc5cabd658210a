/* LogRecord → one row. Field numbers: opentelemetry/proto/logs/v1/logs.proto. Batches of Warpline's own, and events whose
 * body may be content, are upb's: the one is a single large value, the other wants judgement. */
#ifndef WARPLINE_LOGS_H
#define WARPLINE_LOGS_H

#include "scan.h"

/* The order of COLUMNS["logs"] in scanner.py. */
enum {
    L_TIME, L_OBSERVED, L_EVENT, L_SEVERITY, L_NUMBER, L_BODY, L_BODY_TYPE, L_TRACE, L_SPAN, L_ATTRIBUTES, L_FLAGS, L_DROPPED
};

typedef struct {
    Piece trace, span, event, severity, body;
    uint64_t time, observed, dropped;
    uint32_t flags;
    int32_t number;
} Entry;

static bool may_be_content(Piece name) {
    static const char prefix[] = "gen_ai.";
    if (size_of(name) < 7) return false;
    for (int i = 0; i < 7; i++)
        if ((name.at[i] | (prefix[i] >= 'a' ? 32 : 0)) != prefix[i]) return false;
    return true;
}

static void log_attribute(Scan *s, Piece p, int64_t begin, int place) {
    Pair pair = read_pair(&s->trap, p);
    int64_t key = key_at_place(s, place, pair.key);
    Value v = read_value(&s->trap, pair.value);
    if (s->writer.keys->uses[key] == EVENT_NAME && v.kind == STRING && may_be_content(v.text)) trap(&s->trap, UNSURE);
    write_pair(&s->trap, &s->writer, &s->columns[L_ATTRIBUTES].text, begin, key, v, 0);
}

static void log_body(Scan *s, Piece body) {
    static const char *const types[] = {"", "string", "bool", "int", "double", "array", "kvlist"};
    Value v = read_value(&s->trap, body);
    Column *c = &s->columns[L_BODY];
    if (v.kind == NOTHING) return;
    if (v.kind >= BYTES) trap(&s->trap, UNSURE);
    if (v.kind == STRING) {
        set_text(&s->trap, c, s->rows, v.text);
        return;
    }
    write_value(&s->trap, &s->writer, &c->text, v, 0);
    mark(c, s->rows);
    set_name(&s->trap, &s->columns[L_BODY_TYPE], s->rows, literal(types[v.kind]));
}

static Entry read_record(Scan *s, Piece p) {
    Trap *t = &s->trap;
    Entry r;
    memset(&r, 0, sizeof r);
    Column *attributes = &s->columns[L_ATTRIBUTES];
    int64_t begin = attributes->text.length;
    int place = 0;
    uint32_t tag;
    while (next(t, &p, &tag)) {
        switch (tag) {
        case 1 << 3 | 1: r.time = fixed64(t, &p); break;
        case 2 << 3: r.number = (int32_t)varint(t, &p); break;
        case 3 << 3 | 2: r.severity = piece(t, &p); break;
        case 5 << 3 | 2:
            if (r.body.at) trap(t, UNSURE);
            r.body = message(t, &p);
            break;
        case 6 << 3 | 2: log_attribute(s, message(t, &p), begin, place++); break;
        case 7 << 3: r.dropped = (uint32_t)varint(t, &p); break;
        case 8 << 3 | 5: r.flags = fixed32(t, &p); break;
        case 9 << 3 | 2: r.trace = piece(t, &p); break;
        case 10 << 3 | 2: r.span = piece(t, &p); break;
        case 11 << 3 | 1: r.observed = fixed64(t, &p); break;
        case 12 << 3 | 2: r.event = piece(t, &p); break;
        default: skip(t, &p, tag);
        }
    }
    if (attributes->text.length > begin) append_byte(t, &attributes->text, '}');
    mark_written(s, attributes, begin);
    return r;
}

static void set_severity(Scan *s, const Entry *r) {
    static const char *const words[] = {"TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"};
    static const char *const grades[] = {"", "2", "3", "4"};
    Column *c = &s->columns[L_SEVERITY];
    if (r->number) set_wide(&s->columns[L_NUMBER], s->rows, (uint64_t)(int64_t)r->number);
    if (size_of(r->severity)) {
        set_name(&s->trap, c, s->rows, r->severity);
    } else if (r->number >= 1 && r->number <= 24) {
        char name[8];
        int length = snprintf(name, sizeof name, "%s%s", words[(r->number - 1) / 4], grades[(r->number - 1) % 4]);
        bool fresh;
        Piece text = {(uint8_t *)name, (uint8_t *)name + length};
        set_number(c, s->rows, pool_number(&s->trap, &c->pool, text, &fresh));
    }
}

static void scan_record(Scan *s, Piece p) {
    begin_row(s);
    Column *c = s->columns;
    int64_t redacted = s->writer.redacted;
    Entry r = read_record(s, p);
    uint64_t time = r.time ? r.time : r.observed ? r.observed : (uint64_t)s->now;
    if (may_be_content(r.event)) trap(&s->trap, UNSURE);
    log_body(s, r.body);
    if (!in_range(time)) {
        check_text(&s->trap, r.event), check_text(&s->trap, r.severity);
        refuse_time(s, time, time);
        s->writer.redacted = redacted;
        undo_row(s);
        return;
    }
    set_wide(&c[L_TIME], s->rows, time);
    bounded(s, &c[L_OBSERVED], r.observed);
    optional_name(s, &c[L_EVENT], r.event);
    set_severity(s, &r);
    optional_trace_id(s, &c[L_TRACE], r.trace);
    optional_span_id(s, &c[L_SPAN], r.span);
    set_wide(&c[L_FLAGS], s->rows, r.flags);
    if (r.dropped) set_wide(&c[L_DROPPED], s->rows, r.dropped);
    end_row(s);
}

#endif
