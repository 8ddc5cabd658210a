/* A scan's columns through Arrow's C data interface (arrow.apache.org/docs/format/CDataInterface.html), without a copy. */
#ifndef WARPLINE_EXPORT_H
#define WARPLINE_EXPORT_H

#include "scan.h"

struct ArrowArray {
    int64_t length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct ArrowArray **children, *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

/* One column as it is handed over: its own array and, for texts by number, that of the texts. */
typedef struct {
    struct ArrowArray array, texts;
    const void *buffers[3], *text_buffers[3];
} Handed;

typedef struct {
    Scan *scan;
    const void *none[1];
    struct ArrowArray **children;
    Handed *columns;
} Hand;

static void release_part(struct ArrowArray *array) { array->release = NULL; } /* its memory is the whole's */

static void scan_free(Scan *s);

static void hand_free(Hand *h) {
    if (!h) return;
    free(h->children);
    free(h->columns);
    free(h);
}

static void release_whole(struct ArrowArray *array) {
    Hand *h = array->private_data;
    for (int64_t i = 0; i < array->n_children; i++)
        if (h->children[i]->release) h->children[i]->release(h->children[i]);
    scan_free(h->scan);
    hand_free(h);
    array->release = NULL;
}

static struct ArrowArray part(int64_t length, int64_t nulls, int64_t count, const void **buffers) {
    return (struct ArrowArray){length, nulls, 0, count, 0, buffers, NULL, NULL, release_part, NULL};
}

static void hand_column(Handed *to, const Column *c, int64_t rows) {
    to->buffers[0] = c->filled < rows ? c->valid : NULL;
    to->buffers[1] = c->data;
    to->buffers[2] = c->text.at;
    to->array = part(rows, rows - c->filled, c->kind == TEXT ? 3 : 2, to->buffers);
    if (c->kind != NAME || !c->pool.count) return; /* numbers of an enum: Python has its texts */
    to->text_buffers[1] = c->pool.offsets;
    to->text_buffers[2] = c->pool.text.at;
    to->texts = part(c->pool.count, 0, 3, to->text_buffers);
    to->array.dictionary = &to->texts;
}

/* Hand over the columns that have values, in order, and last each row's block. The scan is freed with the last of them.
 * Returns which columns those are, a bit each; 0 where there is no memory, and then the scan is freed at once. */
static uint64_t hand_over(Scan *s, struct ArrowArray *whole) {
    int64_t count = 0;
    uint64_t filled = 0;
    Hand *h = calloc(1, sizeof *h);
    if (h) h->columns = calloc((size_t)s->column_count + 1, sizeof *h->columns);
    if (h) h->children = calloc((size_t)s->column_count + 1, sizeof *h->children);
    if (!h || !h->columns || !h->children) {
        hand_free(h);
        scan_free(s);
        return 0;
    }
    for (int64_t i = 0; i < s->column_count; i++) {
        if (!s->columns[i].filled) continue;
        filled |= 1ull << i;
        hand_column(&h->columns[count++], &s->columns[i], s->rows);
    }
    Handed *blocks = &h->columns[count++];
    blocks->buffers[1] = s->block_of;
    blocks->array = part(s->rows, 0, 2, blocks->buffers);
    for (int64_t i = 0; i < count; i++) h->children[i] = &h->columns[i].array;
    h->scan = s;
    *whole = (struct ArrowArray){s->rows, 0, 0, 1, count, h->none, h->children, NULL, release_whole, h};
    return filled;
}

#endif
