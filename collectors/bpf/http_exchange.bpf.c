/* HTTP exchanges on the sockets of watched processes: one program at the end of every system call. x86-64's pt_regs still
 * holds the call's number and arguments there, so no second probe at its start is needed. */
#define MOVES_DATA (1ULL << 0 | 1ULL << 1 | 1ULL << 19 | 1ULL << 20 | 1ULL << 44 | 1ULL << 45 | 1ULL << 46 | 1ULL << 47)
#define BY_VECTOR (1ULL << 19 | 1ULL << 20)
#define BY_MESSAGE (1ULL << 46 | 1ULL << 47)
#define NO_DATA_FLAGS 0x2002 /* MSG_PEEK: the bytes will be read again; MSG_ERRQUEUE: they are none of the stream's */

struct call {
	u64 r10, r9, r8, ax, cx, dx, si, di, number; /* pt_regs from r10 to orig_ax */
};

static __always_inline struct work *my_work(void)
{
	u32 zero = 0;
	return works.lookup(&zero);
}

/* The same in a system call and in a TLS library: the two programs that call it are loaded for both (Probe's twins). */
static __always_inline struct work *step_work(void)
{
	u32 zero = 0;
	u64 *mask = masks.lookup(&zero), key = bpf_get_current_pid_tgid();
	if (!mask)
		return 0;
	key &= *mask;
	return works.lookup((void *)&key);
}

int raw_step(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = step_work();
	int next = w ? walk(w) : -1;
	if (next < 0)
		return 0;
	steps.call(ctx, next);
	count_lost(LOST_STEPS, 1); /* the kernel allows 33 tail calls: what is left of this call is not parsed */
	return 0;
}

int raw_head(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = step_work();
	int more = w ? scan_head(w) : -1;
	if (more < 0)
		return 0;
	steps.call(ctx, more);
	count_lost(LOST_STEPS, 1);
	return 0;
}

int raw_frames(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = step_work();
	int next = w ? walk_frames(w) : -1;
	if (next < 0)
		return 0;
	steps.call(ctx, next);
	count_lost(LOST_STEPS, 1);
	lose_frames(w);
	return 0;
}

int raw_join(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = step_work();
	if (!w || (!w->left && !next_segment(w)))
		return 0;
	w->joins = joins(w);
	steps.call(ctx, 0);
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
	if (!watched || read_kernel(&call, sizeof(call), (void *)(ctx->args[0] + OFFSET_pt_regs__r10)))
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
			if (c->ways[0].state == FRAMES)
				tell_closing(c, bpf_ktime_get_ns());
			connections.delete(&socket);
		}
	} else if (!socket_family(file, socket)) {
		return 0;
	} else if (carries_tls(socket, file, number)) {
		return 0;
	}
	struct work *w = my_work();
	if (!w)
		return 0;
	w->key = w->socket = socket;
	w->tls = 0;
	w->tls_read = watches_tls();
	w->file = file;
	w->now = bpf_ktime_get_ns();
	w->watch = *watched;
	w->outgoing = ((1ULL << number) & SENDS_DATA) != 0;
	w->total = moved;
	w->at = call.si;
	w->left = moved;
	w->vectors = 0;
	w->done = w->joins = 0;
	if ((1ULL << number) & (BY_VECTOR | BY_MESSAGE)) {
		w->left = 0;
		w->vector = call.si;
		w->vectors = call.dx;
		if ((1ULL << number) & BY_MESSAGE) {
			if (read_user(message, sizeof(message), (void *)call.si))
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
	u64 now = bpf_ktime_get_ns();
	end_connection(socket, now);
	if (watches_tls())
		end_connection(socket | 1, now);
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
