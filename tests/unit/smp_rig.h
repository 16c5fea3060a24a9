/* Two vCPUs with one memory, each on its thread, and the real vm/code.c between them. */
#ifndef SMP_RIG_H
#define SMP_RIG_H

#include "interp_rig.h"

struct vm;

struct smp {
	struct core core[2]; /* the second runs in the first one's memory */
	struct vm *vm;
};

/* 64-bit mode, as core_open makes it, twice. */
void smp_open(struct smp *s);
void smp_close(struct smp *s);
/* Runs vCPU n from address at[n] until its HLT, for each n whose address is not 0, and waits for all. `device`, unless NULL, runs on a thread of its own
 * meanwhile: its writes are a device's. */
void smp_go(struct smp *s, const u64 at[2], void (*device)(struct smp *s));

#endif
