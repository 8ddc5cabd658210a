/* System calls of watched processes: at each entry the time is kept, at each end the call is summed up by process and number,
 * and told of where single calls are asked for. A thread keeps its entry of `inside` for life: to write into it costs a third
 * of making and deleting one. */
enum { LOST_TARGETS, LOST_CALLS, LOST_THREADS, LOST_TOTALS };
#define EXIT_CALL 60
#define EXIT_GROUP_CALL 231

struct call {
	u64 start_ns, end_ns, process_start_ns;
	s64 result;
	u32 process, thread, number, descriptor;
};

struct total_key {
	u64 process_start_ns;
	u32 process, number;
};

struct total {
	u64 calls, inside_ns, longest_ns;
};

struct inside {
	u64 start_ns, process_start_ns; /* start_ns: 0 between calls */
	u32 process, unused;
};

BPF_HASH(inside, u32, struct inside, THREADS);
BPF_TABLE("percpu_hash", struct total_key, struct total, totals0, TOTALS);
BPF_TABLE("percpu_hash", struct total_key, struct total, totals1, TOTALS);
BPF_ARRAY(singles, u32, 1);
BPF_RINGBUF_OUTPUT(calls, CALL_PAGES);

int raw_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), now;
	u32 thread = id, process = id >> 32;
	if (!is_target(process) || ctx->args[1] == EXIT_CALL || ctx->args[1] == EXIT_GROUP_CALL)
		return 0;
	struct inside *known = inside.lookup(&thread);
	now = bpf_ktime_get_ns();
	if (known && known->process == process) {
		known->start_ns = now;
		return 0;
	}
	struct inside fresh = {now, process_start_ns(bpf_get_current_task()), process};
	if (inside.update(&thread, &fresh) < 0)
		count_lost(LOST_THREADS, 1);
	return 0;
}

static __always_inline void add_total(struct total_key *k, u64 spent)
{
	struct total zero = {}, *t;
	t = bank_now() ? totals1.lookup_or_try_init(k, &zero) : totals0.lookup_or_try_init(k, &zero);
	count_made(LOST_TOTALS);
	if (!t) {
		count_lost(LOST_TOTALS, 1);
		return;
	}
	t->calls++;
	t->inside_ns += spent;
	if (spent > t->longest_ns)
		t->longest_ns = spent;
}

int raw_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), number = 0, first = 0;
	u32 thread = id, process = id >> 32, zero = 0;
	if (!is_target(process))
		return 0;
	struct inside *known = inside.lookup(&thread);
	if (!known || !known->start_ns) /* it began before its process was watched, or is a new thread's first return */
		return 0;
	u64 start = known->start_ns, now = bpf_ktime_get_ns();
	known->start_ns = 0;
	READ(number, ctx->args[0], OFFSET_pt_regs__orig_ax);
	struct total_key k = {known->process_start_ns, process, number};
	add_total(&k, now - start);
	u32 *wanted = singles.lookup(&zero);
	if (!wanted || !*wanted)
		return 0;
	count_made(LOST_CALLS);
	struct call *e = calls.ringbuf_reserve(sizeof(struct call));
	if (!e) {
		count_lost(LOST_CALLS, 1);
		return 0;
	}
	READ(first, ctx->args[0], OFFSET_pt_regs__di);
	e->start_ns = start;
	e->end_ns = now;
	e->process_start_ns = k.process_start_ns;
	e->result = ctx->args[1];
	e->process = process;
	e->thread = thread;
	e->number = number;
	e->descriptor = first;
	calls.ringbuf_submit(e, NO_WAKEUP);
	return 0;
}

/* Its number may be another thread's soon. */
int raw_thread_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	inside.delete(&thread);
	return 0;
}
