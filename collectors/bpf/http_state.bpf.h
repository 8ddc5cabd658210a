/* What is kept of each connection that speaks HTTP, and the records that leave the Linux kernel. */
#define BLOCK 256 /* bytes of a head scanned at once: the verifier walks the loop for each of them */
#define DEPTH 8 /* requests of one connection that may wait for their responses */
#define FIRST 96
#define GAPS 24
#define SENDS_DATA (1ULL << 1 | 1ULL << 20 | 1ULL << 44 | 1ULL << 46) /* write, writev, sendto, sendmsg */

enum { LOST_TARGETS, LOST_PIECES, LOST_EXCHANGES, LOST_CONNECTIONS, LOST_DEPTH, LOST_FAULTS, LOST_STEPS, LOST_BLOCKS, SAW_TLS, TLS_WITHOUT_SOCKET, LEFT_OUT, LOST_STREAMS, SAW_PUSH, END_NOT_KNOWN };
enum { SERVER = 0, CLIENT = 1 };
enum { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, TRAILER, UNTIL_CLOSE, OPAQUE, FRAMES };
enum { COMPLETE = 1, NEXT_REQUEST, CLOSED, ABORTED, OPEN, RESET };
enum { OPEN_AT_START = 1, TRUNCATED = 2, IS_HEAD = 4, FAULTED = 8, IN_TLS = 16, HTTP2 = 32 };

struct direction {
	u64 remaining, length, stream; /* stream: 64-bit offset behind the last byte that was handled */
	u32 head_bytes;
	u16 status;
	u8 state, scan, seen, pieces, unused[6]; /* scan: the scanner's state within a head or a chunk's line */
};

struct pending {
	u64 id, start_ns, end_ns, offset, bytes;
	u32 thread, head_bytes, retransmits, flags;
};

struct response {
	u64 head_ns, first_ns, last_ns, longest_gap_ns, offset, bytes;
	u32 chunks;
	u16 first_length, gaps[GAPS];
	u8 first[FIRST], unused[2];
};

/* One direction of a connection that speaks HTTP/2: the frame that it is in. */
struct frames {
	u8 head[32]; /* 9 bytes, and the 4 of a RST_STREAM's code */
	u64 offset; /* of the frame's first byte in its direction */
	u32 left, stream, pieces; /* left: bytes of its payload; pieces: of header blocks, so far */
	u8 have, want, type, flags, kind; /* have: bytes of its head, of those that it wants; kind: what is done with it */
	u8 unread, fresh, ending, lost, unused[3]; /* unread: its head was not acted on; fresh: no payload yet; ending: the block's
						    * HEADERS end the stream; lost: where the next frame begins is not known */
};

struct http2 {
	u64 id;
	u32 highest, first, joined; /* stream ids: the highest met, and the first met where the connection was joined in the middle */
	u32 gaps; /* how often a part of it was not seen */
	struct frames ways[2];
};

struct connection {
	u64 inode, cgroup, process_start_ns;
	u32 process, role, requests, responses, retransmits, tls;
	struct ends ends;
	struct direction ways[2]; /* 0 requests, 1 responses */
	union {
		struct pending pending[DEPTH];
		struct http2 http2; /* where its ways are in FRAMES */
	};
	struct response response;
};

struct exchange {
	struct pending request;
	struct response response;
	u64 end_ns, cgroup, process_start_ns, inode;
	u32 process, ordinal, code; /* code: of the RST_STREAM that ended it */
	struct ends ends;
	u16 status, role, ended, gaps_before; /* gaps_before: its connection's gaps when it began */
};

struct piece {
	u64 id;
	u32 length, number;
	u8 data[BLOCK];
};

/* A part of a header block of HTTP/2, or the word that its connection ended (CLOSING: pieces holds its retransmits). */
struct block {
	u64 connection, id, now_ns; /* id: of the exchange, where one is kept */
	u32 stream, number;
	u16 length;
	u8 way, type, flags, begins, ends, joined; /* begins, ends: whether it is the frame's first part, or its last */
	u8 data[BLOCK];
};

struct stream_key {
	u64 connection;
	u32 stream, unused;
};

struct work {
	u64 key, socket, file, now, at, left, total, vector;
	u32 vectors, outgoing, watch, consumed, done, tls, way, joins, descriptor;
	u32 looked_at; /* whether the socket was found to be one that is followed */
	u64 scratch[3];
	u8 block[BLOCK];
	union {
		struct connection fresh;
		struct exchange exchange;
	};
};

/* The next state of the scanner for each state and byte, and what entering a state does (http_scanner.py). */
struct scanner {
	u8 next[256][256];
	u32 effects[256]; /* from the lowest byte: factor, weight of a digit, weight of a status's digit, seen */
};
BPF_ARRAY(scanners, struct scanner, 1);
BPF_ARRAY(at_least, u32, 1); /* 1: the least detail, one connection in four */
BPF_HASH(connections, u64, struct connection, CONNECTIONS);
BPF_PERCPU_ARRAY(works, struct work, 1);
BPF_ARRAY(masks, u64, 1); /* which bits of a thread's id are its key in works: none, but all of them in tls_works */
BPF_PERCPU_ARRAY(serials, u64, 1);
BPF_RINGBUF_OUTPUT(pieces, PIECE_PAGES);
BPF_RINGBUF_OUTPUT(exchanges, EXCHANGE_PAGES);
BPF_RINGBUF_OUTPUT(blocks, BLOCK_PAGES);
BPF_HASH(streams, struct stream_key, struct exchange, STREAMS); /* of HTTP/2, from the request's HEADERS to the response's end */
BPF_PROG_ARRAY(steps, 4);

static __always_inline u64 next_id(void)
{
	u32 zero = 0;
	u64 *serial = serials.lookup(&zero);
	if (!serial)
		return 0;
	return ((u64)(bpf_get_smp_processor_id() + 1) << 48) | ++*serial;
}

static __always_inline struct pending *pending_at(struct connection *c, u32 number)
{
	u64 place = number;
	MASK(place, DEPTH - 1);
	return &c->pending[place];
}

/* Whose exchange it is. */
static __always_inline void describe(struct exchange *x, struct connection *c)
{
	x->cgroup = c->cgroup;
	x->process_start_ns = c->process_start_ns;
	x->inode = c->inode;
	x->process = c->process;
	x->ends = c->ends;
	x->role = c->role;
}

/* The response at the front is over (or given up): one record, and the connection is ready for the next. */
static __always_inline void finish(struct connection *c, u64 now, u16 how)
{
	struct pending *p = pending_at(c, c->responses);
	struct response *r = &c->response;
	struct exchange *x = exchanges.ringbuf_reserve(sizeof(struct exchange));
	count_made(LOST_EXCHANGES);
	if (!x) {
		count_lost(LOST_EXCHANGES, 1);
	} else {
		x->request = *p;
		x->request.retransmits = c->retransmits - p->retransmits;
		x->response = *r;
		x->end_ns = now;
		describe(x, c);
		x->ordinal = c->responses;
		x->status = c->ways[1].status;
		x->ended = how;
		x->code = x->gaps_before = 0;
		exchanges.ringbuf_submit(x, NO_WAKEUP);
	}
	__builtin_memset(r, 0, sizeof(*r));
	c->ways[1].status = 0;
	c->ways[1].state = IDLE;
	c->responses++;
}
