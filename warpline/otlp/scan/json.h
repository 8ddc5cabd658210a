/* Attribute values as JSON text, in the form that warpline/otlp/values.py describes. */
#ifndef WARPLINE_JSON_H
#define WARPLINE_JSON_H

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "column.h"

/* Keys of attributes, kept from request to request; Python says of each new one what is to be done with it. */
enum { PLAIN = -1, REDACT = -2, EVENT_NAME = -3 };

typedef struct {
    Pool pool;
    Buffer heads;       /* of each key, `"key":` as it stands in JSON */
    int64_t *head_ends;
    int64_t *uses;      /* PLAIN, REDACT or the column that a value of the right type goes to */
    int64_t room;
} Keys;

enum { MAX_KEYS = 16384, MAX_DEPTH = 40 };

enum { NOTHING = 0, STRING = 1, BOOL = 2, INT = 3, DOUBLE = 4, ARRAY = 5, KVLIST = 6, BYTES = 7, STRINDEX = 8 };

typedef struct {
    int kind;
    uint64_t number;
    Piece text;
} Value;

typedef struct {
    Keys *keys;
    int64_t redacted;
} Writer;

/* A bit in each byte that is a control character, a quote or a backslash; a false alarm only costs time. */
static inline uint64_t odd_bytes(uint64_t word) {
    uint64_t ones = 0x0101010101010101ull, quote = word ^ ones * '"', slash = word ^ ones * '\\';
    return ((word - ones * 32) | (quote - ones) | (slash - ones)) & ~word & 0x8080808080808080ull;
}

/* Whether a text of eight bytes or more is ASCII that stands in JSON as it is. */
static inline bool is_plain(Piece p) {
    uint64_t odd = odd_bytes(load64(p.end - 8));
    for (const uint8_t *at = p.at; at < p.end - 8; at += 8) odd |= odd_bytes(load64(at));
    return !odd && is_ascii(p);
}

static void json_text(Trap *t, Buffer *b, Piece p) {
    static const char hex[] = "0123456789abcdef";
    if (size_of(p) >= 8 && is_plain(p)) {
        uint8_t *to = reserve(t, b, size_of(p) + 2);
        to[0] = to[size_of(p) + 1] = '"';
        memcpy(to + 1, p.at, (size_t)size_of(p));
        b->length += size_of(p) + 2;
        return;
    }
    check_text(t, p);
    append_byte(t, b, '"');
    while (p.at < p.end) {
        uint8_t *to = reserve(t, b, 16);
        if (size_of(p) >= 8 && !odd_bytes(load64(p.at))) {
            memcpy(to, p.at, 8);
            p.at += 8, b->length += 8;
            continue;
        }
        uint8_t c = *p.at++;
        if (c >= 32 && c != '"' && c != '\\') {
            *to = c, b->length++;
        } else if (c == '"' || c == '\\') {
            to[0] = '\\', to[1] = c, b->length += 2;
        } else {
            memcpy(to, "\\u00", 4);
            to[4] = (uint8_t)hex[c >> 4], to[5] = (uint8_t)hex[c & 15], b->length += 6;
        }
    }
    append_byte(t, b, '"');
}

static void json_unsigned(Trap *t, Buffer *b, uint64_t value) {
    uint8_t digits[20];
    int at = 20;
    do digits[--at] = (uint8_t)('0' + value % 10);
    while (value /= 10);
    append(t, b, digits + at, 20 - at);
}

static void json_signed(Trap *t, Buffer *b, int64_t value) {
    if (value < 0) append_byte(t, b, '-');
    json_unsigned(t, b, value < 0 ? 0 - (uint64_t)value : (uint64_t)value);
}

static void json_fraction(Trap *t, Buffer *b, uint64_t rest, uint64_t ten) {
    while (rest && rest % 10 == 0 && ten > 10) rest /= 10, ten /= 10;
    if (!rest) ten = 10;
    while ((ten /= 10) > 1 && rest < ten) append_byte(t, b, '0');
    json_unsigned(t, b, rest);
}

/* A decimal of few places where one stands for exactly this number: m / 10^k with both exact is rounded once, so the text
 * m·10^-k reads back as the same double (Clinger 1990). False where there is none. */
static bool json_short(Trap *t, Buffer *b, double value) {
    static const double tens[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7};
    /* Below 2^49 seven places find all that fewer would, as the product is off by less than a half: zeros behind them go. */
    for (int places = value < 56e6 ? 7 : 1; places < 8; places++) {
        double scaled = value * tens[places];
        if (scaled >= 9007199254740992.0) return false;
        uint64_t whole = (uint64_t)(scaled + 0.5);
        if ((double)whole / tens[places] != value) continue;
        uint64_t ten = (uint64_t)tens[places];
        json_unsigned(t, b, whole / ten);
        append_byte(t, b, '.');
        json_fraction(t, b, whole % ten, ten);
        return true;
    }
    return false;
}

/* Seventeen digits, which read back as the same double if they are off by less than half its step: that is at least 0.555 of
 * the last digit here, and the product in 64-bit precision is off by at most 0.5 + 2^-8 of it (10^27 is the last power of ten
 * that a long double has exactly). False outside of what that holds for. */
static bool json_long(Trap *t, Buffer *b, double value) {
    if (LDBL_MANT_DIG < 64 || !(value >= 1e-10 && value < 1e15)) return false;
    int exponent;
    frexp(value, &exponent);
    int places = 16 - (int)floor((exponent - 1) * 0.30102999566398120);
    long double power = 1;
    for (int i = 0; i < places; i++) power *= 10;
    long double product = value * power;
    if (product >= 1e17L) product = value * (power / 10), places--;
    uint64_t digits = (uint64_t)(product + 0.5L), ten = 1;
    for (int i = 0; i < places && i < 17; i++) ten *= 10;
    json_unsigned(t, b, digits / ten);
    append_byte(t, b, '.');
    for (int i = 17; i < places; i++) append_byte(t, b, '0');
    json_fraction(t, b, digits % ten, ten);
    return true;
}

static void json_double(Trap *t, Buffer *b, double value) {
    if (isnan(value)) {
        APPEND(t, b, "{\"$double\":\"NaN\"}");
    } else if (isinf(value)) {
        if (value > 0) APPEND(t, b, "{\"$double\":\"Infinity\"}");
        else APPEND(t, b, "{\"$double\":\"-Infinity\"}");
    } else {
        if (signbit(value)) append_byte(t, b, '-');
        value = fabs(value);
        if (json_short(t, b, value) || json_long(t, b, value)) return;
        char text[40];
        int length = snprintf(text, sizeof text, "%.17g", value);
        bool whole = true;
        for (int i = 0; i < length; i++) {
            if (text[i] == ',') text[i] = '.'; /* some locales' point */
            if (text[i] == '.' || text[i] == 'e') whole = false;
        }
        append(t, b, text, length);
        if (whole) APPEND(t, b, ".0");
    }
}

static void json_bytes(Trap *t, Buffer *b, Piece p) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    APPEND(t, b, "{\"$bytes\":\"");
    for (; p.at < p.end; p.at += 3) {
        int64_t left = size_of(p);
        uint32_t three = (uint32_t)p.at[0] << 16 | (left > 1 ? (uint32_t)p.at[1] << 8 : 0) | (left > 2 ? p.at[2] : 0);
        uint8_t *to = reserve(t, b, 4);
        to[0] = (uint8_t)digits[three >> 18], to[1] = (uint8_t)digits[three >> 12 & 63];
        to[2] = left > 1 ? (uint8_t)digits[three >> 6 & 63] : '=', to[3] = left > 2 ? (uint8_t)digits[three & 63] : '=';
        b->length += 4;
        if (left < 3) break;
    }
    APPEND(t, b, "\"}");
}

static void json_hex(Trap *t, Buffer *b, Piece p) {
    static const char digits[] = "0123456789abcdef";
    append_byte(t, b, '"');
    for (; p.at < p.end; p.at++) {
        uint8_t *to = reserve(t, b, 2);
        to[0] = (uint8_t)digits[*p.at >> 4], to[1] = (uint8_t)digits[*p.at & 15];
        b->length += 2;
    }
    append_byte(t, b, '"');
}

static int64_t key_number(Trap *t, Keys *k, Piece key) {
    bool fresh;
    int64_t number = pool_number(t, &k->pool, key, &fresh);
    if (!fresh) return number;
    if (number >= MAX_KEYS) trap(t, UNSURE); /* Python begins with an empty pool next time */
    if (number >= k->room) {
        int64_t room = k->room ? k->room * 2 : 64;
        k->head_ends = sized(t, k->head_ends, (size_t)(room + 1) * sizeof *k->head_ends);
        k->uses = sized(t, k->uses, (size_t)room * sizeof *k->uses);
        if (!k->room) k->head_ends[0] = 0;
        k->room = room;
    }
    k->uses[number] = PLAIN;
    json_text(t, &k->heads, key);
    if (key.at < key.end && *key.at == '$') { /* doubled: see values.py */
        append_byte(t, &k->heads, 0);
        uint8_t *quote = k->heads.at + k->head_ends[number];
        memmove(quote + 2, quote + 1, (size_t)(k->heads.at + k->heads.length - quote - 2));
        quote[1] = '$';
    }
    append_byte(t, &k->heads, ':');
    k->head_ends[number + 1] = k->heads.length;
    return number;
}

/* An AnyValue. One that holds two values would have to be merged: upb's work. */
static inline Value read_value(Trap *t, Piece p) {
    Value found = {NOTHING, 0, {0, 0}};
    uint32_t tag;
    while (next(t, &p, &tag)) {
        int kind = (int)(tag >> 3);
        switch (tag) {
        case 1 << 3 | 2: case 5 << 3 | 2: case 6 << 3 | 2: case 7 << 3 | 2: found.text = piece(t, &p); break;
        case 2 << 3: case 3 << 3: case 8 << 3: found.number = varint(t, &p); break;
        case 4 << 3 | 1: found.number = fixed64(t, &p); break;
        default: skip(t, &p, tag); continue;
        }
        if (found.kind) trap(t, UNSURE);
        found.kind = kind;
    }
    return found;
}

static void write_value(Trap *t, Writer *w, Buffer *b, Value v, int depth);

/* An attribute as nearly all are: key before value, each length in one byte, one text or number. False where it is another,
 * which says nothing of it. */
static inline bool usual_pair(Trap *t, Piece p, Piece *key, Value *value) {
    if (size_of(p) < 6 || p.at[0] != (1 << 3 | 2) || p.at[1] > size_of(p) - 6 || p.at[1] > 127) return false;
    *key = (Piece){p.at + 2, p.at + 2 + p.at[1]};
    Piece rest = {key->end + 2, p.end};
    if (key->end[0] != (2 << 3 | 2) || key->end[1] != size_of(rest) || size_of(rest) > 127) return false;
    uint8_t tag = *rest.at++;
    value->kind = tag >> 3;
    if (tag == (STRING << 3 | 2)) {
        value->text = (Piece){rest.at + 1, rest.end};
        return rest.at[0] == size_of(value->text);
    }
    if (tag == (DOUBLE << 3 | 1) && size_of(rest) == 8) {
        value->number = load64(rest.at);
        return true;
    }
    if (tag != INT << 3) return false;
    value->number = varint(t, &rest);
    return rest.at == rest.end;
}

typedef struct {
    Piece key, value;
} Pair;

static inline Pair read_pair(Trap *t, Piece p) {
    Pair found = {{0, 0}, {0, 0}};
    uint32_t tag;
    while (next(t, &p, &tag)) {
        if (tag == (1 << 3 | 2)) {
            found.key = piece(t, &p);
        } else if (tag == (2 << 3 | 2)) {
            if (found.value.at) trap(t, UNSURE);
            found.value = piece(t, &p);
        } else if (tag == 3 << 3) {
            trap(t, UNSURE); /* a key by index: profiles only */
        } else {
            skip(t, &p, tag);
        }
    }
    return found;
}

/* Write one attribute into the object that began at `begin`, unless it is content. */
static inline void write_pair(Trap *t, Writer *w, Buffer *b, int64_t begin, int64_t key, Value v, int depth) {
    const Keys *k = w->keys;
    if (k->uses[key] == REDACT) {
        w->redacted++;
        return;
    }
    append_byte(t, b, b->length == begin ? '{' : ',');
    append(t, b, k->heads.at + k->head_ends[key], k->head_ends[key + 1] - k->head_ends[key]);
    write_value(t, w, b, v, depth);
}

/* Write the KeyValues with `tag` in a message as one object; nothing where there are none. */
static void write_pairs(Trap *t, Writer *w, Buffer *b, Piece p, uint32_t wanted, int depth) {
    int64_t begin = b->length;
    uint32_t tag;
    while (next(t, &p, &tag)) {
        if (tag != wanted) {
            skip(t, &p, tag);
            continue;
        }
        Pair pair = read_pair(t, message(t, &p));
        write_pair(t, w, b, begin, key_number(t, w->keys, pair.key), read_value(t, pair.value), depth);
    }
    if (b->length > begin) append_byte(t, b, '}');
}

static void write_array(Trap *t, Writer *w, Buffer *b, Piece p, int depth) {
    uint32_t tag;
    bool first = true;
    append_byte(t, b, '[');
    while (next(t, &p, &tag)) {
        if (tag != (1 << 3 | 2)) {
            skip(t, &p, tag);
            continue;
        }
        if (!first) append_byte(t, b, ',');
        first = false;
        write_value(t, w, b, read_value(t, message(t, &p)), depth);
    }
    append_byte(t, b, ']');
}

static void write_value(Trap *t, Writer *w, Buffer *b, Value v, int depth) {
    double number;
    int64_t before = b->length;
    if (depth > MAX_DEPTH) trap(t, UNSURE);
    switch (v.kind) {
    case STRING: json_text(t, b, v.text); break;
    case BOOL: if (v.number) APPEND(t, b, "true"); else APPEND(t, b, "false"); break;
    case INT: json_signed(t, b, (int64_t)v.number); break;
    case DOUBLE: memcpy(&number, &v.number, 8); json_double(t, b, number); break;
    case ARRAY: write_array(t, w, b, v.text, depth + 1); break;
    case KVLIST:
        write_pairs(t, w, b, v.text, 1 << 3 | 2, depth + 1);
        if (b->length == before) APPEND(t, b, "{}");
        break;
    case BYTES: json_bytes(t, b, v.text); break;
    case STRINDEX:
        APPEND(t, b, "{\"$strindex\":");
        json_signed(t, b, (int32_t)v.number);
        append_byte(t, b, '}');
        break;
    default: APPEND(t, b, "null");
    }
}

#endif
