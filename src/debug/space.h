/* Address spaces as a debugger sees them: the memory of L1, L2, L3, ... through their own page tables and EPT, read without any effect on the guest.
 * The walks are made anew here, from the tables in memory, so that they can be told step by step; cpu/paging.c is the one that guests feel.
 * Call with the machine paused, or live with what may be a mixture of two moments. */
#ifndef NB_DEBUG_SPACE_H
#define NB_DEBUG_SPACE_H

#include "mem/mem.h"
#include "vm/vm.h"
#include <stdio.h>

struct debug_space {
	u64 cr0, cr3, cr4, efer;
	u64 eptp;          /* 0: what the page tables give is L1-physical */
	unsigned level;    /* 1: the machine's own software */
};

/* The address space of level `level` on vCPU `cpu`: what runs there now, else what ran last. Returns 0, or -ENOENT when that vCPU has no such level. */
int debug_space_of(struct vm *vm, unsigned cpu, unsigned level, struct debug_space *s);

/* Translates linear address la. out: NULL, or where to explain the walk, a sentence a line. True: *at is the L1-physical address. */
bool debug_translate(const struct mem *mem, const struct debug_space *s, u64 la, u64 *at, FILE *out);

/* Copies up to len bytes, as far as they are mapped to RAM. Returns how many. debug_write makes engines and dirty log notice; only with the machine paused. */
size_t debug_read(const struct mem *mem, const struct debug_space *s, u64 la, void *to, size_t len);
size_t debug_write(struct mem *mem, const struct debug_space *s, u64 la, const void *from, size_t len);

#endif
