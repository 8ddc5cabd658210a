/* Data on sockets as the sockets tell of it: tracepoints of Linux 6.3, after a message was given to a socket or taken from it, in
 * the system call that did so. No other system call pays for them. The call's arguments are those of its pt_regs. */
#define NOT_RETURNED ((u64)-38) /* -ENOSYS: what pt_regs holds as the result while the system call runs (entry_64.S) */

/* Returns whether the process is watched, and its call one whose data can be read; not so for io_uring's work, which may be
 * done at the end of another call, or in a thread that makes none. */
static __always_inline u32 read_call(struct call *call, u64 numbers)
{
	u32 process = bpf_get_current_pid_tgid() >> 32, *watched = targets.lookup(&process);
	if (!watched)
		return 0;
	u64 registers = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
	call->number = *(u64 *)(registers + OFFSET_pt_regs__orig_ax);
	if (call->number > 47 || !((1ULL << call->number) & numbers))
		return 0;
	if (*(u64 *)(registers + OFFSET_pt_regs__ax) != NOT_RETURNED)
		return 0;
	call->descriptor = *(u64 *)(registers + OFFSET_pt_regs__di);
	call->data = *(u64 *)(registers + OFFSET_pt_regs__si);
	call->count = *(u64 *)(registers + OFFSET_pt_regs__dx);
	return *watched;
}

int raw_sent(struct bpf_raw_tracepoint_args *ctx)
{
	struct call call;
	s32 moved = ctx->args[1];
	u32 watch = moved > 0 ? read_call(&call, SENDS_DATA) : 0;
	if (watch && begin_steps(&call, ctx->args[0], 0, moved, watch))
		steps.call(ctx, 0);
	return 0;
}

int raw_received(struct bpf_raw_tracepoint_args *ctx)
{
	struct call call;
	s32 moved = ctx->args[1];
	u32 watch = moved > 0 && !(ctx->args[2] & NO_DATA_FLAGS) ? read_call(&call, TAKES_DATA) : 0;
	if (watch && begin_steps(&call, ctx->args[0], 0, moved, watch))
		steps.call(ctx, 0);
	return 0;
}
