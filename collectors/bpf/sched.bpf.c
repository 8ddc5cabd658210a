/* Times in which threads of watched processes did not run, and why. At each switch: the thread that leaves is noted with the
 * reason; the one that comes back is summed up, and told of where it was away longer than the threshold. */
enum { LOST_TARGETS, LOST_INTERVALS, LOST_THREADS, LOST_TOTALS, LOST_SWITCHES };
enum { RUNQUEUE, FUTEX, POLL, NETWORK, DISK, PAGE_FAULT, SLEEP, OTHER };
#define TASK_DEAD 0x80
enum { MODE_KIND = 0170000, MODE_SOCKET = 0140000, MODE_FILE = 0100000 };

/* A thread keeps its entry for life, and is away where since_ns is set. */
struct away {
	u64 since_ns, runnable_ns, process_start_ns;
	u32 process, reason, waker, unused;
};

struct interval {
	u64 start_ns, end_ns, runnable_ns, process_start_ns;
	u32 process, thread, reason, waker;
};

struct total_key {
	u64 process_start_ns;
	u32 process, reason;
};

struct total {
	u64 intervals, away_ns, runqueue_ns, longest_ns;
};

BPF_HASH(threads, u32, struct away, THREADS);
BPF_TABLE("percpu_hash", struct total_key, struct total, totals0, TOTALS);
BPF_TABLE("percpu_hash", struct total_key, struct total, totals1, TOTALS);
BPF_ARRAY(threshold, u64, 1);
BPF_RINGBUF_OUTPUT(intervals, INTERVAL_PAGES);

/* read and write wait for a peer on a socket, for a disk on a regular file, else for a pipe or a terminal. */
static __always_inline u32 of_file(u32 number)
{
	u64 file = 0, inode = 0;
	u16 mode = 0;
	socket_of(number, &file);
	if (!file || READ(inode, file, OFFSET_file__f_inode) || READ(mode, inode, OFFSET_inode__i_mode))
		return OTHER;
	if ((mode & MODE_KIND) == MODE_SOCKET)
		return NETWORK;
	return (mode & MODE_KIND) == MODE_FILE ? DISK : OTHER;
}

static __always_inline u32 of_call(s64 number, u32 first)
{
	switch (number) {
	case 202: case 449: case 455: case 456: /* futex, futex_waitv, futex_wait, futex_requeue */
		return FUTEX;
	case 7: case 23: case 232: case 270: case 271: case 281: case 441: /* poll, select, epoll_wait and their forms */
		return POLL;
	case 42: case 43: case 44: case 45: case 46: case 47: case 288: case 299: case 307: /* connect, accept, send, receive */
		return NETWORK;
	case 0: case 1: case 19: case 20: /* read, write, readv, writev */
		return of_file(first);
	case 17: case 18: case 26: case 74: case 75: case 162: case 277: case 295: case 296: case 306: /* pread, fsync, … */
		return DISK;
	case 34: case 35: case 128: case 230: /* pause, nanosleep, rt_sigtimedwait, clock_nanosleep */
		return SLEEP;
	}
	return OTHER;
}

/* Why the running thread, which leaves the CPU in a state that is not runnable, waits. Outside of a system call orig_ax is
 * -1: then it is a page fault that waits. */
static __always_inline u32 reason_of(u64 task)
{
	s64 number = -1;
	u64 first = 0;
	u8 flags = 0;
	u64 registers = (u64)bpf_task_pt_regs(bpf_get_current_task_btf());
	READ(number, registers, OFFSET_pt_regs__orig_ax);
	if (number < 0)
		return PAGE_FAULT;
	READ(flags, task, OFFSET_task_struct__in_iowait);
	if (flags & (1 << BIT_task_struct__in_iowait))
		return DISK;
	READ(first, registers, OFFSET_pt_regs__di);
	return of_call(number, first);
}

static __always_inline void leaves(u64 task, u32 runnable, u64 now)
{
	u32 thread = 0, process = 0;
	READ(process, task, OFFSET_task_struct__tgid);
	if (!is_target(process))
		return;
	READ(thread, task, OFFSET_task_struct__pid);
	struct away *a = threads.lookup(&thread), fresh = {};
	if (!a || a->process != process) {
		fresh.process = process;
		fresh.process_start_ns = process_start_ns(task);
		if (threads.update(&thread, &fresh) < 0) {
			count_lost(LOST_THREADS, 1);
			return;
		}
		a = threads.lookup(&thread);
		if (!a)
			return;
	} else if (a->since_ns) { /* it came back, and no program ran then */
		count_lost(LOST_SWITCHES, 1);
	}
	a->runnable_ns = runnable ? now : 0;
	a->reason = runnable ? RUNQUEUE : reason_of(task);
	a->waker = 0;
	asm volatile("" ::: "memory"); /* whoever wakes it meanwhile looks at since_ns first */
	a->since_ns = now;
}

static __always_inline void add_total(struct away *a, u64 away_ns, u64 runqueue_ns)
{
	struct total_key k = {a->process_start_ns, a->process, a->reason};
	struct total zero = {}, *t;
	t = bank_now() ? totals1.lookup_or_try_init(&k, &zero) : totals0.lookup_or_try_init(&k, &zero);
	count_made(LOST_TOTALS);
	if (!t) {
		count_lost(LOST_TOTALS, 1);
		return;
	}
	t->intervals++;
	t->away_ns += away_ns;
	t->runqueue_ns += runqueue_ns;
	if (away_ns > t->longest_ns)
		t->longest_ns = away_ns;
}

static __always_inline void comes(u32 thread, u64 now)
{
	u32 zero = 0;
	struct away *a = threads.lookup(&thread);
	u64 *least = threshold.lookup(&zero);
	if (!a || !least)
		return;
	if (!a->since_ns) { /* it left, and no program ran then; or its process is exiting, and no longer watched */
		if (is_target(a->process))
			count_lost(LOST_SWITCHES, 1);
		return;
	}
	u64 runnable = a->runnable_ns ? a->runnable_ns : now;
	add_total(a, now - a->since_ns, now - runnable);
	if (now - a->since_ns >= *least) {
		count_made(LOST_INTERVALS);
		struct interval *e = intervals.ringbuf_reserve(sizeof(struct interval));
		if (e) {
			e->start_ns = a->since_ns;
			e->end_ns = now;
			e->runnable_ns = runnable;
			e->process_start_ns = a->process_start_ns;
			e->process = a->process;
			e->thread = thread;
			e->reason = a->reason;
			e->waker = a->waker;
			intervals.ringbuf_submit(e, NO_WAKEUP);
		} else {
			count_lost(LOST_INTERVALS, 1);
		}
	}
	a->since_ns = 0;
}

/* (preempted, the thread that leaves, the thread that comes, state of the one that leaves; the last since Linux 5.18) */
int raw_switch(struct bpf_raw_tracepoint_args *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u32 next = 0;
	if (!(ctx->args[3] & TASK_DEAD)) {
		leaves(ctx->args[1], ctx->args[0] || !(u32)ctx->args[3], now);
	} else { /* its number may be another thread's soon */
		READ(next, ctx->args[1], OFFSET_task_struct__pid);
		threads.delete(&next);
	}
	READ(next, ctx->args[2], OFFSET_task_struct__pid);
	if (next)
		comes(next, now);
	return 0;
}

/* Runs where the thread is woken: by another thread, or by an interrupt on top of any. */
int raw_waking(struct bpf_raw_tracepoint_args *ctx)
{
	u32 thread = 0;
	READ(thread, ctx->args[0], OFFSET_task_struct__pid);
	struct away *a = threads.lookup(&thread);
	if (!a || !a->since_ns || a->runnable_ns)
		return 0;
	a->waker = bpf_get_current_pid_tgid() >> 32;
	a->runnable_ns = bpf_ktime_get_ns();
	return 0;
}
