/* A machine for CPU fuzzing: one vCPU, 1 MiB of RAM, 16 KiB of ROM behind it, and around them a bus and an interrupt
 * controller whose every answer follows from the input. Two machines with the same state behave alike, which is what save_and_load checks.
 *
 * Also where random numbers come from: the input's bytes as long as they last, then a generator seeded by them. */
#ifndef FUZZ_MACHINE_H
#define FUZZ_MACHINE_H

#include "bus/clock.h"
#include "cpu/core.h"
#include "cpu/engine.h"
#include "cpu/mmu.h"
#include "mem/mem.h"
#include "state/state.h"

/* ---- random numbers ---- */
struct rng {
	const u8 *p, *end;
	u64 s;
};
void rng_init(struct rng *r, const u8 *data, size_t size);
u64 rng_u64(struct rng *r);
static inline unsigned below(struct rng *r, unsigned n) { return (unsigned)((u32)rng_u64(r) % n); }
static inline bool chance(struct rng *r, unsigned percent) { return below(r, 100) < percent; }
#define PICK(r, a) ((a)[below(r, array_len(a))])

/* ---- where things are, guest-physical; programs.c and worlds.c fill them ---- */
enum {
	AT_IVT = 0, AT_GDT = 0x4000, AT_LDT = 0x5000, AT_IDT = 0x6000, AT_TSS = 0x8000, AT_TSS2 = 0xb000, AT_STACKS = 0xc000,
	AT_TABLES = 0x10000, TABLE_PAGES = 16,
	AT_VMX = 0x20000, VMX_PAGES = 16, /* VMXON region, VMCSs, bitmaps, EPT... */
	AT_VMX_POINTERS = 0x2c800, VMX_POINTERS = 16, /* 16 bytes each: operands of VMPTRLD, INVEPT... */
	AT_CODE = 0x30000, CODE_PAGES = 4,
	AT_DATA = 0x40000, DATA_BYTES = 0x40000,
	RAM_BYTES = 0x100000, ROM_BYTES = 0x4000
};

/* Half of the interrupts have this vector. */
#define POSTED_VECTOR 0xf2

struct machine {
	struct mem mem;
	struct clock clock;
	struct cpu *cpu;
	const struct engine_ops *engine;
	struct cpu_io io;
	struct clock_timer kick, events;
	/* What follows is the world outside the CPU; cloned with it. */
	u64 bus_seed, bus_reads;   /* a device register reads as a hash of both and its address */
	u64 event_period;          /* ns of V between two signals from outside; 0: none */
	u64 signals;
	int irq;                   /* waiting at the interrupt controller, -1 nothing */
	u64 deadline;
	u8 tpr;
};

struct machine *machine_create(bool nested, const struct engine_ops *engine);
void machine_destroy(struct machine *m);
/* As after machine_create, with other answers from outside. */
void machine_reset(struct machine *m, u64 seed, u64 event_period);
/* After arch was written directly. */
void machine_adopt(struct machine *m);
/* Runs about `insns` instructions, through halts and INIT; false when the vCPU has shut down. */
bool machine_run(struct machine *m, u64 insns);
/* Aborts when something that must hold at an instruction boundary does not. */
void machine_check(struct machine *m);
/* b becomes what a is, through the saved state of a and nothing else of its CPU; aborts when saving b gives other bytes. Afterwards run both and call
 * machines_same. */
void machine_clone(struct machine *b, struct machine *a);
void machines_same(struct machine *a, struct machine *b);

static inline void put(struct machine *m, u64 at, unsigned size, u64 v) { store_le((u8 *)mem_ptr(&m->mem, gpa(at), size), v, size); }

/* ---- programs.c: guest code ---- */
/* Fills [at, at+bytes) with random instructions, most of them legal in a mode of `bits`; `data` is a good displacement base. */
void program_fill(struct machine *m, struct rng *r, u64 at, u64 bytes, unsigned bits);
/* Puts n snippets over it: of a hypervisor, or of a guest that uses its virtual APIC and VM functions. */
void program_sprinkle(struct machine *m, struct rng *r, u64 at, u64 bytes, unsigned bits, unsigned n, bool hypervisor);
/* A number as found in registers and memory of kernels: addresses of this machine, selectors, counts, edges. */
u64 interesting(struct rng *r);

/* ---- worlds.c: legal CPU states and the tables they refer to ---- */
enum world_mode { WORLD_REAL, WORLD_VM86, WORLD_PROT16, WORLD_PROT32, WORLD_COMPAT16, WORLD_COMPAT32, WORLD_LONG, WORLDS };
struct world {
	enum world_mode mode;
	u64 base;    /* added to all AT_ addresses of tables, code and data: two worlds fit into RAM, at 0 and at WORLD_BYTES */
	bool kernel; /* CPL 0 */
};
#define WORLD_BYTES 0x80000u
static inline bool world_lma(const struct world *w) { return w->mode >= WORLD_COMPAT16; }
static inline unsigned world_bits(const struct world *w)
{
	static const u8 bits_of[WORLDS] = { 16, 16, 16, 32, 16, 32, 64 };
	return bits_of[w->mode];
}
/* A random legal state in *a (all but MSRs and vector state is set). */
void world_state(struct machine *m, struct rng *r, const struct world *w, struct cpu_arch *a);
/* Descriptor tables, TSSs, page tables and data for that state. */
void world_memory(struct machine *m, struct rng *r, const struct world *w, const struct cpu_arch *a);
/* MSRs and debug registers through the CPU's own checks, then x87 and vector state. After machine_adopt. */
void world_msrs(struct machine *m, struct rng *r, const struct world *w);

#endif
