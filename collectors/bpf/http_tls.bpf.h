/* What a TLS library reads and writes for the process, in plain text, and which socket carries it. Where the library does the
 * I/O itself, the socket is that of the system call inside; where the program does it (memory BIOs: asyncio, uvloop), it is
 * the socket that the thread read last, or the one that it writes to next: a handshake's messages follow its call at once, so
 * that a session knows its socket before its first data. The HTTP state of a socket under TLS has the
 * socket's address plus one as its key. */
struct session {
	u64 library; /* SSL * in the process */
	u32 process, unused;
};
struct carrier {
	u64 socket, file;
};
struct tls_call {
	u64 library, data, length_at;
};
enum { READS = 1, EXTENDED = 2, HANDSHAKE = 4 }; /* bits of the attach cookie: SSL_read(_ex), the _ex forms, SSL_do_handshake */

BPF_ARRAY(tls_watched, u32, 1);
BPF_TABLE("lru_hash", struct session, struct carrier, carriers, 8192);
BPF_TABLE("lru_hash", u64, struct carrier, last_read, 8192);
BPF_TABLE("lru_hash", u64, struct session, pending_write, 8192);
BPF_TABLE("lru_hash", u64, struct tls_call, tls_calls, 8192);
BPF_TABLE("lru_hash", u64, struct work, tls_works, 2048);
BPF_ARRAY(blank, struct work, 1);
BPF_PROG_ARRAY(tls_steps, 4); /* raw_step, raw_head, raw_frames and raw_join once more, with these maps */
BPF_ARRAY(tls_masks, u64, 1);

static __always_inline int watches_tls(void)
{
	u32 zero = 0, *on = tls_watched.lookup(&zero);
	return on && *on;
}

/* A system call on a socket without HTTP of its own: remembers it for the TLS library's calls of the same thread. Returns
 * whether the socket is known to carry TLS, so that its bytes need not be looked at. */
static __always_inline int carries_tls(u64 socket, u64 file, u32 outgoing)
{
	if (!watches_tls())
		return 0;
	u64 thread = bpf_get_current_pid_tgid(), key = socket | 1;
	struct carrier c = {socket, file};
	if (outgoing) {
		struct session *s = pending_write.lookup(&thread);
		if (s) {
			struct session session = *s;
			carriers.update(&session, &c);
			pending_write.delete(&thread);
		}
	} else {
		last_read.update(&thread, &c);
	}
	return connections.lookup(&key) != 0;
}

/* Entry of SSL_read, SSL_read_ex, SSL_write and SSL_write_ex: (SSL *, data, length, length done for the _ex forms), and of
 * SSL_do_handshake (SSL *). */
int uprobe_tls_enter(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid(), cookie = bpf_get_attach_cookie(ctx);
	u32 process = thread >> 32;
	if (!targets.lookup(&process))
		return 0;
	struct session session = {ctx->di, process, 0};
	if (!(cookie & HANDSHAKE)) {
		struct tls_call call = {ctx->di, ctx->si, cookie & EXTENDED ? ctx->cx : 0};
		tls_calls.update(&thread, &call);
		if (cookie & READS)
			return 0;
	}
	if ((cookie & HANDSHAKE) || !carriers.lookup(&session))
		pending_write.update(&thread, &session);
	return 0;
}

static __always_inline struct work *thread_work(u64 thread)
{
	struct work *found = tls_works.lookup(&thread);
	if (found)
		return found;
	u32 zero = 0;
	struct work *empty = blank.lookup(&zero);
	if (!empty)
		return 0;
	tls_works.update(&thread, empty);
	return tls_works.lookup(&thread);
}

int uprobe_tls_return(struct pt_regs *ctx)
{
	u64 thread = bpf_get_current_pid_tgid(), cookie = bpf_get_attach_cookie(ctx), done = 0;
	u32 process = thread >> 32, *watched = targets.lookup(&process);
	struct tls_call *found = tls_calls.lookup(&thread);
	if (!watched || !found)
		return 0;
	struct tls_call call = *found;
	tls_calls.delete(&thread);
	s32 result = ctx->ax;
	if (result <= 0)
		return 0;
	if (!(cookie & EXTENDED))
		done = result;
	else if (read_user(&done, 8, (void *)call.length_at))
		return 0;
	struct session session = {call.library, process, 0};
	struct carrier *carrier = carriers.lookup(&session);
	if (!carrier && (cookie & READS)) {
		carrier = last_read.lookup(&thread);
		if (carrier) {
			struct carrier copy = *carrier;
			carriers.update(&session, &copy);
		}
	}
	struct work *w = thread_work(thread);
	if (!carrier || !w) {
		if (!carrier)
			count_lost(TLS_WITHOUT_SOCKET, 1);
		return 0;
	}
	w->socket = carrier->socket;
	w->file = carrier->file;
	w->key = carrier->socket | 1;
	w->now = bpf_ktime_get_ns();
	w->watch = *watched;
	w->outgoing = !(cookie & READS);
	w->total = w->left = done;
	w->at = call.data;
	w->vectors = 0;
	w->done = w->joins = 0;
	w->tls = w->looked_at = 1;
	tls_steps.call(ctx, 0);
	return 0;
}
