/* A vCPU's memory side without the rest of the CPU: a few MiB of RAM, page tables built by hand, a device that
 * records what it is asked. What the MMU calls in the CPU core is replaced here by the least that does. */
#ifndef MMU_RIG_H
#define MMU_RIG_H

#include "cpu/core.h"
#include "cpu/mmu.h"
#include "mem/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define RIG_RAM (16 * MiB)
#define RIG_ROM 0xfffc0000ull /* 64 KiB */
#define RIG_TABLES (8 * MiB)  /* page tables are made from here on */
#define RIG_DEVICE 0xd0000000ull

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX BIT(63)

struct rig {
	struct mem mem;
	struct cpu *cpu;
	struct cpu_io io;
	u64 next_table;
	u64 path[4]; /* for tests: entries of one walk */
	/* last device access */
	u64 io_at, io_value;
	unsigned io_size, io_reads, io_writes;
	bool io_was_write;
	/* last cpu_debug_data */
	u64 debug_la;
	unsigned debug_calls, debug_size;
	bool debug_write;
};

extern unsigned rig_maxphyaddr;

enum rig_mode { RIG_REAL, RIG_32, RIG_PAE, RIG_64 };
/* Supervisor, CR0.WP, NX on, PGE and PSE on. */
void rig_open(struct rig *r, enum rig_mode mode);
void rig_close(struct rig *r);
/* 4-level: maps la to pa with `flags` in the leaf and P|W|U above; shift 12, 21 or 30. Returns the leaf entry's
 * address. */
u64 rig_map(struct rig *r, u64 la, u64 pa, u64 flags, unsigned shift);
/* Address of the entry of `level` (0 page table .. 3 PML4) on la's path; the levels above exist. */
u64 rig_entry(struct rig *r, u64 la, unsigned level);
u64 rig_get(struct rig *r, u64 at);
void rig_set(struct rig *r, u64 at, u64 v);
void rig_user(struct rig *r, bool user);
/* Recomputes the access class and context, as cpu_update_mode and the control register code do. */
void rig_update(struct rig *r);

/* The access must fault with exactly this error code and CR2 = la. */
void rig_expect_pf(struct rig *r, u64 la, u32 acc, u32 error);
void rig_expect_ok(struct rig *r, u64 la, u32 acc);
void rig_expect_vector(struct rig *r, unsigned vector);
bool rig_access(struct rig *r, u64 la, u32 acc);

#endif
