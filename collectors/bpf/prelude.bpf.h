/* First text of every program: names of kernel fields, counters, watched processes, the way from a file descriptor to a
 * socket. Layouts come as OFFSET_ macros from the running kernel's BTF. BCC rewrites map methods in the main text only,
 * so the loader puts the texts one after the other and includes nothing but this. */
#include <uapi/linux/ptrace.h>
#include <linux/types.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
/* Helpers under names of our own: BCC looks its own up in the kernel's list of symbols at each use, half of a compiler's time. */
static long (*read_kernel)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_kernel;
static long (*read_user)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_user;
static long (*read_user_text)(void *to, u32 bytes, const void *from) = (void *)BPF_FUNC_probe_read_user_str;
#define NO_WAKEUP 1 /* BPF_RB_NO_WAKEUP: the reader polls, so that producers never pay for waking it */
#define READ(into, base, field) read_kernel(&(into), sizeof(into), (void *)((u64)(base) + (field)))
/* Bounds that the verifier can follow: no spill between the test and the use. */
#define CLAMP(number, most) asm volatile("if %0 <= %1 goto +1; %0 = %1" : "+r"(number) : "i"(most))
#define MASK(number, bits) asm volatile("%0 &= %1" : "+r"(number) : "i"(bits))

/* -- counters: element i counts what the reader's list of reasons says at i ---------------------------------------- */
struct counter {
	u64 made, lost, lost_ns;
};
BPF_PERCPU_ARRAY(counters, struct counter, 32);

static __always_inline void count_made(u32 kind)
{
	struct counter *found = counters.lookup(&kind);
	if (found)
		__sync_fetch_and_add(&found->made, 1); /* an interrupt's program may count on the same CPU */
}

static __always_inline void count_lost(u32 kind, u64 how_many)
{
	struct counter *found = counters.lookup(&kind);
	if (!found)
		return;
	__sync_fetch_and_add(&found->lost, how_many);
	found->lost_ns = bpf_ktime_get_ns();
}

/* -- the collector's own process: told at start, for a compiled program outlives it --------------------------------- */
BPF_ARRAY(own_process_id, u32, 1);

static __always_inline u32 own_process(void)
{
	u32 zero = 0, *found = own_process_id.lookup(&zero);
	return found ? *found : 0;
}

/* -- identity of the running process -------------------------------------------------------------------------------- */
static __always_inline u64 process_start_ns(u64 task)
{
	u64 leader = 0, start = 0;
	READ(leader, task, OFFSET_task_struct__group_leader);
	READ(start, leader, OFFSET_task_struct__start_boottime);
	return start;
}

/* Inode of the cgroup's directory: of the unified hierarchy, or of version 1's memory controller, where pods live there. */
static __always_inline u64 process_cgroup(u64 task)
{
#ifdef CGROUP_V1
	u64 set = 0, state = 0, group = 0, node = 0, id = 0;
	READ(set, task, OFFSET_task_struct__cgroups);
	READ(state, set, OFFSET_css_set__subsys + 8 * ENUM_cgroup_subsys_id__memory_cgrp_id);
	READ(group, state, OFFSET_cgroup_subsys_state__cgroup);
	READ(node, group, OFFSET_cgroup__kn);
	READ(id, node, OFFSET_kernfs_node__id);
	return id;
#else
	return bpf_get_current_cgroup_id();
#endif
}
