/* Workloads that are bound by the kernel, and CPUID, which is bound by the machine below it. */
#define _GNU_SOURCE
#include "work.h"
#include <cpuid.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

u64 syscall_unit(void)
{
	u64 same = 0;

	for (int k = 0; k < 2000; k++)
		same += syscall(SYS_getppid) != -1;
	return same;
}

static int there[2], back[2];
static pid_t peer;

static void echo(void)
{
	char c;

	close(there[1]);
	while (read(there[0], &c, 1) == 1) {
		c++;
		if (write(back[1], &c, 1) != 1)
			break;
	}
	_exit(0);
}

void pipe_setup(void)
{
	if (pipe(there) || pipe(back))
		broken("pipe");
	peer = fork();
	if (peer < 0)
		broken("fork");
	if (!peer)
		echo();
	close(there[0]);
	close(back[1]);
}

void pipe_done(void)
{
	close(there[1]);
	close(back[0]);
	waitpid(peer, NULL, 0);
}

u64 pipe_unit(void)
{
	u64 h = 0;
	char c = 1;

	for (int k = 0; k < 50; k++) {
		if (write(there[1], &c, 1) != 1 || read(back[0], &c, 1) != 1)
			broken("the pipe's other end");
		h = mix(h, c);
	}
	return h;
}

u64 fork_unit(void)
{
	u64 h = 0;

	for (int k = 0; k < 4; k++) {
		int status;
		pid_t pid = fork();

		if (pid < 0)
			broken("fork");
		if (!pid)
			_exit(k + 3);
		if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
			broken("wait");
		h = mix(h, WEXITSTATUS(status));
	}
	return h;
}

#define FAULT_PAGES 256
u64 fault_unit(void)
{
	volatile u8 *at = pages(FAULT_PAGES * 4096, PROT_READ | PROT_WRITE);
	u64 zeros = 0;

	for (int k = 0; k < FAULT_PAGES; k++) {
		zeros += !at[k * 4096 + 8];
		at[k * 4096] = 1;
	}
	munmap((void *)at, FAULT_PAGES * 4096);
	return zeros;
}

/* Leaf 0's answer differs between machines, so it is not in the checksum. */
u64 cpuid_unit(void)
{
	u32 a, b, c, d, n = 0;

	for (int k = 0; k < 20; k++) {
		__cpuid(0, a, b, c, d);
		n += a != 0;
		__asm__ volatile("" : : "r"(b), "r"(c), "r"(d));
	}
	return n;
}
