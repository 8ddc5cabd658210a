/* HTTP/1 on a byte stream, one step at a time, resumable at every byte (RFC 9112). A head is scanned by `scan`, bodies are
 * skipped by their length or from chunk to chunk: only chunk sizes are read. */
#define BYTES8(a, b, c, d, e, f, g, h)                                                                                \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 |               \
	 (u64)(g) << 48 | (u64)(h) << 56)
#define LINE_END 0x0a0dULL
#define BEGINS(word, bytes, text, length)                                                                              \
	((((word) ^ (text)) & (~0ULL >> (64 - 8 * ((bytes) < (length) ? (bytes) : (length))))) == 0)

/* Whether `bytes` (1 to 8) first bytes are a request's, or may become one. */
static __always_inline int is_request(u64 w, u32 bytes)
{
	return BEGINS(w, bytes, BYTES8('P', 'O', 'S', 'T', ' ', 0, 0, 0), 5) ||
	       BEGINS(w, bytes, BYTES8('G', 'E', 'T', ' ', 0, 0, 0, 0), 4) ||
	       BEGINS(w, bytes, BYTES8('P', 'U', 'T', ' ', 0, 0, 0, 0), 4) ||
	       BEGINS(w, bytes, BYTES8('H', 'E', 'A', 'D', ' ', 0, 0, 0), 5) ||
	       BEGINS(w, bytes, BYTES8('D', 'E', 'L', 'E', 'T', 'E', ' ', 0), 7) ||
	       BEGINS(w, bytes, BYTES8('P', 'A', 'T', 'C', 'H', ' ', 0, 0), 6) ||
	       BEGINS(w, bytes, BYTES8('O', 'P', 'T', 'I', 'O', 'N', 'S', ' '), 8);
}

static __always_inline int is_response(u64 w, u32 bytes)
{
	return BEGINS(w, bytes, BYTES8('H', 'T', 'T', 'P', '/', '1', '.', 0), 7);
}

/* A chunk of server-sent events: 1 to 4 digits, then CR LF "data: ". */
static __always_inline int is_event_chunk(u64 *words)
{
	u64 text = BYTES8('\r', '\n', 'd', 'a', 't', 'a', ':', ' '), low = words[0], high = words[1];
	return (low >> 8 | high << 56) == text || (low >> 16 | high << 48) == text || (low >> 24 | high << 40) == text ||
	       (low >> 32 | high << 32) == text;
}

static __always_inline void begin_head(struct direction *d, u32 way)
{
	d->state = HEAD;
	d->scan = way ? SCAN_RESPONSE : SCAN_REQUEST;
	d->length = 0;
	d->seen = 0;
	d->head_bytes = 0;
	d->pieces = 0;
	d->status = 0;
}

/* A number that leaves a loop by memory is any number to the verifier, which then walks what follows once, not once a turn. */
#define READ_AGAIN(number) (*(volatile u32 *)&(number))
/* A copy: what the verifier learns of it in a branch does not narrow the original, so that all branches end in one state. */
#define APART(number) ({ u64 copy = (number); asm volatile("%0 |= 0" : "+r"(copy)); copy; })

static __always_inline struct scanner *my_scanner(void)
{
	u32 zero = 0;
	return scanners.lookup(&zero);
}

/* The next state for a byte, and what it adds to a number, without a branch: the verifier walks each turn of a loop once. */
#define SCAN_BYTE(scanner, state, byte, number)                                                                        \
	({                                                                                                             \
		state = (scanner)->next[state][byte];                                                                  \
		u64 effect = (scanner)->effects[state];                                                                \
		number = number * (effect & 255) + (((byte) & 15) + 9 * ((byte) >> 6)) * (effect >> 8 & 255);         \
		effect >> 16;                                                                                          \
	})

/* Scans up to BLOCK bytes of a head; returns how many belong to it. */
static __always_inline u32 scan(struct direction *d, struct work *w, u32 bytes)
{
	struct scanner *scanner = my_scanner();
	u64 state = d->scan, length = d->length, status = d->status, seen = 0;
	w->consumed = bytes;
	if (!scanner)
		return bytes;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < BLOCK; i++) {
		if (i >= bytes)
			break;
		u64 byte = w->block[i];
		u64 more = SCAN_BYTE(scanner, state, byte, length);
		status += (byte & 15) * (more & 255);
		seen |= more;
		if (APART(state) == SCAN_ENDED) {
			w->consumed = i + 1;
			break;
		}
	}
	d->scan = state;
	d->length = length;
	d->status = status;
	d->seen |= seen >> 8;
	return READ_AGAIN(w->consumed);
}

static __always_inline u32 log2_of(u64 value)
{
	u32 result = 0;
	if (value >> 16) { value >>= 16; result += 16; }
	if (value >> 8) { value >>= 8; result += 8; }
	if (value >> 4) { value >>= 4; result += 4; }
	if (value >> 2) { value >>= 2; result += 2; }
	return value >> 1 ? result + 1 : result;
}

/* Takes the next part of what a call moved, where it is a vector; it may be empty. Returns whether there is one. */
static __always_inline int take_vector(struct work *w)
{
	u64 vector[2] = {};
	if (!w->total || !w->vectors)
		return 0;
	if (read_user(vector, 16, (void *)w->vector)) {
		count_lost(LOST_FAULTS, 1);
		return 0;
	}
	w->vector += 16;
	w->vectors--;
	w->at = vector[0];
	w->left = vector[1] < w->total ? vector[1] : w->total;
	return 1;
}

static __always_inline int next_segment(struct work *w)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 16 && !w->left; i++)
		if (!take_vector(w))
			return 0;
	return w->left != 0;
}

/* A piece of a body, which counts: the time since the one before goes into the histogram. */
static __always_inline void piece_of_body(struct response *r, u64 now)
{
	if (r->last_ns) {
		u64 gap = now - r->last_ns, place = log2_of(gap >> 10);
		if (gap > r->longest_gap_ns)
			r->longest_gap_ns = gap;
		if (place > GAPS - 1)
			place = GAPS - 1;
		CLAMP(place, GAPS - 1);
		r->gaps[place]++;
	}
	r->last_ns = now;
	r->chunks++;
}

/* The first bytes of a body are kept for the response's id. */
static __always_inline void first_bytes(struct response *r, struct work *w, u64 bytes)
{
	if (r->first_ns)
		return;
	CLAMP(bytes, FIRST);
	if (!read_user(r->first, bytes, (void *)w->at))
		r->first_length = bytes;
	r->first_ns = w->now;
}

/* Bytes of a response's body: the first few are kept for the response's id, of the others only times count. */
static __always_inline void body(struct response *r, struct work *w, u64 bytes)
{
	first_bytes(r, w, bytes);
	if (r->last_ns != w->now)
		piece_of_body(r, w->now);
}

/* `bytes` of the segment are handled. */
static __always_inline void consume(struct connection *c, struct direction *d, struct work *w, u32 way, u64 bytes)
{
	w->at += bytes;
	w->left -= bytes;
	w->total -= bytes;
	d->stream += bytes;
	if (way)
		c->response.bytes += bytes;
	else
		pending_at(c, c->requests - 1)->bytes += bytes;
}

/* A message is whole: `conclude` acts on it, at one place of each program, since all of this is inlined. */
static __always_inline void message_ends(struct direction *d, struct work *w)
{
	d->state = IDLE;
	w->done = 1;
}

static __always_inline void conclude(struct connection *c, struct work *w, u32 way)
{
	if (!w->done)
		return;
	w->done = 0;
	if (way)
		finish(c, w->now, COMPLETE);
	else
		pending_at(c, c->requests - 1)->end_ns = w->now;
}

static __always_inline void begin_size(struct direction *d)
{
	d->remaining = 0;
	d->scan = SCAN_SIZE;
}

/* What follows a head that is whole (RFC 9112 section 6.3). */
static __always_inline void head_ends(struct connection *c, struct direction *d, struct work *w, u32 way)
{
	d->remaining = d->length;
	u8 next = d->seen & SCAN_CHUNKED ? CHUNK_SIZE : d->seen & SCAN_LENGTH ? (d->length ? LENGTH : IDLE) : way ? UNTIL_CLOSE : IDLE;
	if (d->seen & SCAN_CHUNKED)
		begin_size(d);
	if (way) {
		u16 status = d->status;
		if (status == 101) { /* the connection speaks another protocol from here on */
			message_ends(d, w);
			c->ways[0].state = OPAQUE;
			return;
		}
		if (status >= 100 && status < 200) { /* an interim response: the real one follows */
			d->state = IDLE;
			return;
		}
		if (status == 204 || status == 304 || (pending_at(c, c->responses)->flags & IS_HEAD))
			next = IDLE;
	}
	if (next == IDLE)
		message_ends(d, w);
	else
		d->state = next;
}

/* A chunk's size as nearly all are written: 1 to 4 hexadecimal digits and a line's end, at the beginning of `word`. Returns the
 * number of digits, or 0. All digits are looked at together, so that neither the scanner's table nor a loop is needed. */
static __always_inline u32 plain_size(u64 word, u64 *size)
{
	u32 digits = (word >> 8 & 0xffff) == LINE_END ? 1 : (word >> 16 & 0xffff) == LINE_END ? 2 : (word >> 24 & 0xffff) == LINE_END ? 3 : (word >> 32 & 0xffff) == LINE_END ? 4 : 0;
	if (!digits)
		return 0;
	u64 text = __builtin_bswap64(word) >> (64 - 8 * digits), letters = text >> 6 & 0x01010101, low = text & 0x0f0f0f0f;
	u64 wrong = ((text | letters << 5) & 0xf0f0f0f0) ^ (0x30303030 + letters * 0x30); /* a digit is 3x, a letter 4x or 6x */
	wrong |= (low + 0x06060606 + letters * 3) & 0x10101010; /* above 9, or above F */
	wrong |= letters & ~((low + 0x0f0f0f0f) >> 4); /* a letter in front of A */
	if (wrong & ((1ULL << 8 * digits) - 1))
		return 0;
	low += letters * 9;
	*size = (low & 0xf) | (low >> 4 & 0xf0) | (low >> 8 & 0xf00) | (low >> 12 & 0xf000);
	return digits;
}

/* One line of a chunk's size, or of the trailer: at most 18 bytes at once. */
static __always_inline void chunk_line(struct connection *c, struct direction *d, struct work *w, u32 way)
{
	u64 bytes = w->left;
	u8 *text = (u8 *)w->scratch;
	CLAMP(bytes, 18);
	if (read_user(text, bytes, (void *)w->at)) {
		count_lost(LOST_FAULTS, 1);
		d->state = way ? UNTIL_CLOSE : IDLE;
		return;
	}
	u64 scan = d->scan, size = d->remaining, plain = 0;
	u32 digits = scan == SCAN_SIZE && bytes > 5 ? plain_size(w->scratch[0], &plain) : 0;
	if (digits && plain) {
		d->state = CHUNK_DATA;
		d->remaining = plain + 2;
		consume(c, d, w, way, digits + 2);
		return;
	}
	w->consumed = bytes;
	struct scanner *scanner = my_scanner();
	if (!scanner)
		return;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 18; i++) {
		if (i >= bytes)
			break;
		u64 byte = text[i];
		SCAN_BYTE(scanner, scan, byte, size);
		if (APART(scan) >= SCAN_ENDED) {
			w->consumed = i + 1;
			break;
		}
	}
	d->scan = scan;
	d->remaining = size;
	consume(c, d, w, way, READ_AGAIN(w->consumed) & 31);
	if (d->scan == SCAN_SIZE_ENDED && d->remaining) {
		d->state = CHUNK_DATA;
		d->remaining += 2; /* CR LF follow the data */
	} else if (d->scan == SCAN_SIZE_ENDED || d->scan == SCAN_TRAILER_LINE) {
		d->state = TRAILER;
		d->scan = SCAN_TRAILER;
	} else if (d->scan == SCAN_ENDED) {
		message_ends(d, w);
	}
}

/* Bytes whose number is known. */
static __always_inline void counted(struct connection *c, struct direction *d, struct work *w, u32 way)
{
	u64 take = w->left < d->remaining ? w->left : d->remaining;
	u64 ending = d->state == CHUNK_DATA ? 2 : 0;
	if (way && d->remaining > ending)
		body(&c->response, w, take < d->remaining - ending ? take : d->remaining - ending);
	d->remaining -= take;
	consume(c, d, w, way, take);
	if (d->remaining)
		return;
	if (d->state == CHUNK_DATA)
		d->state = CHUNK_SIZE, begin_size(d);
	else
		message_ends(d, w);
}
