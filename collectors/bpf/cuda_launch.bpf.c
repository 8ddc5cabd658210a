/* Calls of CUDA's driver and runtime, at their entry and their return. A call made inside another probed call (a runtime's
 * launch calls the driver's) is part of that one: the stack pointer tells, for what is called has a lower one. The cookie
 * says which function was hit and where its arguments are (cuda_launch.py). */
enum { LOST_TARGETS, LOST_CALLS, LOST_OPEN, LOST_NAMES };
enum { NOWHERE, IN_DI, IN_SI, IN_DX, IN_CX, IN_R8, ON_STACK, BEHIND_DI };
#define FUNCTION(cookie) ((cookie)&0xff)
#define STREAM_PLACE(cookie) (((cookie) >> 8) & 0xff)
#define STREAM_OFFSET(cookie) (((cookie) >> 16) & 0xff)
#define KERNEL_PLACE(cookie) (((cookie) >> 24) & 0xff)
#define ENTRY_ONLY(cookie) (((cookie) >> 32) & 1)
#define NAME_BYTES 128

struct opened {
	u64 stack, start_ns, stream, kernel, function;
};

struct made {
	u64 start_ns, end_ns, process_start_ns, stream, kernel;
	u32 process, thread, function, result;
};

struct naming {
	u64 stack, into, name;
};

struct named {
	u64 kernel;
	u32 process, length;
	char name[NAME_BYTES];
};

BPF_HASH(open_calls, u64, struct opened, OPEN_CALLS);
BPF_HASH(open_namings, u64, struct naming, 1024);
BPF_RINGBUF_OUTPUT(calls, CALL_PAGES);
BPF_RINGBUF_OUTPUT(names, NAME_PAGES);

/* Of a copy of the registers: clang would choose between places in the context itself, which the verifier refuses. */
static __always_inline u64 argument(struct pt_regs *ctx, u32 place, u64 offset)
{
	u64 value = 0;
	if (place == IN_DI)
		return ctx->di;
	if (place == IN_SI)
		return ctx->si;
	if (place == IN_DX)
		return ctx->dx;
	if (place == IN_CX)
		return ctx->cx;
	if (place == IN_R8)
		return ctx->r8;
	if (place == ON_STACK)
		read_user(&value, sizeof(value), (void *)(ctx->sp + offset));
	else if (place == BEHIND_DI)
		read_user(&value, sizeof(value), (void *)(ctx->di + offset));
	return value;
}

static __always_inline void emit(struct opened *o, u64 id, u64 end_ns, u32 result)
{
	count_made(LOST_CALLS);
	struct made *e = calls.ringbuf_reserve(sizeof(struct made));
	if (!e) {
		count_lost(LOST_CALLS, 1);
		return;
	}
	e->start_ns = o->start_ns;
	e->end_ns = end_ns;
	e->process_start_ns = process_start_ns(bpf_get_current_task());
	e->stream = o->stream;
	e->kernel = o->kernel;
	e->process = id >> 32;
	e->thread = id;
	e->function = o->function;
	e->result = result;
	calls.ringbuf_submit(e, NO_WAKEUP);
}

int uprobe_call(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), cookie = bpf_get_attach_cookie(ctx);
	struct opened *outer = open_calls.lookup(&id), o = {};
	struct pt_regs registers;
	if (outer && ctx->sp < outer->stack)
		return 0;
	if (read_kernel(&registers, sizeof(registers), ctx))
		return 0;
	o.stack = ctx->sp;
	o.stream = argument(&registers, STREAM_PLACE(cookie), STREAM_OFFSET(cookie));
	o.kernel = argument(&registers, KERNEL_PLACE(cookie), 0);
	o.function = FUNCTION(cookie);
	o.start_ns = bpf_ktime_get_ns();
	if (ENTRY_ONLY(cookie))
		emit(&o, id, 0, 0);
	else if (open_calls.update(&id, &o) < 0)
		count_lost(LOST_OPEN, 1);
	return 0;
}

int uprobe_return(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), now = bpf_ktime_get_ns();
	struct opened *o = open_calls.lookup(&id);
	if (!o || ctx->sp != o->stack + 8) /* of a call inside, or of one that began before the probe */
		return 0;
	emit(o, id, now, ctx->ax);
	open_calls.delete(&id);
	return 0;
}

/* cuModuleGetFunction and cuLibraryGetKernel: (where the handle goes, module, name). */
int uprobe_naming(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct naming n = {ctx->sp, ctx->di, ctx->dx};
	if (open_namings.update(&id, &n) < 0)
		count_lost(LOST_NAMES, 1);
	return 0;
}

int uprobe_named(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct naming *n = open_namings.lookup(&id);
	if (!n || ctx->sp != n->stack + 8)
		return 0;
	u64 into = n->into, name = n->name;
	open_namings.delete(&id);
	if ((u32)ctx->ax)
		return 0;
	count_made(LOST_NAMES);
	struct named *e = names.ringbuf_reserve(sizeof(struct named));
	if (!e) {
		count_lost(LOST_NAMES, 1);
		return 0;
	}
	e->kernel = 0;
	read_user(&e->kernel, sizeof(e->kernel), (void *)into);
	e->process = id >> 32;
	long length = read_user_text(e->name, sizeof(e->name), (void *)name);
	e->length = length > 0 ? length - 1 : 0;
	names.ringbuf_submit(e, NO_WAKEUP);
	return 0;
}
