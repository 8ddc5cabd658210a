/* What a TLS library reads and writes for the process, in plain text, and which socket carries it. Where the library does the I/O
 * itself, the socket is that of the system calls inside of its calls. Where the program does it (memory BIOs: asyncio, uvloop,
 * anyio), no order of calls tells: what one thread read, or is to write, it may hold back until it has dealt with other sessions.
 * There the client's random says it, 32 bytes that both ends of a session hold and that its first message bears in plain text. The
 * HTTP state of a socket under TLS has the socket's address plus one as its key. */
#define RANDOM_AT 11 /* in a client's first record: behind the record's head, the message's, and the version (RFC 8446, 4.1.2) */
#define LAYOUT_WORDS 256 /* of a session, in which the random is looked for: OpenSSL 3 has it behind some 300 bytes */
#define POINTER_WORDS 64 /* of these, which may point to OpenSSL 1.1's struct ssl3_state_st */
#define RANDOM_IN_STATE 184 /* there, in ssl_local.h of 1.1.0 and 1.1.1 */
#define IN_STATE (1U << 31)
#define LOOKS 8 /* for each first message that nobody has claimed: others' handshakes may come before its own */
#define MOST_LOOKS 256
struct session {
	u64 library; /* SSL * in the process */
	u32 process, unused;
};
struct carrier {
	u64 socket, file, random; /* socket: 0 where it was closed; random: 0 where the library did the I/O */
};
struct hello {
	u64 random[2]; /* its first half */
	u32 process, unused;
};
struct hello_ends {
	u64 sockets[2], files[2]; /* that it was read from, and written to; 0: none, or a session's by now */
};
struct layout {
	u32 random_at, looks; /* bytes from the beginning of a session, or IN_STATE and those of a pointer, or 0: not known; looks left */
};
struct tls_thread {
	u64 library, data, length_at; /* the call under way; library: 0 where there is none */
};
enum { READS = 1, EXTENDED = 2, HANDSHAKE = 4 }; /* bits of the attach cookie: SSL_read(_ex), the _ex forms, SSL_do_handshake */

BPF_ARRAY(tls_watched, u32, 1);
BPF_TABLE("lru_hash", struct session, struct carrier, carriers, 8192);
BPF_TABLE("lru_hash", u64, struct session, carried, 8192); /* by socket: its session; library 0 where none is known yet */
BPF_TABLE("lru_hash", struct hello, struct hello_ends, hellos, 4096);
BPF_TABLE("lru_hash", u32, struct layout, layouts, 2048); /* by process */
BPF_TABLE("lru_hash", u64, struct tls_thread, tls_threads, 8192);
BPF_TABLE("lru_hash", u64, struct work, tls_works, 2048);
BPF_ARRAY(blank, struct work, 1);
BPF_PROG_ARRAY(tls_steps, 4); /* raw_step, raw_head, raw_frames and raw_join once more, with these maps */
BPF_ARRAY(tls_masks, u64, 1);

static __always_inline int watches_tls(void)
{
	u32 zero = 0, *on = tls_watched.lookup(&zero);
	return on && *on;
}

/* The session's data cross this socket from now on. */
static __always_inline void bind_session(struct session *s, u64 socket, u64 file, u64 random)
{
	struct carrier c = {socket, file, random};
	carriers.update(s, &c);
	carried.update(&socket, s);
}

static __always_inline struct layout *process_layout(u32 process)
{
	struct layout *found = layouts.lookup(&process), empty = {};
	if (found)
		return found;
	layouts.update(&process, &empty);
	return layouts.lookup(&process);
}

/* Keeps which socket a client's first message crossed, by the random in it. */
static __always_inline void keep_hello(struct work *w, u32 process)
{
	struct session nobody = {0, process, 0};
	struct hello hello = {{}, process, 0};
	struct hello_ends ends = {}, *found;
	struct layout *layout = process_layout(process);
	carried.update(&w->socket, &nobody);
	if (w->left < RANDOM_AT + sizeof(hello.random) || read_user(hello.random, sizeof(hello.random), (void *)w->at + RANDOM_AT))
		return;
	found = hellos.lookup(&hello);
	if (found)
		ends = *found;
	if (w->outgoing) {
		ends.sockets[1] = w->socket;
		ends.files[1] = w->file;
	} else {
		ends.sockets[0] = w->socket;
		ends.files[0] = w->file;
	}
	hellos.update(&hello, &ends);
	if (layout && layout->looks < MOST_LOOKS)
		layout->looks += LOOKS;
}

/* A system call on a socket without HTTP of its own, whose bytes begin with `word`: remembers what tells the session. Returns
 * whether the bytes are TLS's, so that they need not be looked at. */
static __always_inline int carries_tls(struct work *w, u64 word, u64 bytes)
{
	u32 version = (word >> 8) & 0xffff, type = word & 0xff; /* from 20 to 23, then 3, then 1 to 4 (RFC 8446, 5.1) */
	int is_record = bytes >= 5 && type - 20 < 4 && (version & 0xff) == 3 && version >> 8 < 5;
	int is_hello = is_record && type == 22 && version == 0x0103; /* the first that a client says */
	u64 thread = bpf_get_current_pid_tgid(), key = w->socket | 1;
	if (!watches_tls()) {
		if (is_hello)
			count_lost(SAW_TLS, 1);
		return is_record;
	}
	if (!is_record)
		return connections.lookup(&key) != 0;
	if (is_hello)
		keep_hello(w, thread >> 32);
	struct tls_thread *t = tls_threads.lookup(&thread);
	if (t && t->library) {
		struct session session = {t->library, thread >> 32, 0};
		struct carrier *carrier = carriers.lookup(&session);
		if (!carrier || carrier->socket != w->socket)
			bind_session(&session, w->socket, w->file, 0);
	}
	return 1;
}

/* A socket was closed: whether its TLS was read is known now, and its session has none any more. */
static __always_inline void end_tls(u64 socket)
{
	struct session *found = carried.lookup(&socket);
	if (!found)
		return;
	struct session session = *found;
	carried.delete(&socket);
	if (!session.library) {
		count_lost(SAW_TLS, 1);
		return;
	}
	struct carrier *carrier = carriers.lookup(&session);
	if (carrier && carrier->socket == socket)
		carrier->socket = 0;
}

/* Gives the session the socket that the first message with its random crossed: read from there by the server, whose handshake is
 * called next, or written by the client, who has called once before. Returns whether there is one. */
static __always_inline int bind_by_random(struct session *s, struct hello *hello)
{
	struct hello_ends *ends = hello->random[0] ? hellos.lookup(hello) : 0;
	if (!ends)
		return 0;
	u64 socket = ends->sockets[0], file = ends->files[0];
	if (socket) {
		ends->sockets[0] = 0;
	} else {
		socket = ends->sockets[1];
		file = ends->files[1];
		ends->sockets[1] = 0;
	}
	if (socket)
		bind_session(s, socket, file, hello->random[0]);
	return socket != 0;
}

/* Reads the random of a session that is `at` a place as in struct layout; returns whether that cannot be done. */
static __always_inline int read_random(struct hello *hello, u64 library, u32 at)
{
	u64 from = library + (at & ~IN_STATE);
	if (at & IN_STATE) {
		if (read_user(&from, sizeof(from), (void *)from))
			return 1;
		from += RANDOM_IN_STATE;
	}
	return read_user(hello->random, sizeof(hello->random), (void *)from) != 0;
}

/* Looks for a random that is known through all of the session, and keeps where it was: that is the same in all of a process. */
static __always_inline void find_random(struct session *s, struct hello *hello, struct layout *layout)
{
	layout->looks--;
#pragma clang loop unroll(disable)
	for (u32 i = 1; i < LAYOUT_WORDS + POINTER_WORDS; i++) {
		u32 at = i < LAYOUT_WORDS ? i * 8 : ((i - LAYOUT_WORDS) * 8) | IN_STATE;
		if (!read_random(hello, s->library, at) && bind_by_random(s, hello)) {
			layout->random_at = at;
			return;
		}
	}
}

/* A call returned that may have made a handshake: which socket has this session? `carrier`: what was known, or 0. */
static __always_inline void end_handshake(struct session *s, struct carrier *carrier)
{
	if (carrier && !carrier->random)
		return; /* the library did the I/O in this call */
	struct hello hello = {{}, s->process, 0};
	struct layout *layout = process_layout(s->process);
	if (!layout)
		return;
	if (layout->random_at && !read_random(&hello, s->library, layout->random_at)) {
		if (carrier && carrier->random == hello.random[0])
			return;
		if (bind_by_random(s, &hello)) {
			layout->looks = 0;
			return;
		}
	}
	carriers.delete(s); /* of an earlier session at this address */
	if (layout->looks)
		find_random(s, &hello, layout);
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
	struct tls_thread call = {ctx->di, ctx->si, cookie & EXTENDED ? ctx->cx : 0}, *t = tls_threads.lookup(&thread);
	if (t)
		*t = call;
	else
		tls_threads.update(&thread, &call);
	if (cookie & HANDSHAKE) {
		struct carrier *carrier = carriers.lookup(&session);
		if (carrier && !carrier->random)
			carriers.delete(&session); /* where the library does the I/O, this call tells anew */
	}
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
	struct tls_thread *t = tls_threads.lookup(&thread);
	if (!watched || !t || !t->library)
		return 0;
	struct session session = {t->library, process, 0};
	t->library = 0;
	s32 result = ctx->ax;
	if (result <= 0 && !(cookie & HANDSHAKE))
		return 0;
	struct carrier *carrier = carriers.lookup(&session);
	if ((cookie & HANDSHAKE) || !carrier || !carrier->socket) {
		end_handshake(&session, carrier); /* SSL_read and SSL_write make the handshake too, where it was not asked for */
		carrier = carriers.lookup(&session);
	}
	if (cookie & HANDSHAKE)
		return 0;
	if (!(cookie & EXTENDED))
		done = result;
	else if (read_user(&done, 8, (void *)t->length_at))
		return 0;
	struct work *w = thread_work(thread);
	if (!carrier)
		count_lost(TLS_WITHOUT_SOCKET, 1);
	if (!carrier || !carrier->socket || !w)
		return 0;
	w->socket = carrier->socket;
	w->file = carrier->file;
	w->key = carrier->socket | 1;
	w->now = bpf_ktime_get_ns();
	w->watch = *watched;
	w->outgoing = !(cookie & READS);
	w->total = w->left = done;
	w->at = t->data;
	w->vectors = 0;
	w->done = w->joins = 0;
	w->tls = w->looked_at = 1;
	tls_steps.call(ctx, 0);
	return 0;
}
