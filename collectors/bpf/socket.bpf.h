/* From a file descriptor of the running task to its socket, and what a socket says of its connection. */
enum { FAMILY_UNIX = 1, FAMILY_INET = 2, FAMILY_INET6 = 10, PROTOCOL_TCP = 6, TYPE_STREAM = 1 };

/* Returns struct sock *, or 0. For a file that is no socket the value means nothing until socket_family agrees. */
static __always_inline u64 socket_of(u32 number, u64 *file)
{
	u64 task = bpf_get_current_task(), files = 0, table = 0, array = 0, entry = 0, inner = 0, socket = 0;
	u32 most = 0;
	if (READ(files, task, OFFSET_task_struct__files) || !files)
		return 0;
	if (READ(table, files, OFFSET_files_struct__fdt) || !table)
		return 0;
	if (READ(most, table, OFFSET_fdtable__max_fds) || number >= most)
		return 0;
	if (READ(array, table, OFFSET_fdtable__fd) || READ(entry, array, 8ULL * number) || !entry)
		return 0;
	*file = entry;
	if (READ(inner, entry, OFFSET_file__private_data) || !inner)
		return 0;
	if (READ(socket, inner, OFFSET_socket__sk))
		return 0;
	return socket;
}

static __always_inline u64 inode_of(u64 file)
{
	u64 inode = 0, number = 0;
	READ(inode, file, OFFSET_file__f_inode);
	READ(number, inode, OFFSET_inode__i_ino);
	return number;
}

/* Address family of a TCP or AF_UNIX stream socket; 0 for every other file. */
static __always_inline u16 socket_family(u64 file, u64 socket)
{
	u64 inode = 0;
	u16 mode = 0, family = 0, protocol = 0, type = 0;
	if (READ(inode, file, OFFSET_file__f_inode) || READ(mode, inode, OFFSET_inode__i_mode))
		return 0;
	if ((mode & 0170000) != 0140000)
		return 0;
	READ(family, socket, OFFSET_sock_common__skc_family);
	READ(protocol, socket, OFFSET_sock__sk_protocol);
	READ(type, socket, OFFSET_sock__sk_type);
	if (family == FAMILY_UNIX)
		return type == TYPE_STREAM ? family : 0;
	if (family != FAMILY_INET && family != FAMILY_INET6)
		return 0;
	return protocol == PROTOCOL_TCP ? family : 0;
}

struct ends {
	u8 local[16], remote[16];
	u32 network, sequence_sent, sequence_received;
	u16 family, local_port, remote_port, opener; /* opener: 1 it connected, 2 it accepted, 0 not known */
};

static __always_inline void read_ends(struct ends *e, u64 socket, u16 family)
{
	u64 network = 0;
	u16 port = 0;
	e->family = family;
	READ(network, socket, OFFSET_sock_common__skc_net);
	READ(e->network, network, OFFSET_net__ns__inum);
	if (family == FAMILY_UNIX)
		return;
	READ(e->local_port, socket, OFFSET_sock_common__skc_num);
	READ(port, socket, OFFSET_sock_common__skc_dport);
	e->remote_port = (port >> 8) | (port << 8);
	if (family == FAMILY_INET) {
		read_kernel(e->local, 4, (void *)(socket + OFFSET_sock_common__skc_rcv_saddr));
		read_kernel(e->remote, 4, (void *)(socket + OFFSET_sock_common__skc_daddr));
	} else {
		read_kernel(e->local, 16, (void *)(socket + OFFSET_sock_common__skc_v6_rcv_saddr));
		read_kernel(e->remote, 16, (void *)(socket + OFFSET_sock_common__skc_v6_daddr));
	}
}

/* Whether the connection lives: an interrupt may have closed it while its system call still ran. */
static __always_inline int is_open(u64 socket, u16 family)
{
	u8 state = 0;
	READ(state, socket, OFFSET_sock_common__skc_state);
	return family == FAMILY_UNIX || (state != 7 && state != 10); /* TCP_CLOSE, TCP_LISTEN */
}

struct progress {
	u64 written, read; /* bytes that the application wrote and read since the connection began */
};

/* Initial sequence numbers and 64-bit byte offsets of a connection of any age, from the counters in tcp_sock. bytes_acked
 * counts the SYN of the end that connected, so comparing it with what was sent tells which end this is. */
static __always_inline void read_progress(struct ends *e, struct progress *p, u64 socket)
{
	u64 acked = 0, received = 0, sent = 0, resent = 0;
	u32 unacked = 0, next = 0, write = 0, copied = 0, expected = 0;
	u64 flags = 0;
	READ(acked, socket, OFFSET_tcp_sock__bytes_acked);
	READ(received, socket, OFFSET_tcp_sock__bytes_received);
	READ(sent, socket, OFFSET_tcp_sock__bytes_sent);
	READ(resent, socket, OFFSET_tcp_sock__bytes_retrans);
	READ(unacked, socket, OFFSET_tcp_sock__snd_una);
	READ(next, socket, OFFSET_tcp_sock__snd_nxt);
	READ(write, socket, OFFSET_tcp_sock__write_seq);
	READ(copied, socket, OFFSET_tcp_sock__copied_seq);
	READ(expected, socket, OFFSET_tcp_sock__rcv_nxt);
	READ(flags, socket, OFFSET_sock_common__skc_flags);
	u32 by_acks = unacked - (u32)acked, by_sends = next - 1 - (u32)(sent - resent);
	if (!e->opener) /* where the caller does not know better: a sent FIN would spoil the comparison */
		e->opener = by_acks == by_sends ? 1 : by_acks - 1 == by_sends ? 2 : 0;
	u32 connected = e->opener == 1;
	e->sequence_sent = connected ? by_acks : by_acks - 1;
	e->sequence_received = expected - (u32)received - 1;
	p->written = acked - connected + (u32)(write - unacked);
	p->read = received - (u32)(expected - copied);
	if ((flags & (1ULL << ENUM_sock_flags__SOCK_DONE)) && copied == expected)
		p->read--; /* the other end's FIN counts as one byte, and was read as the end of the stream */
}
