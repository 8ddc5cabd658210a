/* Bytes that engine processes send and receive on ZMQ sockets, taken where a system call ends: what was moved is known
 * then, and x86-64's pt_regs still holds the arguments. A socket's bytes leave the kernel only once they have begun like
 * ZMTP or like a frame of the engine's; every other socket is left alone after a few looks. */
enum { LOST_TARGETS, LOST_CHUNKS, LOST_UNREADABLE, LOST_LARGE, LOST_STREAMS };
enum { UNKNOWN, CAPTURED, IGNORED };
enum { READ_CALL = 0, WRITE_CALL = 1, SENDTO_CALL = 44, RECVFROM_CALL = 45 };
#define PEEK_FLAGS 0x2002 /* MSG_PEEK, MSG_ERRQUEUE: none of the stream's bytes, or not yet */
#define CHUNK 4096
#define MOST_CHUNKS 64
#define MOST_LOOKS 64

struct key {
	u64 inode;
	u32 process, outgoing;
};

struct stream {
	u64 position; /* bytes moved since capture began */
	u32 state, looks;
};

struct chunk {
	struct key key;
	u64 position, now_ns, process_start_ns;
	u32 length, starts_call;
	u8 data[CHUNK];
};

struct call {
	u64 r10, r9, r8, ax, cx, dx, si, di, number; /* pt_regs from r10 to orig_ax */
};

BPF_TABLE("lru_hash", struct key, struct stream, streams, STREAMS);
BPF_RINGBUF_OUTPUT(chunks, CHUNK_PAGES);

/* A greeting (ZMTP 3: ff, eight bytes, 7f); or, on a socket older than the probe, a frame that begins a message: to the
 * engine its type in one byte, with more to come; from the engine an array, of up to 15 elements. */
static __always_inline int begins_wire(u8 *b, u32 outgoing)
{
	if (b[0] == 0xff && b[9] == 0x7f)
		return 1;
	if (!outgoing)
		return b[0] == 1 && b[1] == 1 && b[2] < 8;
	if ((b[0] & ~1) == 2 && !b[1] && !b[2] && !b[3] && !b[4])
		return (b[9] & 0xf0) == 0x90;
	return b[0] < 2 && (b[2] & 0xf0) == 0x90;
}

static __always_inline struct stream *stream_of(struct key *k, u64 from)
{
	u8 head[10] = {};
	struct stream *s = streams.lookup(k), fresh = {};
	if (!s) {
		if (streams.update(k, &fresh) < 0) {
			count_lost(LOST_STREAMS, 1);
			return 0;
		}
		s = streams.lookup(k);
	}
	if (!s || s->state != UNKNOWN)
		return s;
	if (!read_user(head, sizeof(head), (void *)from) && begins_wire(head, k->outgoing))
		s->state = CAPTURED;
	else if (++s->looks >= MOST_LOOKS)
		s->state = IGNORED;
	return s;
}

static __always_inline void emit(struct key *k, struct stream *s, u64 from, u64 moved)
{
	u64 task = bpf_get_current_task(), now = bpf_ktime_get_ns(), start = process_start_ns(task), at = 0;
	for (u32 i = 0; i < MOST_CHUNKS && at < moved; i++) {
		u64 n = moved - at;
		if (n > CHUNK)
			n = CHUNK;
		count_made(LOST_CHUNKS);
		struct chunk *e = chunks.ringbuf_reserve(sizeof(struct chunk));
		if (!e) {
			count_lost(LOST_CHUNKS, 1);
		} else {
			e->key = *k;
			e->position = s->position + at;
			e->now_ns = now;
			e->process_start_ns = start;
			e->length = n;
			e->starts_call = at == 0;
			CLAMP(n, CHUNK);
			if (read_user(e->data, n, (void *)(from + at))) {
				count_lost(LOST_UNREADABLE, 1);
				chunks.ringbuf_discard(e, NO_WAKEUP);
			} else {
				chunks.ringbuf_submit(e, NO_WAKEUP);
			}
		}
		at += CHUNK;
	}
	if (at < moved)
		count_lost(LOST_LARGE, (moved - at + CHUNK - 1) / CHUNK);
	s->position += moved;
}

int raw_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	s64 moved = ctx->args[1];
	if (moved <= 0)
		return 0;
	u64 file = 0;
	u32 process = bpf_get_current_pid_tgid() >> 32;
	struct call call;
	if (!targets.lookup(&process) ||
	    read_kernel(&call, sizeof(call), (void *)(ctx->args[0] + OFFSET_pt_regs__r10)))
		return 0;
	u64 number = call.number;
	if (number > WRITE_CALL && number != SENDTO_CALL && number != RECVFROM_CALL)
		return 0;
	if (number == RECVFROM_CALL && (call.r10 & PEEK_FLAGS))
		return 0;
	u64 socket = socket_of(call.di, &file);
	if (!socket || !socket_family(file, socket))
		return 0;
	struct key k = {inode_of(file), process, number == WRITE_CALL || number == SENDTO_CALL};
	struct stream *s = stream_of(&k, call.si);
	if (s && s->state == CAPTURED)
		emit(&k, s, call.si, moved);
	return 0;
}
