/* Protobuf's wire form, bounds-checked: every read is inside its piece, or the scan ends and upb takes the request.
 *
 * The scanner reads what it is sure of. Whatever is malformed, unusual or merely rare (groups, a field given twice that would
 * have to be merged, values nested deep) traps, and the same bytes go through upb, which decides.
 */
#ifndef WARPLINE_WIRE_H
#define WARPLINE_WIRE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { UNSURE = -1, NO_MEMORY = -2 };

typedef struct {
    const uint8_t *at, *end;
} Piece;

typedef struct {
    jmp_buf jump;
    int64_t empty; /* messages without content, of which a few are usual and masses an attack */
    int64_t most_empty;
} Trap;

static _Noreturn void trap(Trap *t, int code) { longjmp(t->jump, code); }

static inline int64_t size_of(Piece p) { return p.end - p.at; }

static inline uint64_t load64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value; /* little-endian, as protobuf's fixed64 is; setup.py builds for no other */
}

static inline uint32_t load32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

static inline uint64_t varint(Trap *t, Piece *p) {
    if (p->at < p->end && *p->at < 128) return *p->at++;
    if (size_of(*p) > 1 && p->at[1] < 128) {
        p->at += 2;
        return (p->at[-2] & 127) | (uint64_t)p->at[-1] << 7;
    }
    uint64_t value = 0;
    for (int shift = 0; shift < 70 && p->at < p->end; shift += 7) {
        uint64_t byte = *p->at++;
        if (shift == 63 && byte > 1) break;
        value |= (byte & 127) << shift;
        if (byte < 128) return value;
    }
    trap(t, UNSURE);
}

/* The next field's tag, field number and wire type together; false at the end of the piece. */
static inline bool next(Trap *t, Piece *p, uint32_t *tag) {
    if (p->at >= p->end) return false;
    uint64_t found = varint(t, p);
    if (found < 8 || found > UINT32_MAX) trap(t, UNSURE);
    *tag = (uint32_t)found;
    return true;
}

static inline Piece piece(Trap *t, Piece *p) {
    uint64_t length = varint(t, p);
    if (length > (uint64_t)size_of(*p)) trap(t, UNSURE);
    Piece found = {p->at, p->at + length};
    p->at += length;
    return found;
}

static inline Piece message(Trap *t, Piece *p) {
    Piece found = piece(t, p);
    if (found.at == found.end && ++t->empty > t->most_empty) trap(t, UNSURE);
    return found;
}

static inline uint64_t fixed64(Trap *t, Piece *p) {
    if (size_of(*p) < 8) trap(t, UNSURE);
    uint64_t value = load64(p->at);
    p->at += 8;
    return value;
}

static inline uint32_t fixed32(Trap *t, Piece *p) {
    if (size_of(*p) < 4) trap(t, UNSURE);
    uint32_t value = load32(p->at);
    p->at += 4;
    return value;
}

static inline void skip(Trap *t, Piece *p, uint32_t tag) {
    switch (tag & 7) {
    case 0: varint(t, p); return;
    case 1: fixed64(t, p); return;
    case 2: piece(t, p); return;
    case 5: fixed32(t, p); return;
    default: trap(t, UNSURE); /* groups, and wire types that do not exist */
    }
}

/* What is left of less than a word is read as the last word, which overlaps the one before it. */
static inline bool same(const uint8_t *one, const uint8_t *two, int64_t length) {
    if (length >= 8) {
        for (int64_t i = 0; i < length - 8; i += 8)
            if (load64(one + i) != load64(two + i)) return false;
        return load64(one + length - 8) == load64(two + length - 8);
    }
    if (length >= 4) return load32(one) == load32(two) && load32(one + length - 4) == load32(two + length - 4);
    while (length-- > 0)
        if (*one++ != *two++) return false;
    return true;
}

/* One character beyond ASCII: its length in bytes, 0 where it is no valid UTF-8 (RFC 3629: no overlong form, no surrogate). */
static int character(const uint8_t *at, int64_t left) {
    uint8_t lead = at[0];
    int length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || left < length) return 0;
    for (int i = 1; i < length; i++)
        if ((at[i] & 0xC0) != 0x80) return 0;
    if ((lead == 0xE0 && at[1] < 0xA0) || (lead == 0xED && at[1] > 0x9F)) return 0;
    if ((lead == 0xF0 && at[1] < 0x90) || (lead == 0xF4 && at[1] > 0x8F)) return 0;
    return length;
}

static inline bool is_ascii(Piece p) {
    int64_t length = size_of(p);
    uint64_t all = 0;
    if (length >= 8) {
        for (int64_t i = 0; i < length - 8; i += 8) all |= load64(p.at + i);
        all |= load64(p.end - 8);
    } else if (length >= 4) {
        all = load32(p.at) | load32(p.end - 4);
    } else {
        for (; p.at < p.end; p.at++) all |= *p.at;
    }
    return !(all & 0x8080808080808080ull);
}

/* Traps unless the text is valid UTF-8: DuckDB refuses a whole batch for one byte. */
static inline void check_text(Trap *t, Piece p) {
    if (is_ascii(p)) return;
    while (p.at < p.end) {
        if (*p.at < 128) {
            p.at++;
        } else {
            int length = character(p.at, size_of(p));
            if (!length) trap(t, UNSURE);
            p.at += length;
        }
    }
}

#endif
