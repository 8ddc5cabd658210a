/* What is kept of each connection that speaks HTTP/1, and the two records that leave the Linux kernel. */
#define BLOCK 256 /* bytes of a head scanned at once: the verifier walks the loop for each of them */
#define DEPTH 8 /* requests of one connection that may wait for their responses */
#define FIRST 96
#define GAPS 24
#define SENDS_DATA (1ULL << 1 | 1ULL << 20 | 1ULL << 44 | 1ULL << 46) /* write, writev, sendto, sendmsg */

enum { LOST_TARGETS, LOST_PIECES, LOST_EXCHANGES, LOST_CONNECTIONS, LOST_DEPTH, LOST_FAULTS, LOST_STEPS, SAW_HTTP2, SAW_TLS, TLS_WITHOUT_SOCKET, LEFT_OUT };
enum { SERVER = 0, CLIENT = 1 };
enum { IDLE, HEAD, LENGTH, CHUNK_SIZE, CHUNK_DATA, TRAILER, UNTIL_CLOSE, OPAQUE };
enum { COMPLETE = 1, NEXT_REQUEST, CLOSED, ABORTED, OPEN };
enum { OPEN_AT_START = 1, TRUNCATED = 2, IS_HEAD = 4, FAULTED = 8, IN_TLS = 16 };

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
	u8 first[FIRST];
};

struct connection {
	u64 inode, cgroup, process_start_ns;
	u32 process, role, requests, responses, retransmits, tls;
	struct ends ends;
	struct direction ways[2]; /* 0 requests, 1 responses */
	struct pending pending[DEPTH];
	struct response response;
};

struct exchange {
	u64 id, start_ns, request_end_ns, head_ns, first_ns, last_ns, end_ns, longest_gap_ns;
	u64 request_offset, response_offset, request_bytes, response_bytes, cgroup, process_start_ns, inode;
	u32 process, thread, ordinal, chunks, retransmits, head_bytes, flags;
	struct ends ends;
	u16 status, first_length, role, ended;
	u16 gaps[GAPS];
	u8 first[FIRST];
};

struct piece {
	u64 id;
	u32 length, number;
	u8 data[BLOCK];
};

struct work {
	u64 key, socket, file, now, at, left, total, vector;
	u32 vectors, outgoing, watch, consumed, done, tls, tls_read, unused;
	u64 scratch[3];
	u8 block[BLOCK];
	struct connection fresh;
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
BPF_PROG_ARRAY(steps, 2);

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
		x->id = p->id;
		x->start_ns = p->start_ns;
		x->request_end_ns = p->end_ns;
		x->head_ns = r->head_ns;
		x->first_ns = r->first_ns;
		x->last_ns = r->last_ns;
		x->end_ns = now;
		x->longest_gap_ns = r->longest_gap_ns;
		x->request_offset = p->offset;
		x->response_offset = r->offset;
		x->request_bytes = p->bytes;
		x->response_bytes = r->bytes;
		x->cgroup = c->cgroup;
		x->process_start_ns = c->process_start_ns;
		x->inode = c->inode;
		x->process = c->process;
		x->thread = p->thread;
		x->ordinal = c->responses;
		x->chunks = r->chunks;
		x->retransmits = c->retransmits - p->retransmits;
		x->head_bytes = p->head_bytes;
		x->flags = p->flags;
		x->ends = c->ends;
		x->status = c->ways[1].status;
		x->first_length = r->first_length;
		x->role = c->role;
		x->ended = how;
		__builtin_memcpy(x->gaps, r->gaps, sizeof(x->gaps));
		__builtin_memcpy(x->first, r->first, sizeof(x->first));
		exchanges.ringbuf_submit(x, NO_WAKEUP);
	}
	__builtin_memset(r, 0, sizeof(*r));
	c->ways[1].status = 0;
	c->ways[1].state = IDLE;
	c->responses++;
}
