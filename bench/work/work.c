/* Runs the workloads and marks their beginnings and ends on the console, where the machine below reads its own clock.
 *
 * usage: work [--port HEX] [--tag N] [--target MS] [--repeat N] [--cap NAME=UNITS,...] [--only NAME,...] [--count N]
 *             [--pin] [--beside N] [--list]
 *   --port HEX    write the marks to this UART's data port: no kernel and no buffer between the mark and the machine below
 *   --tag N       number in the marks (the level)
 *   --target MS   raise the number of units until one measurement takes this long by the clock in here; the count that is found is
 *                 measured N times (--repeat). This clock only chooses the count: it is not part of any result
 *   --cap ...     but no more units than these: the clock in here may stand still while the machine works
 *   --count N     measure exactly N units
 *   --pin         stay on one CPU, as a machine with one does: waking a process on another CPU costs much more
 *   --beside N    measure N times in turn alone (TAG) and beside another process that does the same on another CPU (TAG + 1): neighbours in
 *                 time, because what else a machine does changes within seconds
 * Marks: "@S TAG NAME UNITS", a pause, "?", a pause, the work, "!", a pause, "@E TAG NAME UNITS CHECKSUM"; between "?" and "!" the host takes the time.
 * Also "@X TAG NAME REASON": not possible here; "@D TAG": all done.
 * The workload "nothing" has no work: its time is the marks' own. */
#define _GNU_SOURCE
#include "work.h"
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static u64 nothing_unit(void) { return 0; }

static const struct workload workloads[] = {
	{ "nothing", "overhead", nothing_unit, NULL, NULL, NULL },
#define W(name, kind, setup, done, usable) { #name, #kind, name##_unit, setup, done, usable },
#include "work.def"
#undef W
};

static u32 port, repeat = 3, beside;
static int tag = 1;
static u64 target_ns = 150000000, fixed_count;
static const char *only, *caps;

/* The level above hands on what this one writes, at its UART's speed and when it gets to run. So "?" and "!" are late by the same time only
 * when nothing is before them in the queue, and when this level is idle after them. A line of 30 bytes takes 3 ms at 115,200 Bd. The pause
 * after "?" is in the time of the workload "nothing" too, which is subtracted. */
#define DRAIN_US 10000
#define UART_LSR 5              /* line status register */
#define UART_LSR_THRE 0x20      /* the transmitter takes a byte */

static void put(const char *text)
{
	if (!port) {
		if (write(1, text, strlen(text)) < 0)
			_exit(1);
		return;
	}
	for (; *text; text++) {
		while (!(inb(port + UART_LSR) & UART_LSR_THRE))
			;
		outb(*text, port);
	}
}

static void mark(char what, const char *name, const char *rest)
{
	char text[160];

	snprintf(text, sizeof text, "@%c %d %s%s%s\n", what, tag, name, *rest ? " " : "", rest);
	put(text);
}

void broken(const char *what)
{
	mark('X', what, "refused");
	_exit(1);
}

void *pages(size_t bytes, int prot)
{
	void *at = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		broken("mmap");
	madvise(at, bytes, MADV_NOHUGEPAGE); /* the same page size on every machine */
	return at;
}

static u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Returns the time by the clock in here. */
static u64 measure(const struct workload *w, u64 units)
{
	char rest[64];
	u64 start, end, sum = 0;

	snprintf(rest, sizeof rest, "%llu", (unsigned long long)units);
	mark('S', w->name, rest);
	usleep(DRAIN_US);
	put("?\n");
	usleep(DRAIN_US);
	start = now_ns();
	for (u64 k = 0; k < units; k++)
		sum = w->unit();
	end = now_ns();
	put("!\n");
	usleep(DRAIN_US);
	snprintf(rest, sizeof rest, "%llu %016llx", (unsigned long long)units, (unsigned long long)sum);
	mark('E', w->name, rest);
	return end - start;
}

/* The text after NAME in a list "NAME...,NAME...", or NULL. */
static const char *in_list(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		if (!strncmp(at, name, n) && (!at[n] || at[n] == ',' || at[n] == '='))
			return at + n;
	return NULL;
}

static u64 cap_of(const char *name)
{
	const char *text = in_list(caps, name);

	return text && *text == '=' ? strtoull(text + 1, NULL, 10) : ~0ull >> 16;
}

/* Measures with more and more units until one measurement takes long enough; returns their number. */
static u64 find_units(const struct workload *w)
{
	u64 units = 1, cap = cap_of(w->name);

	for (;;) {
		u64 took = measure(w, units) + 1, factor = target_ns * 5 / 4 / took + 1; /* a little more, so that the next try is the last */

		if (took >= target_ns || units >= cap)
			return units;
		units *= factor > 16 ? 16 : factor;
		if (units > cap)
			units = cap;
	}
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		broken("sched_setaffinity");
}

static void pairs(const struct workload *w, u64 units)
{
	pid_t other = fork();

	if (other < 0)
		broken("fork");
	if (!other) {
		stay_on(1);
		for (;;)
			w->unit();
	}
	for (u32 k = 0; k < beside; k++) {
		kill(other, SIGSTOP);
		measure(w, units);
		kill(other, SIGCONT);
		tag++;
		measure(w, units);
		tag--;
	}
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
}

static void run(const struct workload *w)
{
	u64 units = 1;

	if (w->usable && !w->usable()) {
		mark('X', w->name, "this CPU has no such instructions");
		return;
	}
	if (w->setup)
		w->setup();
	if (fixed_count && w->unit != nothing_unit)
		units = fixed_count;
	else if (w->unit != nothing_unit)
		units = find_units(w);
	if (beside && w->unit != nothing_unit) {
		pairs(w, units);
		return;
	}
	for (u32 k = 0; k < (w->unit == nothing_unit ? 5 : repeat); k++)
		measure(w, units);
	if (w->done)
		w->done();
}

static int chosen(const char *name)
{
	return !only || in_list(only, name) || !strcmp(name, "nothing");
}

static void options(int argc, char **argv)
{
	for (int k = 1; k < argc; k++) {
		const char *value = argv[k + 1]; /* NULL after the last */

		if (!strcmp(argv[k], "--pin")) {
			stay_on(sched_getcpu());
			continue;
		}
		if (!strcmp(argv[k], "--list")) {
			for (size_t n = 1; n < sizeof workloads / sizeof *workloads; n++)
				printf("%s %s\n", workloads[n].name, workloads[n].kind);
			exit(0);
		}
		if (!value)
			exit(2);
		if (!strcmp(argv[k], "--port"))
			port = strtoul(value, NULL, 16);
		else if (!strcmp(argv[k], "--tag"))
			tag = atoi(value);
		else if (!strcmp(argv[k], "--target"))
			target_ns = strtoull(value, NULL, 10) * 1000000;
		else if (!strcmp(argv[k], "--repeat"))
			repeat = atoi(value);
		else if (!strcmp(argv[k], "--beside"))
			beside = atoi(value);
		else if (!strcmp(argv[k], "--count"))
			fixed_count = strtoull(value, NULL, 10);
		else if (!strcmp(argv[k], "--cap"))
			caps = value;
		else if (!strcmp(argv[k], "--only"))
			only = value;
		else
			exit(2);
		k++;
	}
}

int main(int argc, char **argv)
{
	options(argc, argv);
	if (port && ioperm(port, 8, 1)) {
		perror("work: ioperm");
		return 1;
	}
	if (isatty(1))
		tcdrain(1); /* what the kernel still has for this UART goes first */
	if (beside)
		stay_on(0);
	for (size_t k = 0; k < sizeof workloads / sizeof *workloads; k++)
		if (chosen(workloads[k].name))
			run(&workloads[k]);
	mark('D', "all", "");
	return 0;
}
