/* Processes that begin to listen on a watched port, for programs that look at processes and not at sockets. */
int raw_listen(struct bpf_raw_tracepoint_args *ctx)
{
	u16 protocol = 0, port = 0;
	if ((u32)ctx->args[2] != 10) /* TCP_LISTEN */
		return 0;
	READ(protocol, ctx->args[0], OFFSET_sock__sk_protocol);
	READ(port, ctx->args[0], OFFSET_sock_common__skc_num);
	if (protocol == 6)
		watch_port(port, WATCH_ALL);
	return 0;
}

static __always_inline int is_target(u32 process)
{
	u32 *watched = targets.lookup(&process);
	return watched && *watched == WATCH_ALL;
}
