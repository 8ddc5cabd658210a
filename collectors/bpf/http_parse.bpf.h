/* HTTP/1 on a byte stream, one step at a time, resumable at every byte (RFC 9112). A head is scanned by `scan`, bodies are
 * skipped by their length or from chunk to chunk: only chunk sizes are read. */
#define BYTES8(a, b, c, d, e, f, g, h)                                                                                \
	((u64)(a) | (u64)(b) << 8 | (u64)(c) << 16 | (u64)(d) << 24 | (u64)(e) << 32 | (u64)(f) << 40 |               \
	 (u64)(g) << 48 | (u64)(h) << 56)
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

static __always_inline void begin_head(struct direction *d)
{
	d->state = HEAD;
	d->mode = FIRST_LINE;
	d->line = 0;
	d->roll = 0;
	d->length = 0;
	d->chunked = 0;
	d->has_length = 0;
	d->ended = 0;
	d->head_bytes = 0;
	d->pieces = 0;
	d->status = 0;
}

/* A byte of a header's name or value; letters are made small, which leaves digits, '-' and ':' as they are. */
static __always_inline void scan_byte(struct direction *d, u8 byte)
{
	u64 roll = d->roll << 8 | (byte | 0x20);
	u32 line = d->line + 1;
	d->roll = roll;
	d->line = line;
	if (d->mode == NAME) {
		if (byte != ':')
			return;
		d->mode = VALUE;
		if (line == 15 && roll == BYTES8(':', 'h', 't', 'g', 'n', 'e', 'l', '-'))
			d->mode = LENGTH_VALUE;
		else if (line == 18 && roll == BYTES8(':', 'g', 'n', 'i', 'd', 'o', 'c', 'n'))
			d->mode = CODING_VALUE;
	} else if (d->mode == LENGTH_VALUE) {
		if (byte >= '0' && byte <= '9') {
			d->length = d->length * 10 + (byte - '0');
			d->has_length = 1;
		}
	} else if (d->mode == CODING_VALUE) {
		if ((roll & 0xffffffffffffffULL) == BYTES8('d', 'e', 'k', 'n', 'u', 'h', 'c', 0))
			d->chunked = 1;
	} else if (d->mode == FIRST_LINE && line == 12) {
		d->status = ((roll >> 16) & 15) * 100 + ((roll >> 8) & 15) * 10 + (roll & 15);
	}
}

/* Scans up to BLOCK bytes of a head; returns how many belong to it. State lives in map memory between two bytes, so that
 * the verifier sees one state per byte. */
static __always_inline u32 scan(struct direction *d, struct work *w, u32 bytes)
{
	w->consumed = bytes;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < BLOCK; i++) {
		if (i >= bytes)
			break;
		u8 byte = w->block[i];
		if (byte == '\r')
			continue;
		if (byte != '\n') {
			scan_byte(d, byte);
			continue;
		}
		if (!d->line) {
			d->ended = 1;
			w->consumed = i + 1;
			break;
		}
		d->line = 0;
		d->mode = NAME;
	}
	return w->consumed;
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

/* Bytes of a response's body: the first few are kept for the response's id, of the others only times count. */
static __always_inline void body(struct connection *c, struct work *w, u64 bytes)
{
	struct response *r = &c->response;
	if (!r->first_ns) {
		u64 kept = bytes;
		CLAMP(kept, FIRST);
		if (!bpf_probe_read_user(r->first, kept, (void *)w->at))
			r->first_length = kept;
		r->first_ns = w->now;
	}
	if (r->last_ns == w->now)
		return;
	if (r->last_ns) {
		u64 gap = w->now - r->last_ns, place = log2_of(gap >> 10);
		if (gap > r->longest_gap_ns)
			r->longest_gap_ns = gap;
		if (place > GAPS - 1)
			place = GAPS - 1;
		CLAMP(place, GAPS - 1);
		r->gaps[place]++;
	}
	r->last_ns = w->now;
	r->chunks++;
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

/* What follows a head that is whole (RFC 9112 section 6.3). */
static __always_inline void head_ends(struct connection *c, struct direction *d, struct work *w, u32 way)
{
	d->remaining = d->length;
	u8 next = d->chunked ? CHUNK_SIZE : d->has_length ? (d->length ? LENGTH : IDLE) : way ? UNTIL_CLOSE : IDLE;
	if (d->chunked)
		d->remaining = 0, d->line = 0;
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

/* One line of a chunk's size, or of the trailer: at most 18 bytes at once. */
static __always_inline void chunk_line(struct connection *c, struct direction *d, struct work *w, u32 way)
{
	u64 bytes = w->left;
	u8 *text = (u8 *)w->scratch;
	CLAMP(bytes, 18);
	if (bpf_probe_read_user(text, bytes, (void *)w->at)) {
		count_lost(LOST_FAULTS, 1);
		d->state = way ? UNTIL_CLOSE : IDLE;
		return;
	}
	w->consumed = bytes;
	d->ended = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 18; i++) {
		if (i >= bytes)
			break;
		u8 byte = text[i];
		if (byte == '\n') {
			w->consumed = i + 1;
			d->ended = 1;
			break;
		}
		if (byte == '\r')
			continue;
		u8 small = byte | 0x20;
		u8 digit = byte >= '0' && byte <= '9' ? byte - '0' : small >= 'a' && small <= 'f' ? small - 'a' + 10 : 255;
		if (digit == 255)
			d->mode = VALUE; /* an extension: what follows is no size */
		else if (d->state == CHUNK_SIZE && d->mode != VALUE)
			d->remaining = d->remaining << 4 | digit;
		d->line++;
	}
	u32 ended = d->ended, line = d->line;
	consume(c, d, w, way, w->consumed & 31);
	if (!ended)
		return;
	d->line = 0;
	d->mode = NAME;
	if (d->state == CHUNK_SIZE) {
		d->state = d->remaining ? CHUNK_DATA : TRAILER;
		d->remaining += d->remaining ? 2 : 0; /* CR LF follow the data */
	} else if (!line) {
		message_ends(d, w);
	}
}

/* Bytes whose number is known. */
static __always_inline void counted(struct connection *c, struct direction *d, struct work *w, u32 way)
{
	u64 take = w->left < d->remaining ? w->left : d->remaining;
	u64 ending = d->state == CHUNK_DATA ? 2 : 0;
	if (way && d->remaining > ending)
		body(c, w, take < d->remaining - ending ? take : d->remaining - ending);
	d->remaining -= take;
	consume(c, d, w, way, take);
	if (d->remaining)
		return;
	if (d->state == CHUNK_DATA)
		d->state = CHUNK_SIZE, d->line = 0, d->mode = NAME;
	else
		message_ends(d, w);
}
