/* A whole vCPU without an engine: 2 MiB of RAM, descriptor tables built by hand, a fake interrupt controller. Tests call the core's
 * functions as an engine would and look at the registers. */
#ifndef CORE_RIG_H
#define CORE_RIG_H

#include "bus/clock.h"
#include "cpu/core.h"
#include "cpu/desc.h"
#include "cpu/engine.h"
#include "cpu/mmu.h"
#include "cpu/model.h"
#include "mem/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

enum core_mode { CORE_REAL, CORE_PROT, CORE_LONG };

/* Where things are; all identity-mapped. */
enum {
	AT_GDT = 0x1000, AT_IDT = 0x2000, AT_LDT = 0x3000, AT_TSS = 0x4000, AT_TSS2 = 0x5000,
	AT_STACK0 = 0x8000, AT_STACK3 = 0x9000, AT_IST = 0xa000, AT_CODE = 0x20000, AT_HANDLER = 0x30000, AT_TABLES = 0x100000
};

/* Selectors of the GDT that core_open builds. */
enum {
	CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x18 | 3, DATA3 = 0x20 | 3, CODE64 = 0x28, CODE64_3 = 0x30 | 3, TSS = 0x40 /* 16 bytes */,
	CODE16 = 0x50, CONFORMING = 0x58, ABSENT_DATA = 0x60, EXEC_ONLY = 0x68, READ_ONLY = 0x70, EXPAND_DOWN = 0x78, LDT = 0x80 /* 16 bytes */,
	GATE = 0x90 /* 16 bytes */, TSS2 = 0xa0, TASK_GATE = 0xa8, SMALL_CODE = 0xb0, ABSENT_CODE = 0xb8, DATA16 = 0xc0, DATA1 = 0xc8 | 1, GDT_END = 0xd0
};

struct core {
	struct mem mem;
	struct cpu *cpu;
	struct cpu_io io;
	struct clock clock;
	int irq;              /* what the fake interrupt controller has, -1 nothing */
	unsigned acknowledged, code_calls;
	u64 deadline;
};

void core_open(struct core *r, enum core_mode mode);
void core_close(struct core *r);
void core_gdt(struct core *r, u16 sel, u32 base, u32 limit, u8 access, u8 flags);
void core_gate(struct core *r, u64 at, u16 sel, u64 off, u8 access, u8 ist_or_params); /* 8 or, in long mode, 16 bytes */
void core_idt(struct core *r, unsigned vector, u16 sel, u64 off, u8 access, u8 ist);
extern u64 core_ram; /* of the next that is opened */
u64 core_get(struct core *r, u64 at, unsigned size);
void core_set(struct core *r, u64 at, unsigned size, u64 v);
/* Ring 3 with its own stack; in long mode 64-bit. */
void core_user(struct core *r);
/* The n-th item of `size` bytes on the stack. */
u64 core_stack(struct core *r, unsigned n, unsigned size);
void core_expect_fault(struct core *r, enum step s, unsigned vector, int error /* -1: none */);

#endif
