/* Walks the bytes that one system call, or one call of a TLS library, moved: from message to message. */
static __always_inline struct pending *begin_request(struct connection *c, struct work *w, u64 offset)
{
	struct pending *p = pending_at(c, c->requests);
	if (c->requests - c->responses >= DEPTH) {
		count_lost(LOST_DEPTH, 1);
		c->responses++;
	}
	__builtin_memset(p, 0, sizeof(*p));
	p->id = next_id();
	p->start_ns = w->now;
	p->offset = offset;
	p->thread = bpf_get_current_pid_tgid();
	p->retransmits = c->retransmits;
	p->flags = c->tls ? IN_TLS : 0;
	c->requests++;
	return p;
}

static __always_inline void begin_response(struct connection *c, struct direction *d, struct work *w, u64 offset)
{
	if (c->requests == c->responses) { /* its request was never seen */
		struct pending *p = begin_request(c, w, 0);
		p->flags |= OPEN_AT_START;
	}
	c->response.head_ns = w->now;
	c->response.offset = offset;
	begin_head(d, 1);
}

/* A connection without a state: is this the beginning, or the middle, of HTTP? Returns its role, or -1. */
static __always_inline int recognise(struct work *w, u64 *words, u32 bytes)
{
	if (is_request(words[0], bytes))
		return w->outgoing ? CLIENT : SERVER;
	if (bytes == 8 && (is_response(words[0], 8) || is_event_chunk(words)))
		return w->outgoing ? SERVER : CLIENT;
	if (is_preface(words[0], bytes))
		return w->outgoing ? CLIENT : SERVER;
	return -1;
}

/* At the least detail, whole connections are left out. Both ends of one, on whatever node, have the same ports. */
static __always_inline int left_out(struct ends *e, u64 socket)
{
	u32 zero = 0, *least = at_least.lookup(&zero);
	if (!least || !*least)
		return 0;
	u32 number = e->family == FAMILY_UNIX ? socket >> 6 : e->local_port ^ e->remote_port;
	return number * 0x9e3779b1U >> 30 != 0;
}

static __always_inline struct connection *open_connection(struct work *w, u64 *words, u32 bytes)
{
	u32 joined = w->joins && w->joins != JOINS_NOT;
	int role = joined ? (w->joins == JOINS_AS_CLIENT ? CLIENT : SERVER) : recognise(w, words, bytes);
	u16 family = role < 0 ? 0 : socket_family(w->file, w->socket);
	if (!family || !is_open(w->socket, family))
		return 0;
	struct connection *c = &w->fresh;
	u64 task = bpf_get_current_task();
	struct progress p = {};
	__builtin_memset(c, 0, sizeof(*c));
	read_ends(&c->ends, w->socket, family);
	if (w->watch == WATCH_PORTS && !ports.lookup(&c->ends.local_port) && !ports.lookup(&c->ends.remote_port))
		return 0;
	if (left_out(&c->ends, w->socket)) {
		if (is_request(words[0], bytes) || is_preface(words[0], bytes))
			count_lost(LEFT_OUT, 1);
		return 0;
	}
	if (family != FAMILY_UNIX)
		read_progress(&c->ends, &p, w->socket);
	if (joined && c->ends.opener)
		role = c->ends.opener == 1 ? CLIENT : SERVER;
	else if (joined && w->joins == JOINS) { /* AF_UNIX: does not say who connected, nor do these frames */
		count_lost(END_NOT_KNOWN, 1);
		return 0;
	}
	c->tls = w->tls;
	c->inode = inode_of(w->file);
	c->role = role;
	c->process = bpf_get_current_pid_tgid() >> 32;
	c->cgroup = process_cgroup(task);
	c->process_start_ns = process_start_ns(task);
	/* This call's bytes are in the socket's counters already. */
	c->ways[role == CLIENT ? 0 : 1].stream = p.written - (w->outgoing ? w->total : 0);
	c->ways[role == CLIENT ? 1 : 0].stream = p.read - (w->outgoing ? 0 : w->total);
	if (joined || is_preface(words[0], bytes))
		begin_frames(c, joined ? 0 : PREFACE_BYTES, joined);
	if (connections.update(&w->key, c) < 0) {
		count_lost(LOST_CONNECTIONS, 1);
		return 0;
	}
	return connections.lookup(&w->key);
}

/* The first bytes after a message, or of a connection. */
static __always_inline void at_boundary(struct connection *c, struct direction *d, struct work *w, u32 way, u64 *words,
					u32 bytes)
{
	if (!way && is_request(words[0], bytes) && c->requests == c->responses && left_out(&c->ends, w->socket)) {
		count_lost(LEFT_OUT, 1);
		w->total = w->left = 0;
		connections.delete(&w->key);
	} else if (!way && is_request(words[0], bytes)) {
		struct pending *p = begin_request(c, w, d->stream);
		if (BEGINS(words[0], 8, BYTES8('H', 'E', 'A', 'D', ' ', 0, 0, 0), 5))
			p->flags |= IS_HEAD;
		begin_head(d, 0);
	} else if (way && is_response(words[0], bytes)) {
		begin_response(c, d, w, d->stream);
	} else if (way && bytes == 8 && c->requests == c->responses && is_event_chunk(words)) {
		begin_response(c, d, w, d->stream);
		c->response.head_ns = 0;
		d->state = CHUNK_SIZE;
		begin_size(d);
	} else {
		d->stream += w->total; /* nothing that we know: wait for the next call */
		w->total = w->left = 0;
	}
}

/* The first bytes on a connection without a state. Returns 3 where frames may be found in the middle of it, 0 where its state was
 * made, -1 where there is nothing to follow. */
static __always_inline int begin_connection(struct work *w)
{
	u64 words[2] = {}, bytes;
	if (!w->left && !next_segment(w))
		return -1;
	bytes = w->left;
	CLAMP(bytes, 16);
	if (read_user(words, bytes, (void *)w->at))
		return -1;
	if (!w->tls && carries_tls(w, words[0], bytes))
		return -1;
	if (!w->joins && is_plausible(read_head(words[0], words[1])))
		return 3;
	return open_connection(w, words, bytes < 8 ? bytes : 8) ? 0 : -1;
}

/* One step in any state but HEAD and FRAMES. Returns 1 where a head is to be scanned, 2 where frames follow, 0 to go on, -1 at
 * the end. */
static __always_inline int step(struct work *w, struct connection *c)
{
	u64 words[2] = {};
	if (!w->left && !next_segment(w))
		return -1;
	u32 way = (w->outgoing != 0) ^ (c->role == CLIENT);
	u64 place = way & 1;
	struct direction *d = &c->ways[place];
	u32 state = d->state;
	if (state == HEAD)
		return 1;
	if (state == FRAMES)
		return 2;
	if (state == IDLE && c->ways[0].state == OPAQUE)
		state = OPAQUE;
	if (state == IDLE) {
		u64 bytes = w->left;
		CLAMP(bytes, 16);
		if (read_user(words, bytes, (void *)w->at))
			return -1;
		at_boundary(c, d, w, way, words, bytes < 8 ? bytes : 8);
	} else if (state == CHUNK_SIZE || state == TRAILER) {
		chunk_line(c, d, w, way);
	} else if (state == LENGTH || state == CHUNK_DATA) {
		counted(c, d, w, way);
	} else {
		if (state == UNTIL_CLOSE)
			body(&c->response, w, w->left);
		consume(c, d, w, way, w->left);
	}
	conclude(c, w, way);
	return 0;
}

/* Emits the first `bytes` of the segment as a piece of the request's head, as far as the setting asks for. */
static __always_inline void emit_piece(struct direction *d, struct pending *p, struct work *w, u64 bytes)
{
	u64 room = d->head_bytes < HEAD_BYTES ? HEAD_BYTES - d->head_bytes : 0;
	if (bytes > room) {
		p->flags |= TRUNCATED;
		bytes = room;
	}
	CLAMP(bytes, BLOCK);
	if (!bytes)
		return;
	struct piece *e = pieces.ringbuf_reserve(sizeof(struct piece));
	count_made(LOST_PIECES);
	if (!e) {
		count_lost(LOST_PIECES, 1);
		p->flags |= FAULTED;
		return;
	}
	e->id = p->id;
	e->number = d->pieces++;
	/* Only the head's own bytes are read: no body ever reaches the ring. */
	e->length = read_user(e->data, bytes, (void *)w->at) ? 0 : bytes;
	pieces.ringbuf_submit(e, NO_WAKEUP);
}

/* Scans the next part of a head; returns whether there is more of it to scan now, or -1 where it cannot be read. */
static __always_inline int scan_head(struct work *w)
{
	struct connection *c = connections.lookup(&w->key);
	if (!c)
		return -1;
	u32 way = (w->outgoing != 0) ^ (c->role == CLIENT);
	u64 place = way & 1, bytes = w->left;
	struct direction *d = &c->ways[place];
	CLAMP(bytes, BLOCK);
	if (read_user(w->block, bytes, (void *)w->at)) {
		count_lost(LOST_FAULTS, 1);
		d->state = IDLE;
		return -1;
	}
	if (!way && d->head_bytes == 1 && c->requests == 1 && begins_preface(w)) { /* its first byte came alone */
		begin_frames(c, PREFACE_BYTES - 1, 0);
		return 2;
	}
	u64 used = scan(d, w, bytes);
	if (!way) {
		struct pending *p = pending_at(c, c->requests - 1);
		emit_piece(d, p, w, used);
		p->head_bytes += used;
	}
	d->head_bytes += used;
	consume(c, d, w, way, used);
	if (d->scan == SCAN_ENDED)
		head_ends(c, d, w, way);
	conclude(c, w, way);
	return d->state == HEAD && w->left;
}

/* Up to six steps; returns what `step` and `begin_connection` do. `c`: what is kept of the connection, or 0. */
static __always_inline int walk(struct work *w, struct connection *c)
{
	if (!c) {
		int next = begin_connection(w);
		if (next)
			return next;
		c = connections.lookup(&w->key);
		if (!c)
			return -1;
	}
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 6; i++) {
		int next = step(w, c);
		if (next)
			return next;
	}
	return 0;
}

/* Goes through frames of HTTP/2; returns 2 where there may be more, 3 where they are to be found, -1 at the end. */
static __always_inline int walk_frames(struct work *w)
{
	struct connection *c = connections.lookup(&w->key);
	if (!c)
		return -1;
	u64 way = (w->outgoing != 0) ^ (c->role == CLIENT);
	w->way = way;
	MASK(way, 1);
	struct direction *d = &c->ways[way];
	struct frames *f = &c->http2.ways[way];
	if (f->lost && w->joins == JOINS_NOT)
		return -1;
	if (f->lost && !w->joins)
		return 3;
	if (f->lost)
		find_frames(f);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < FRAME_TURNS; i++) {
		if (!w->left && !take_vector(w))
			return -1;
		if (w->left)
			frame(c, d, f, w);
	}
	return 2;
}

static __always_inline struct connection *end_connection(u64 key, u64 now)
{
	struct connection *c = connections.lookup(&key);
	if (!c)
		return 0;
	u16 how = c->ways[1].state == UNTIL_CLOSE ? CLOSED : ABORTED;
	if (c->ways[0].state == FRAMES)
		tell_closing(c, now);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < DEPTH; i++) {
		if (c->requests == c->responses)
			break;
		finish(c, now, how);
		how = ABORTED;
	}
	connections.delete(&key);
	return c;
}
