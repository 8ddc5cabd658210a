/* Which processes are watched. User space fills `targets` (see targets.py); forks, listeners and clients of watched ports
 * are followed here, so that no request of a new worker is missed. The collector itself is never watched: its own exports
 * would be seen, exported and seen again. */
enum { WATCH_ALL = 1, WATCH_PORTS = 2 };
BPF_HASH(targets, u32, u32, 16384);
BPF_HASH(ports, u16, u32, 1024);
struct execution {
	u32 process, unused;
};
BPF_RINGBUF_OUTPUT(executions, 8);
BPF_ARRAY(missed_executions, u64, 1);
BPF_ARRAY(listeners, u64, 1); /* how many processes began to listen on a watched port */

int raw_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u32 parent = 0, child = 0, thread = 0;
	READ(child, ctx->args[1], OFFSET_task_struct__tgid);
	READ(thread, ctx->args[1], OFFSET_task_struct__pid);
	if (child != thread)
		return 0;
	READ(parent, ctx->args[0], OFFSET_task_struct__tgid);
	u32 *watched = targets.lookup(&parent);
	if (!watched || *watched != WATCH_ALL || child == own_process())
		return 0;
	u32 all = WATCH_ALL;
	if (targets.update(&child, &all) < 0)
		count_lost(0, 1);
	return 0;
}

int raw_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	struct execution e = {bpf_get_current_pid_tgid() >> 32, 0};
	if (executions.ringbuf_output(&e, sizeof(e), NO_WAKEUP) >= 0)
		return 0;
	u64 *missed = missed_executions.lookup(&zero);
	if (missed)
		__sync_fetch_and_add(missed, 1);
	return 0;
}

int raw_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 process = id >> 32;
	if (process == (u32)id)
		targets.delete(&process);
	return 0;
}

/* Called when a socket of the running process begins to listen (local port) or to connect (remote port). */
static __always_inline void watch_port(u16 port, u32 how)
{
	u32 process = bpf_get_current_pid_tgid() >> 32;
	if (process == own_process() || !ports.lookup(&port))
		return;
	u32 *watched = targets.lookup(&process);
	if (watched && *watched <= how)
		return;
	if (targets.update(&process, &how) < 0)
		count_lost(0, 1);
	u32 zero = 0;
	u64 *began = listeners.lookup(&zero);
	if (began && how == WATCH_ALL)
		__sync_fetch_and_add(began, 1);
}
