/* HTTP/1 exchanges on the sockets of watched processes: one program at the end of every system call. x86-64's pt_regs still
 * holds the call's number and arguments there, so no second probe at its start is needed. */
#define MOVES_DATA (1ULL << 0 | 1ULL << 1 | 1ULL << 19 | 1ULL << 20 | 1ULL << 44 | 1ULL << 45 | 1ULL << 46 | 1ULL << 47)
#define SENDS_DATA (1ULL << 1 | 1ULL << 20 | 1ULL << 44 | 1ULL << 46)
#define BY_VECTOR (1ULL << 19 | 1ULL << 20)
#define BY_MESSAGE (1ULL << 46 | 1ULL << 47)
#define NO_DATA_FLAGS 0x2002 /* MSG_PEEK: the bytes will be read again; MSG_ERRQUEUE: they are none of the stream's */

struct call {
	u64 r10, r9, r8, ax, cx, dx, si, di, number; /* pt_regs from r10 to orig_ax */
};

/* -- the next bytes of the system call ------------------------------------------------------------------------------ */
static __always_inline int next_segment(struct work *w)
{
	u64 vector[2] = {};
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 16 && !w->left; i++) {
		if (!w->total || !w->vectors)
			return 0;
		if (bpf_probe_read_user(vector, 16, (void *)w->vector)) {
			count_lost(LOST_FAULTS, 1);
			return 0;
		}
		w->vector += 16;
		w->vectors--;
		w->at = vector[0];
		w->left = vector[1] < w->total ? vector[1] : w->total;
	}
	return w->left != 0;
}

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
	c->requests++;
	return p;
}

static __always_inline void begin_response(struct connection *c, struct direction *d, struct work *w, u64 offset)
{
	if (c->requests == c->responses) { /* its request was never seen */
		struct pending *p = begin_request(c, w, 0);
		p->flags = OPEN_AT_START;
	}
	c->response.head_ns = w->now;
	c->response.offset = offset;
	begin_head(d);
}

/* A connection without a state: is this the beginning, or the middle, of HTTP? Returns its role, or -1. */
static __always_inline int recognise(struct work *w, u64 *words, u32 bytes)
{
	if (is_request(words[0], bytes))
		return w->outgoing ? CLIENT : SERVER;
	if (bytes == 8 && (is_response(words[0], 8) || is_event_chunk(words)))
		return w->outgoing ? SERVER : CLIENT;
	if (bytes == 8 && words[0] == BYTES8('P', 'R', 'I', ' ', '*', ' ', 'H', 'T'))
		count_lost(SAW_HTTP2, 1);
	else if ((words[0] & 0xffffff) == 0x010316 || (words[0] & 0xffffff) == 0x030316)
		count_lost(SAW_TLS, 1);
	return -1;
}

static __always_inline struct connection *open_connection(struct work *w, u64 *words, u32 bytes)
{
	int role = recognise(w, words, bytes);
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
	if (family != FAMILY_UNIX)
		read_progress(&c->ends, &p, w->socket);
	c->inode = inode_of(w->file);
	c->role = role;
	c->process = bpf_get_current_pid_tgid() >> 32;
	c->cgroup = process_cgroup(task);
	c->process_start_ns = process_start_ns(task);
	/* This call's bytes are in the socket's counters already. */
	c->ways[role == CLIENT ? 0 : 1].stream = p.written - (w->outgoing ? w->total : 0);
	c->ways[role == CLIENT ? 1 : 0].stream = p.read - (w->outgoing ? 0 : w->total);
	if (connections.update(&w->socket, c) < 0) {
		count_lost(LOST_CONNECTIONS, 1);
		return 0;
	}
	return connections.lookup(&w->socket);
}

/* The first bytes after a message, or of a connection. */
static __always_inline void at_boundary(struct connection *c, struct direction *d, struct work *w, u32 way, u64 *words,
					u32 bytes)
{
	if (!way && is_request(words[0], bytes)) {
		struct pending *p = begin_request(c, w, d->stream);
		if (BEGINS(words[0], 8, BYTES8('H', 'E', 'A', 'D', ' ', 0, 0, 0), 5))
			p->flags |= IS_HEAD;
		begin_head(d);
	} else if (way && is_response(words[0], bytes)) {
		begin_response(c, d, w, d->stream);
	} else if (way && bytes == 8 && c->requests == c->responses && is_event_chunk(words)) {
		begin_response(c, d, w, d->stream);
		c->response.head_ns = 0;
		d->state = CHUNK_SIZE;
		d->remaining = 0;
		d->mode = NAME;
	} else {
		d->stream += w->total; /* nothing that we know: wait for the next call */
		w->total = w->left = 0;
	}
}

/* One step in any state but HEAD. Returns 1 where a head is to be scanned, 0 to go on, -1 at the end. */
static __always_inline int step(struct work *w)
{
	u64 words[2] = {};
	if (!w->left && !next_segment(w))
		return -1;
	struct connection *c = connections.lookup(&w->socket);
	u32 way = c ? (w->outgoing != 0) ^ (c->role == CLIENT) : 0;
	u64 place = way & 1;
	struct direction *d = c ? &c->ways[place] : 0;
	u32 state = d ? d->state : IDLE;
	if (state == HEAD)
		return 1;
	if (state == IDLE && c && c->ways[0].state == OPAQUE)
		state = OPAQUE;
	if (state == IDLE) {
		u64 bytes = w->left;
		CLAMP(bytes, 16);
		if (bpf_probe_read_user(words, bytes, (void *)w->at))
			return -1;
		bytes = bytes < 8 ? bytes : 8;
		if (!c) {
			if (!open_connection(w, words, bytes))
				return -1;
			return 0;
		}
		at_boundary(c, d, w, way, words, bytes);
	} else if (state == CHUNK_SIZE || state == TRAILER) {
		chunk_line(c, d, w, way);
	} else if (state == LENGTH || state == CHUNK_DATA) {
		counted(c, d, w, way);
	} else {
		if (state == UNTIL_CLOSE)
			body(c, w, w->left);
		consume(c, d, w, way, w->left);
	}
	conclude(c, w, way);
	return 0;
}

static __always_inline struct work *my_work(void)
{
	u32 zero = 0;
	return works.lookup(&zero);
}

int raw_step(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = my_work();
	if (!w)
		return 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < 6; i++) {
		int next = step(w);
		if (next < 0)
			return 0;
		if (next > 0) {
			steps.call(ctx, 1);
			break;
		}
	}
	steps.call(ctx, 0);
	count_lost(LOST_STEPS, 1); /* the kernel allows 33 tail calls: what is left of this call is not parsed */
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
	e->length = bpf_probe_read_user(e->data, bytes, (void *)w->at) ? 0 : bytes;
	pieces.ringbuf_submit(e, NO_WAKEUP);
}

int raw_head(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = my_work();
	struct connection *c = w ? connections.lookup(&w->socket) : 0;
	if (!c)
		return 0;
	u32 way = (w->outgoing != 0) ^ (c->role == CLIENT);
	u64 place = way & 1, bytes = w->left;
	struct direction *d = &c->ways[place];
	CLAMP(bytes, BLOCK);
	if (bpf_probe_read_user(w->block, bytes, (void *)w->at)) {
		count_lost(LOST_FAULTS, 1);
		d->state = IDLE;
		return 0;
	}
	u64 used = scan(d, w, bytes);
	if (!way) {
		struct pending *p = pending_at(c, c->requests - 1);
		emit_piece(d, p, w, used);
		p->head_bytes += used;
	}
	d->head_bytes += used;
	consume(c, d, w, way, used);
	if (d->ended)
		head_ends(c, d, w, way);
	conclude(c, w, way);
	steps.call(ctx, d->state == HEAD && w->left ? 1 : 0);
	count_lost(LOST_STEPS, 1);
	return 0;
}

int raw_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	s64 moved = ctx->args[1];
	if (moved <= 0)
		return 0;
	u64 file = 0, message[4] = {};
	u32 process = bpf_get_current_pid_tgid() >> 32;
	u32 *watched = targets.lookup(&process);
	struct call call;
	if (!watched || bpf_probe_read_kernel(&call, sizeof(call), (void *)(ctx->args[0] + OFFSET_pt_regs__r10)))
		return 0;
	u64 number = call.number;
	if (number > 47 || !((1ULL << number) & MOVES_DATA))
		return 0;
	if ((number == 45 && (call.r10 & NO_DATA_FLAGS)) || (number == 47 && (call.dx & NO_DATA_FLAGS)))
		return 0;
	u64 socket = socket_of(call.di, &file);
	if (!socket)
		return 0;
	struct connection *c = connections.lookup(&socket);
	if (c) {
		if (c->ends.family == FAMILY_UNIX && c->inode != inode_of(file)) { /* the old one's memory was used again */
			if (c->requests != c->responses)
				finish(c, bpf_ktime_get_ns(), ABORTED);
			connections.delete(&socket);
		}
	} else if (!socket_family(file, socket)) {
		return 0;
	}
	struct work *w = my_work();
	if (!w)
		return 0;
	w->socket = socket;
	w->file = file;
	w->now = bpf_ktime_get_ns();
	w->watch = *watched;
	w->outgoing = ((1ULL << number) & SENDS_DATA) != 0;
	w->total = moved;
	w->at = call.si;
	w->left = moved;
	w->vectors = 0;
	w->done = 0;
	if ((1ULL << number) & (BY_VECTOR | BY_MESSAGE)) {
		w->left = 0;
		w->vector = call.si;
		w->vectors = call.dx;
		if ((1ULL << number) & BY_MESSAGE) {
			if (bpf_probe_read_user(message, sizeof(message), (void *)call.si))
				return 0;
			w->vector = message[2]; /* struct msghdr: name, its length, vectors, their number */
			w->vectors = message[3];
		}
	}
	steps.call(ctx, 0);
	return 0;
}

/* -- the ends of connections ---------------------------------------------------------------------------------------- */
int raw_sock_state(struct bpf_raw_tracepoint_args *ctx)
{
	u64 socket = ctx->args[0];
	u32 state = ctx->args[2];
	u16 port = 0;
	if (state == 10) { /* TCP_LISTEN, set by the process that listens */
		READ(port, socket, OFFSET_sock_common__skc_num);
		watch_port(port, WATCH_ALL);
	} else if (state == 2) { /* TCP_SYN_SENT, set by the process that connects */
		READ(port, socket, OFFSET_sock_common__skc_dport);
		watch_port((port >> 8) | (port << 8), WATCH_PORTS);
	}
	if (state != 7) /* TCP_CLOSE */
		return 0;
	struct connection *c = connections.lookup(&socket);
	if (!c)
		return 0;
	u64 now = bpf_ktime_get_ns();
	u16 how = c->ways[1].state == UNTIL_CLOSE ? CLOSED : ABORTED;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < DEPTH; i++) {
		if (c->requests == c->responses)
			break;
		finish(c, now, how);
		how = ABORTED;
	}
	connections.delete(&socket);
	return 0;
}

int raw_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 socket = ctx->args[0];
	struct connection *c = connections.lookup(&socket);
	if (c)
		c->retransmits++;
	return 0;
}
