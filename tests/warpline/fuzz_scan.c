/* Mutates OTLP requests and scans them, under the sanitizers: fuzz_scan SIGNAL SEED_FILE ROUNDS RANDOM_SEED.
 *
 * Each body stands in memory of exactly its size, so that one byte too many is seen; each column is read to its end. Prints how
 * many bodies the scanner took and how many it left to upb.
 */
#include "scan.c"

static uint64_t state;

static uint64_t random64(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static int64_t below(int64_t limit) { return limit > 0 ? (int64_t)(random64() % (uint64_t)limit) : 0; }

enum { MOST = 1 << 16, MOST_COLUMNS = 32, MOST_SEEDS = 4096 };

static uint8_t body[MOST * 2];
static uint64_t sum;

static int64_t mutate(int64_t length) {
    for (int64_t times = 1 + below(4); times > 0; times--) {
        int64_t at = below(length), how = below(10), run = below(40);
        if (how < 5 && length) {
            body[at] = (uint8_t)random64();
        } else if (how == 5) {
            length = at;
        } else if (how == 6 && length) {
            body[at] ^= (uint8_t)(1 << below(8));
        } else if (length + run < MOST && at + run <= length) {
            memmove(body + at + run, body + at, (size_t)(length - at));
            if (how > 8)
                for (int64_t i = 0; i < run; i++) body[at + i] = (uint8_t)random64();
            length += run;
        }
    }
    return length;
}

static void read_column(const Column *c, int64_t rows) {
    int64_t filled = 0;
    if (!c->data && (c->filled || c->text.length)) abort(); /* a column without a value has no memory */
    for (int64_t row = 0; c->data && row < rows; row++) {
        filled += is_set(c, row);
        if (c->kind == WIDE) sum += load64(c->data + row * 8);
        if (c->kind == ID) sum += load64(c->data + row * 16 + 8);
        if (c->kind == TEXT) {
            int32_t begin = (int32_t)load32(c->data + row * 4), end = (int32_t)load32(c->data + row * 4 + 4);
            if (begin < 0 || end < begin || end > c->text.length) abort();
            for (int32_t i = begin; i < end; i++) sum += c->text.at[i];
        }
        if (c->kind == NAME && is_set(c, row) && c->pool.count && load32(c->data + row * 4) >= (uint32_t)c->pool.count) abort();
    }
    if (filled != c->filled) abort();
}

/* What Arrow is given is the same columns, and frees all of it, in whatever order its parts go. */
static void read_handed(Scan *s) {
    struct ArrowArray whole;
    int64_t rows = s->rows, filled = 0;
    for (int64_t i = 0; i < s->column_count; i++) filled += s->columns[i].filled > 0;
    uint64_t bits = warpline_hand_over(s, &whole);
    if (__builtin_popcountll(bits) != filled || whole.n_children != filled + 1 || whole.length != rows) abort();
    for (int64_t i = 0; i < whole.n_children; i++) {
        struct ArrowArray *each = whole.children[i];
        const uint8_t *bytes = each->buffers[1];
        if (each->length != rows || (each->null_count && !each->buffers[0])) abort();
        for (int64_t at = 0; at < rows / 8; at++) sum += bytes[at];
        if (each->dictionary) sum += (uint64_t)((const int32_t *)each->dictionary->buffers[1])[each->dictionary->length];
        if (below(2)) each->release(each);
    }
    whole.release(&whole);
}

static uint8_t *exactly(const uint8_t *from, int64_t length) {
    uint8_t *made = malloc((size_t)length ? (size_t)length : 1);
    memcpy(made, from, (size_t)length);
    return made;
}

int main(int count, char **given) {
    static uint8_t *seeds[MOST_SEEDS];
    static int64_t lengths[MOST_SEEDS];
    static const char *const kinds[] = {
        "WWIWWNNNTTTTTWWNTTWWNWT", "WWNNWTNIWTWW", "WWNNNNNNFWWWTWWTTW" /* as scanner.py tells them */
    };
    if (count != 5) return 2;
    int64_t signal = atoi(given[1]), rounds = atoll(given[3]), known = 0, taken = 0, left = 0, code;
    state = strtoull(given[4], 0, 10) * 0x9E3779B97F4A7C15ull + 1;
    FILE *file = fopen(given[2], "rb");
    while (file && known < MOST_SEEDS && fread(&lengths[known], 8, 1, file) == 1) {
        seeds[known] = malloc((size_t)lengths[known] + 1);
        if (fread(seeds[known], 1, (size_t)lengths[known], file) != (size_t)lengths[known]) return 2;
        known++;
    }
    int64_t columns[MOST_COLUMNS], column_count = (int64_t)strlen(kinds[signal]);
    for (int64_t i = 0; i < column_count; i++) columns[i] = strchr("WITNF", kinds[signal][i]) - "WITNF";
    Keys *keys = warpline_keys_new(random64());
    for (int64_t round = 0; round < rounds; round++) {
        int64_t seed = below(known), length = lengths[seed] < MOST ? lengths[seed] : MOST;
        memcpy(body, seeds[seed], (size_t)length);
        if (round >= known) length = mutate(length);
        int64_t cut = below(4) ? length : below(length + 1), sizes[] = {cut, length - cut};
        uint8_t *bodies[] = {exactly(body, cut), exactly(body + cut, length - cut)}; /* two requests, parted anywhere */
        const uint8_t *const *given_bodies = (const uint8_t *const *)bodies;
        Scan *s = warpline_scan_requests(
            keys, signal, given_bodies, sizes, 2, 1764000000000000000, columns, column_count, &code
        );
        if (s) {
            for (int64_t i = 0; i < column_count; i++) read_column(&s->columns[i], s->rows);
            for (int64_t key = 0; signal == 0 && key < keys->pool.count; key++) /* make columns of some keys */
                if (keys->uses[key] == PLAIN && below(50) == 0) keys->uses[key] = S_PROMOTED + below(8);
        }
        taken += s != NULL, left += s == NULL;
        if (s && s->rows) read_handed(s);
        else warpline_scan_free(s);
        free(bodies[0]);
        free(bodies[1]);
        if (keys->pool.count > 4000 || !s) { /* as scanner.py does after a scan that was given up */
            warpline_keys_free(keys);
            keys = warpline_keys_new(random64());
        }
    }
    warpline_keys_free(keys);
    for (int64_t i = 0; i < known; i++) free(seeds[i]);
    if (file) fclose(file);
    printf("%lld %lld\n", (long long)taken, (long long)left);
    return (int)(sum & 0);
}
