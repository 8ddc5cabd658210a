/* The scanner's door, called by warpline/otlp/scanner.py through ctypes.
 *
 * One pass over an OTLP request, into buffers that are Arrow columns already. Nothing is kept of a request but the keys of
 * its attributes. Why C: a Python loop over upb's objects takes 40 times as long, upb's parse alone twice as long.
 */
#include "export.h"
#include "scan.h"
#include "spans.h"
#include "logs.h"
#include "metrics.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "protobuf's fixed fields are little-endian: on other machines upb reads"
#endif

#define EXPORT __attribute__((visibility("default")))

typedef void (*Record)(Scan *, Piece);
static const Record records[] = {scan_span, scan_record, scan_metric};

EXPORT Keys *warpline_keys_new(uint64_t seed) {
    hash_seed = seed;
    return calloc(1, sizeof(Keys));
}

EXPORT void warpline_keys_free(Keys *k) {
    if (!k) return;
    pool_free(&k->pool);
    free(k->heads.at);
    free(k->head_ends);
    free(k->uses);
    free(k);
}

EXPORT int64_t warpline_keys_count(const Keys *k) { return k->pool.count; }

EXPORT const uint8_t *warpline_key(const Keys *k, int64_t number, int64_t *length) {
    *length = k->pool.offsets[number + 1] - k->pool.offsets[number];
    return k->pool.text.at + k->pool.offsets[number];
}

EXPORT void warpline_key_use(Keys *k, int64_t number, int64_t use) { k->uses[number] = use; }

static void scan_free(Scan *s) {
    if (!s) return;
    for (int64_t i = 0; i < s->column_count; i++) column_free(&s->columns[i]);
    free(s->columns);
    free(s->resources);
    free(s->blocks);
    free(s->block_of);
    free(s->scratch.at);
    free(s->texts);
    free(s);
}

EXPORT void warpline_scan_free(Scan *s) { scan_free(s); }

EXPORT uint64_t warpline_hand_over(Scan *s, struct ArrowArray *whole) { return hand_over(s, whole); }

/* 128 bits that name a body, for a request that is sent again: not against forgery, since a sender could only forge its own.
 * Folded 64×64-bit products, the form of wyhash, two for each 16 bytes; a constant of the format, as the ledger keeps the
 * names. Even and odd blocks go in lanes of their own, because one product has to wait for the one before it. */
static inline uint64_t fold(uint64_t one, uint64_t two) {
    unsigned __int128 product = (unsigned __int128)one * two;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

typedef struct {
    uint64_t a, b;
} Lane;

static inline Lane stir(Lane lane, const uint8_t *at) {
    uint64_t one = load64(at), two = load64(at + 8);
    return (Lane){
        fold(one ^ lane.a, two ^ 0x8EBC6AF09C88C6E3ull) ^ one,
        fold(two ^ lane.b, one ^ 0x589965CC75374CC3ull) ^ two,
    };
}

EXPORT void warpline_digest(const uint8_t *at, int64_t length, uint64_t *digest) {
    Lane even = {0xA0761D6478BD642Full ^ (uint64_t)length, 0xE7037ED1A0B428DBull}, odd = {even.b, even.a};
    uint64_t last[2] = {0, 0};
    int64_t left = length;
    for (; left >= 32; at += 32, left -= 32) {
        even = stir(even, at);
        odd = stir(odd, at + 16);
    }
    if (left >= 16) even = stir(even, at), at += 16, left -= 16;
    memcpy(last, at, (size_t)left);
    uint64_t a = fold(even.a ^ 0x2D358DCCAA6C78A5ull, odd.a ^ 0x8BB84B93962EACC9ull) ^ odd.a;
    uint64_t b = fold(even.b ^ 0x4B33A62ED433D4A3ull, odd.b ^ 0x4D5A2DA51DE1AA47ull) ^ odd.b;
    digest[0] = fold(last[0] ^ a, last[1] ^ 0x1D8E4E27C47D124Full) ^ b;
    digest[1] = fold(last[1] ^ b, last[0] ^ 0xEB44ACCAB455D165ull) ^ fold(a, 0x9E3779B97F4A7C15ull);
}

/* Returns 0, or the code with which the scan trapped. */
static int run(Scan *s, const uint8_t *const *bodies, const int64_t *lengths, int64_t requests, Record record) {
    int trapped = setjmp(s->trap.jump);
    if (trapped) return trapped;
    for (int64_t i = 0; i < requests; i++)
        scan_request(s, (Piece){bodies[i], bodies[i] + lengths[i]}, record);
    if (!s->room) scan_grow(s);
    s->redacted = s->writer.redacted;
    return 0;
}

/* Scan requests of signal 0 (traces), 1 (logs) or 2 (metrics) into columns of the kinds given. Returns NULL with *code UNSURE
 * where upb has to look at them, NO_MEMORY where there is none. What it returns points into the bodies. */
EXPORT Scan *warpline_scan_requests(
    Keys *keys, int64_t signal, const uint8_t *const *bodies, const int64_t *lengths, int64_t requests, int64_t now,
    const int64_t *kinds, int64_t count, int64_t *code
) {
    int64_t length = 0;
    for (int64_t i = 0; i < requests; i++) length += lengths[i];
    Scan *s = calloc(1, sizeof(Scan));
    *code = NO_MEMORY;
    if (!s) return NULL;
    s->columns = calloc((size_t)count, sizeof(Column));
    s->texts = calloc((size_t)count, sizeof *s->texts);
    if (s->columns && s->texts) {
        s->column_count = count;
        for (int64_t i = 0; i < count; i++) {
            s->columns[i] = (Column){.kind = kinds[i], .trap = &s->trap, .room = &s->room};
            if (kinds[i] == TEXT) s->texts[s->text_count++] = &s->columns[i];
        }
        s->first_room = length / 350 / 64 * 64 + 64; /* a span with eight attributes takes some 400 bytes */
        s->now = now, s->writer.keys = keys;
        s->trap.most_empty = length / 8 > MOST_EMPTY ? length / 8 : MOST_EMPTY;
        *code = run(s, bodies, lengths, requests, records[signal]);
    }
    if (*code) {
        scan_free(s);
        return NULL;
    }
    return s;
}
