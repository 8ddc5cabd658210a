/* HTTP/2 on a byte stream, one frame at a time, resumable at every byte (RFC 9113). Frame heads are read, and header blocks
 * handed on, for the collector to read by HPACK; of DATA only its length and times count. Where frames begin is known from the
 * client's preface on, or found in a call whose bytes are whole frames (a connection joined in the middle). */
enum { FRAME_DATA = 0, FRAME_HEADERS = 1, FRAME_RESET = 3, FRAME_PROMISE = 5, FRAME_WINDOW = 8, FRAME_CONTINUATION = 9, CLOSING = 255 };
enum { PASSED_OVER, BODY, HEADER_BLOCK, STREAM_ENDS };
enum { END_STREAM = 1, END_HEADERS = 4, PADDED = 8, PRIORITY = 32 };
enum { FRAME_HEAD = 9, RESET_HEAD = 13, PREFACE_BYTES = 24 };
enum { UNTRIED, JOINS, JOINS_AS_CLIENT, JOINS_AS_SERVER, JOINS_NOT }; /* work.joins */
#define MOST_JOINED 16384 /* bytes of a frame that peers may send unless told otherwise */
#define CHAIN 4 /* frames of a call that are looked at for it */
#define EXACT_LENGTHS 0x408004500ULL /* a digit a type: PRIORITY 5, RST_STREAM 4, PING 8, WINDOW_UPDATE 4 bytes */
#define IS(value) (*(volatile typeof(value) *)&(value))

struct frame_head {
	u32 left, stream;
	u8 type, flags;
};

/* Whether `bytes` (2 to 8) first bytes are those of the client's preface: PRI * HTTP/2.0, two line ends, SM, two line ends. */
static __always_inline int is_preface(u64 w, u32 bytes)
{
	return bytes > 1 && BEGINS(w, bytes, BYTES8('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'), 8);
}

static __always_inline int begins_preface(struct work *w)
{
	return BEGINS(*(u64 *)w->block, w->left, BYTES8('R', 'I', ' ', '*', ' ', 'H', 'T', 'T'), 8);
}

/* The 9 bytes of a frame's head: a length of 24 bits, type, flags, a stream's id of 31 bits, most significant byte first. */
static __always_inline struct frame_head read_head(u64 low, u8 last)
{
	u64 word = __builtin_bswap64(low);
	struct frame_head head = {word >> 40, ((u32)word << 8 | last) & 0x7fffffff, word >> 32, word >> 24};
	return head;
}

/* Whether a frame may be one: its length and stream have to fit its type, of which a frame of the connection has none. */
static __always_inline int is_plausible(struct frame_head head)
{
	u32 exact = EXACT_LENGTHS >> (head.type & 15) * 4 & 15, of_stream = head.type <= FRAME_RESET, odd = head.stream & 1;
	if (head.left > MOST_JOINED || head.type > FRAME_WINDOW || head.type == FRAME_PROMISE || (exact && head.left != exact))
		return 0;
	if (head.type == FRAME_DATA)
		return odd && !(head.flags & ~(END_STREAM | PADDED));
	if (head.type == FRAME_HEADERS)
		return odd && head.left && !(head.flags & ~(END_STREAM | END_HEADERS | PADDED | PRIORITY));
	return of_stream ? odd : head.type == FRAME_WINDOW || !head.stream;
}

/* Which end asks, by the first byte of a header block: a request begins with its pseudo-fields, static entries 1 to 7, a response
 * with its status, 8 to 14 (RFC 7541 appendix A). JOINS alone where that does not show. */
static __always_inline u32 role_by_block(struct frame_head head, u8 first, u32 outgoing)
{
	u8 entry = first & 128 ? first & 127 : first & 64 ? first & 63 : first & 15;
	if (head.type != FRAME_HEADERS || (head.flags & (PADDED | PRIORITY)) || !entry || entry > 14)
		return JOINS;
	return (entry < 8) == (outgoing != 0) ? JOINS_AS_CLIENT : JOINS_AS_SERVER;
}

/* Whether a call's bytes are whole frames, one of them at least DATA or HEADERS of a client's stream: then it is HTTP/2. Says,
 * too, which end asks, where that shows. */
static __always_inline u32 joins(struct work *w)
{
	u64 at = 0;
	u32 found = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < CHAIN; i++) {
		u64 words[2] = {}, bytes = w->left - at;
		CLAMP(bytes, 16);
		if (at + FRAME_HEAD > w->left || read_user(words, bytes, (void *)(w->at + at)))
			return JOINS_NOT;
		struct frame_head head = read_head(words[0], words[1]);
		if (!is_plausible(head))
			return JOINS_NOT;
		if (head.type <= FRAME_HEADERS && found <= JOINS)
			found = role_by_block(head, words[1] >> 8, w->outgoing);
		at += FRAME_HEAD + head.left;
		if (at == w->total || (at == w->left && w->vectors))
			break;
	}
	return found ? found : JOINS_NOT;
}

/* `preface`: bytes of the preface that are to come; 0 where the connection was joined in the middle. */
static __always_inline void begin_frames(struct connection *c, u32 preface, u32 joined)
{
	struct http2 *h = &c->http2;
	c->requests = c->responses = 0;
	c->ways[0].state = c->ways[1].state = FRAMES;
	__builtin_memset(h, 0, sizeof(*h));
	h->id = next_id();
	h->joined = joined;
	h->ways[0].want = h->ways[1].want = FRAME_HEAD;
	if (preface) {
		h->ways[0].have = FRAME_HEAD;
		h->ways[0].kind = PASSED_OVER;
		h->ways[0].left = preface;
	}
}

/* The rest of a call cannot be followed: what comes next in its direction is looked at anew. */
static __always_inline void lose(struct connection *c, struct frames *f, struct work *w)
{
	f->lost = 1;
	f->pieces++; /* the collector sees the gap, and trusts the header table no more */
	c->http2.gaps++;
	w->left = w->total = 0;
}

static __always_inline void lose_frames(struct work *w)
{
	struct connection *c = connections.lookup(&w->key);
	if (!c)
		return;
	u64 way = (w->outgoing != 0) ^ (c->role == CLIENT);
	MASK(way, 1);
	lose(c, &c->http2.ways[way], w);
}

static __always_inline void find_frames(struct frames *f)
{
	f->lost = f->have = f->ending = 0;
	f->want = FRAME_HEAD;
}

static __always_inline void pass(struct direction *d, struct work *w, u64 bytes)
{
	w->at += bytes;
	w->left -= bytes;
	w->total -= bytes;
	d->stream += bytes;
}

/* What is done with a frame's payload. */
static __always_inline u8 kind_of(u8 type)
{
	if (type == FRAME_DATA)
		return BODY;
	if (type == FRAME_HEADERS || type == FRAME_CONTINUATION || type == FRAME_PROMISE)
		return HEADER_BLOCK;
	return type == FRAME_RESET ? STREAM_ENDS : PASSED_OVER;
}

/* Collects a frame's head; returns whether it is whole. */
static __always_inline int frame_head(struct connection *c, struct direction *d, struct frames *f, struct work *w)
{
	u64 have = f->have, bytes = f->want - f->have;
	if (bytes > w->left)
		bytes = w->left;
	MASK(have, 15);
	CLAMP(bytes, RESET_HEAD);
	if (read_user(f->head + have, bytes, (void *)w->at)) {
		count_lost(LOST_FAULTS, 1);
		lose(c, f, w);
		return 0;
	}
	if (!f->have)
		f->offset = d->stream;
	pass(d, w, bytes);
	f->have += bytes;
	if (f->have < f->want)
		return 0;
	struct frame_head head = read_head(*(u64 *)f->head, f->head[8]);
	if (head.type == FRAME_RESET && head.left == 4 && f->want == FRAME_HEAD) {
		f->want = RESET_HEAD; /* its payload is read like a head: 4 bytes, the code */
		return 0;
	}
	f->left = head.type == FRAME_RESET ? head.left & ~4 : head.left;
	f->stream = head.stream;
	f->type = head.type;
	f->flags = head.flags;
	f->kind = kind_of(head.type);
	f->fresh = f->unread = 1;
	return 1;
}

static __always_inline void finish_stream(struct connection *c, struct stream_key *key, struct exchange *x, u64 now, u16 how, u32 code)
{
	x->end_ns = now;
	x->ended = how;
	x->code = code;
	x->request.retransmits = c->retransmits - x->request.retransmits;
	if (x->gaps_before != (u16)c->http2.gaps)
		x->request.flags |= FAULTED;
	count_made(LOST_EXCHANGES);
	if (exchanges.ringbuf_output(x, sizeof(*x), NO_WAKEUP) < 0)
		count_lost(LOST_EXCHANGES, 1);
	streams.delete(key);
}

/* The exchange of a stream that was not met before, or 0. Ids only grow, so that a lower one is of a stream that has ended. */
static __always_inline struct exchange *begin_stream(struct connection *c, struct frames *f, struct work *w, struct stream_key *key)
{
	u32 way = IS(w->way);
	struct http2 *h = &c->http2;
	u32 before = h->joined && (!h->first || f->stream < h->first);
	if (f->stream <= h->highest && !(way && before))
		return 0;
	if (f->stream > h->highest)
		h->highest = f->stream;
	if (!way && h->joined && !h->first)
		h->first = f->stream;
	struct exchange *x = &w->exchange;
	__builtin_memset(x, 0, sizeof(*x));
	x->request.id = next_id();
	x->request.start_ns = w->now;
	x->request.offset = f->offset;
	x->request.thread = bpf_get_current_pid_tgid();
	x->request.retransmits = c->retransmits;
	x->request.flags = HTTP2 | (c->tls ? IN_TLS : 0) | (way ? OPEN_AT_START : 0);
	x->ordinal = f->stream;
	x->gaps_before = h->gaps;
	describe(x, c);
	if (streams.update(key, x) < 0) {
		count_lost(LOST_STREAMS, 1);
		return 0;
	}
	return streams.lookup(key);
}

/* What the head of a frame with a header block, or of DATA, says of its stream. */
static __always_inline void frame_begins(struct frames *f, struct work *w, struct exchange *x)
{
	if (!IS(f->kind))
		return;
	if (!IS(w->way)) {
		x->request.bytes += FRAME_HEAD;
		return;
	}
	struct response *r = &x->response;
	r->bytes += FRAME_HEAD;
	if (f->type != FRAME_HEADERS || r->first_ns || r->head_ns)
		return;
	r->head_ns = w->now;
	r->offset = f->offset;
}

static __always_inline struct block *new_block(void)
{
	struct block *e = blocks.ringbuf_reserve(sizeof(struct block));
	count_made(LOST_BLOCKS);
	if (!e)
		count_lost(LOST_BLOCKS, 1);
	return e;
}

/* Hands a part of a header block on: no byte of any other frame ever reaches the ring. */
static __always_inline void emit_block(struct connection *c, struct frames *f, struct work *w, struct exchange *x)
{
	u64 bytes = w->consumed;
	CLAMP(bytes, BLOCK);
	w->consumed = bytes;
	if (!bytes && f->left)
		return;
	u32 number = f->pieces++;
	struct block *e = new_block();
	if (!e)
		return;
	e->connection = c->http2.id;
	e->id = x ? x->request.id : 0;
	e->now_ns = w->now;
	e->stream = f->stream;
	e->number = number;
	e->length = bytes;
	e->way = w->way;
	e->type = f->type;
	e->flags = f->flags;
	e->begins = f->fresh;
	e->ends = f->left == bytes;
	e->joined = c->http2.joined;
	if (read_user(e->data, bytes, (void *)w->at)) {
		count_lost(LOST_FAULTS, 1);
		e->type = FRAME_DATA; /* a part without content: the collector sees a gap */
		e->length = 0;
	}
	blocks.ringbuf_submit(e, NO_WAKEUP);
}

static __always_inline void tell_closing(struct connection *c, u64 now)
{
	struct block *e = new_block();
	if (!e)
		return;
	e->connection = c->http2.id;
	e->id = e->stream = 0;
	e->now_ns = now;
	e->number = c->retransmits;
	e->length = e->way = e->flags = e->begins = e->ends = e->joined = 0;
	e->type = CLOSING;
	blocks.ringbuf_submit(e, NO_WAKEUP);
}

/* Bytes of a DATA frame of a response. */
static __always_inline void frame_of_body(struct frames *f, struct response *r, struct work *w)
{
	first_bytes(r, w, IS(w->consumed));
	if (f->fresh)
		piece_of_body(r, w->now);
	r->last_ns = w->now;
}

/* A frame is over: is its direction of the stream, too? END_STREAM stands on HEADERS, though CONTINUATION may follow them. */
static __always_inline int stream_ends(struct frames *f)
{
	if (IS(f->kind) == BODY)
		return f->flags & END_STREAM;
	return IS(f->kind) == HEADER_BLOCK && (f->flags & END_HEADERS) && f->ending;
}

/* The frame's whole head was read: its stream's exchange is begun, told of it, or ended. */
static __always_inline struct exchange *head_is_read(struct connection *c, struct frames *f, struct work *w, struct stream_key *key,
						     struct exchange *x)
{
	f->unread = 0;
	if (f->type == FRAME_PROMISE)
		count_lost(SAW_PUSH, 1);
	if (!x && (key->stream & 1) && (f->type == FRAME_HEADERS || (IS(w->way) && IS(f->kind) == BODY)))
		x = begin_stream(c, f, w, key);
	if (f->type == FRAME_HEADERS)
		f->ending = f->flags & END_STREAM;
	if (!x)
		return 0;
	if (IS(f->kind) == STREAM_ENDS) {
		u32 code = (u32)f->head[9] << 24 | f->head[10] << 16 | f->head[11] << 8 | f->head[12];
		finish_stream(c, key, x, w->now, RESET, code);
		return 0;
	}
	frame_begins(f, w, x);
	return x;
}

/* One frame, or as much of it as is here. What was decided on is read anew at each branch, so that the verifier, to which
 * all branches then end in one state, walks few ways through it. */
static __always_inline void frame(struct connection *c, struct direction *d, struct frames *f, struct work *w)
{
	if (f->have < f->want && !frame_head(c, d, f, w))
		return;
	struct stream_key key = {c->http2.id, f->stream, 0};
	struct exchange *x = 0;
	if (key.stream & 1)
		x = streams.lookup(&key);
	if (IS(f->unread))
		x = head_is_read(c, f, w, &key, x);
	w->consumed = f->left < w->left ? f->left : w->left;
	if (IS(f->kind) == HEADER_BLOCK)
		emit_block(c, f, w, x);
	else if (x && IS(f->kind) == BODY && IS(w->way) && IS(w->consumed))
		frame_of_body(f, &x->response, w);
	u64 bytes = IS(w->consumed);
	if (x && IS(w->way))
		x->response.bytes += bytes;
	else if (x)
		x->request.bytes += bytes;
	if (bytes)
		f->fresh = 0;
	f->left -= bytes;
	pass(d, w, bytes);
	if (f->left)
		return;
	f->have = 0;
	f->want = FRAME_HEAD;
	if (!x || !stream_ends(f))
		return;
	if (IS(w->way))
		finish_stream(c, &key, x, w->now, COMPLETE, 0);
	else
		x->request.end_ns = w->now;
}
