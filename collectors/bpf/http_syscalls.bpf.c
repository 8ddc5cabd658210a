/* Data on sockets as system calls' ends tell of it, for kernels without the tracepoints of http_sockets.bpf.c: every system call
 * of the node pays for it. x86-64's pt_regs still holds the call's number and arguments there, so that no second probe at its
 * start is needed. */
struct registers {
	u64 r10, r9, r8, ax, cx, dx, si, di, number; /* pt_regs from r10 to orig_ax */
};

int raw_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	s64 moved = ctx->args[1];
	if (moved <= 0)
		return 0;
	u64 file = 0;
	u32 process = bpf_get_current_pid_tgid() >> 32, *watched = targets.lookup(&process);
	struct registers r;
	if (!watched || read_kernel(&r, sizeof(r), (void *)(ctx->args[0] + OFFSET_pt_regs__r10)))
		return 0;
	if (r.number > 47 || !((1ULL << r.number) & (TAKES_DATA | SENDS_DATA)))
		return 0;
	if ((r.number == 45 && (r.r10 & NO_DATA_FLAGS)) || (r.number == 47 && (r.dx & NO_DATA_FLAGS)))
		return 0;
	struct call call = {r.number, r.di, r.si, r.dx};
	u64 socket = socket_of(call.descriptor, &file);
	if (socket && begin_steps(&call, socket, file, moved, *watched))
		steps.call(ctx, 0);
	return 0;
}
