/* BCC includes this first; its helper header asks for the one switch below. */
#pragma once
#define __KERNEL__ 1
#define CONFIG_BPF_SYSCALL 1
