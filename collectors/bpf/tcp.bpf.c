/* TCP connections of watched processes: one record at each change of state, and at most one a second for segments that are
 * sent again. A server's connection opens in an interrupt, where no process runs: its owner is the listener's. */
enum { LOST_TARGETS, LOST_CHANGES, LOST_CONNECTIONS };
enum { ESTABLISHED = 1, SYN_SENT = 2, SYN_RECV = 3, FIN_WAIT1 = 4, CLOSE = 7, LAST_ACK = 9, LISTEN = 10 };
enum { UNKNOWN, CONNECTED, ACCEPTED };

struct owner {
	u64 cgroup, process_start_ns;
	u32 process, unused;
};

struct door {
	u32 network;
	u16 port, unused;
};

struct track {
	struct owner owner;
	struct ends ends;
	u32 from_start;
	u64 start_ns, last_ns, written; /* written: all that this end wrote, known once its FIN is about to follow */
};

struct change {
	u64 start_ns, now_ns, written, read, cgroup, process_start_ns;
	u32 process, state, retransmits, smoothed_rtt;
	struct ends ends;
	u32 from_start;
};

BPF_HASH(doors, struct door, struct owner, 4096);
BPF_HASH(tracks, u64, struct track, CONNECTIONS);
BPF_RINGBUF_OUTPUT(changes, CHANGE_PAGES);

static __always_inline void emit(u64 socket, u32 state, struct track *t, u64 now)
{
	struct progress progress = {};
	struct ends ends = t->ends;
	count_made(LOST_CHANGES);
	struct change *e = changes.ringbuf_reserve(sizeof(struct change));
	if (!e) {
		count_lost(LOST_CHANGES, 1);
		return;
	}
	read_progress(&ends, &progress, socket);
	t->last_ns = now;
	if (state == FIN_WAIT1 || state == LAST_ACK)
		t->written = progress.written + 1; /* one more, so that 0 means not known */
	if (t->written)
		progress.written = t->written - 1;
	e->start_ns = t->start_ns;
	e->now_ns = now;
	e->written = progress.written;
	e->read = progress.read;
	e->cgroup = t->owner.cgroup;
	e->process_start_ns = t->owner.process_start_ns;
	e->process = t->owner.process;
	e->state = state;
	e->retransmits = 0;
	e->smoothed_rtt = 0;
	READ(e->retransmits, socket, OFFSET_tcp_sock__total_retrans);
	READ(e->smoothed_rtt, socket, OFFSET_tcp_sock__srtt_us);
	e->ends = t->ends;
	e->from_start = t->from_start;
	changes.ringbuf_submit(e, NO_WAKEUP);
}

static __always_inline void own(struct owner *o)
{
	u64 task = bpf_get_current_task();
	o->process = bpf_get_current_pid_tgid() >> 32;
	o->cgroup = process_cgroup(task);
	o->process_start_ns = process_start_ns(task);
	o->unused = 0;
}

static __always_inline void door_of(struct door *d, u64 socket)
{
	u64 network = 0;
	u16 port = 0;
	READ(network, socket, OFFSET_sock_common__skc_net);
	READ(d->network, network, OFFSET_net__ns__inum);
	READ(port, socket, OFFSET_inet_sock__inet_sport);
	d->port = (port >> 8) | (port << 8);
	d->unused = 0;
}

/* A watched process connects: what follows of this socket is its. */
static __always_inline void begins(u64 socket, u64 now)
{
	struct track t = {};
	own(&t.owner);
	t.start_ns = now;
	t.from_start = 1;
	t.ends.opener = CONNECTED;
	if (tracks.update(&socket, &t) < 0)
		count_lost(LOST_CONNECTIONS, 1);
}

/* A socket without a track: one that a watched listener accepted, just now or before the probe began. */
static __always_inline struct track *accepted(u64 socket, u32 from_start, u64 now)
{
	struct door door = {};
	struct track t = {};
	door_of(&door, socket);
	struct owner *o = doors.lookup(&door);
	if (!o)
		return 0;
	t.owner = *o;
	t.start_ns = now;
	t.from_start = from_start;
	t.ends.opener = ACCEPTED;
	if (tracks.update(&socket, &t) < 0) {
		count_lost(LOST_CONNECTIONS, 1);
		return 0;
	}
	return tracks.lookup(&socket);
}

static __always_inline void identify(struct track *t, u64 socket)
{
	struct progress progress = {};
	struct ends ends = {};
	u16 family = 0;
	ends.opener = t->ends.opener;
	READ(family, socket, OFFSET_sock_common__skc_family);
	read_ends(&ends, socket, family);
	READ(ends.local_port, socket, OFFSET_inet_sock__inet_sport); /* skc_num is gone when the port is given back */
	ends.local_port = (ends.local_port >> 8) | (ends.local_port << 8);
	read_progress(&ends, &progress, socket);
	t->ends = ends;
}

static __always_inline void listens(u64 socket)
{
	struct door door = {};
	struct owner owner = {};
	door_of(&door, socket);
	own(&owner);
	if (doors.update(&door, &owner) < 0)
		count_lost(LOST_CONNECTIONS, 1);
}

int raw_sock_state(struct bpf_raw_tracepoint_args *ctx)
{
	u64 socket = ctx->args[0], now = bpf_ktime_get_ns();
	u32 before = ctx->args[1], state = ctx->args[2], process = bpf_get_current_pid_tgid() >> 32;
	u16 protocol = 0, port = 0;
	READ(protocol, socket, OFFSET_sock__sk_protocol);
	if (protocol != PROTOCOL_TCP)
		return 0;
	if (state == LISTEN || state == SYN_SENT) {
		READ(port, socket, state == LISTEN ? OFFSET_sock_common__skc_num : OFFSET_sock_common__skc_dport);
		watch_port(state == LISTEN ? port : (u16)((port >> 8) | (port << 8)), state == LISTEN ? WATCH_ALL : WATCH_PORTS);
		if (!targets.lookup(&process))
			return 0;
		if (state == LISTEN)
			listens(socket);
		else
			begins(socket, now);
		return 0;
	}
	if (state == SYN_RECV)
		return 0;
	struct track *t = tracks.lookup(&socket);
	if (before == LISTEN) {
		struct door door = {};
		door_of(&door, socket);
		doors.delete(&door);
		return 0;
	}
	if (!t)
		t = accepted(socket, state == ESTABLISHED, now);
	if (!t)
		return 0;
	if (!t->ends.family)
		identify(t, socket);
	emit(socket, state, t, now);
	if (state == CLOSE)
		tracks.delete(&socket);
	return 0;
}

int raw_retransmit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 socket = ctx->args[0], now = bpf_ktime_get_ns();
	u8 state = 0;
	struct track *t = tracks.lookup(&socket);
	if (!t || !t->ends.family || now - t->last_ns < 1000000000ULL)
		return 0;
	READ(state, socket, OFFSET_sock_common__skc_state);
	emit(socket, state, t, now);
	return 0;
}
