/* HTTP exchanges on the sockets of watched processes: the steps through what a call moved, how they begin, and the ends of
 * connections. The programs that see the calls are those of http_sockets.bpf.c or of http_syscalls.bpf.c. */
#define TAKES_DATA (1ULL << 0 | 1ULL << 19 | 1ULL << 45 | 1ULL << 47) /* read, readv, recvfrom, recvmsg */
#define BY_VECTOR (1ULL << 19 | 1ULL << 20)
#define BY_MESSAGE (1ULL << 46 | 1ULL << 47)
#define NO_DATA_FLAGS 0x2002 /* MSG_PEEK: the bytes will be read again; MSG_ERRQUEUE: they are none of the stream's */

/* A system call that moved data: its number, its file descriptor, where its bytes or vectors lie, their number. */
struct call {
	u64 number, descriptor, data, count;
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

/* Whether a system call's socket is one whose HTTP may be followed; asked before the first step. The way from the descriptor to
 * the socket is gone for those that are not known yet, since a kernel's own socket may move data within a call on another file,
 * and for AF_UNIX, whose sockets' memory is used again. */
static __always_inline int look_at(struct work *w, struct connection *c)
{
	u64 file = w->file;
	w->looked_at = 1;
	if (c && c->ends.family != FAMILY_UNIX)
		return 1;
	if (!file && socket_of(w->descriptor, &file) != w->socket)
		return 0;
	w->file = file;
	if (!c)
		return socket_family(file, w->socket) != 0;
	if (c->inode != inode_of(file)) {
		end_connection(w->key, w->now);
		return 2;
	}
	return 1;
}

int raw_step(struct bpf_raw_tracepoint_args *ctx)
{
	struct work *w = step_work();
	if (!w)
		return 0;
	struct connection *c = connections.lookup(&w->key);
	int found = w->looked_at ? 1 : look_at(w, c);
	int next = found ? walk(w, found == 1 ? c : 0) : -1;
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

/* Makes ready for the first step through the `moved` bytes of a call; returns whether there is one. `file` is 0 where the socket
 * is known by other means than the call's file descriptor. */
static __always_inline int begin_steps(struct call *call, u64 socket, u64 file, u64 moved, u32 watch)
{
	u64 message[4] = {};
	struct work *w = my_work();
	if (!w)
		return 0;
	w->key = w->socket = socket;
	w->tls = w->looked_at = 0;
	w->file = file;
	w->descriptor = call->descriptor;
	w->now = bpf_ktime_get_ns();
	w->watch = watch;
	w->outgoing = ((1ULL << call->number) & SENDS_DATA) != 0;
	w->total = moved;
	w->at = call->data;
	w->left = moved;
	w->vectors = 0;
	w->done = w->joins = 0;
	if ((1ULL << call->number) & (BY_VECTOR | BY_MESSAGE)) {
		w->left = 0;
		w->vector = call->data;
		w->vectors = call->count;
		if ((1ULL << call->number) & BY_MESSAGE) {
			if (read_user(message, sizeof(message), (void *)call->data))
				return 0;
			w->vector = message[2]; /* struct msghdr: name, its length, vectors, their number */
			w->vectors = message[3];
		}
	}
	return 1;
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
	if (watches_tls()) {
		end_tls(socket);
		end_connection(socket | 1, now);
	}
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
