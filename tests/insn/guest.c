/* A bare vCPU as a test subject: 64-bit mode, CPL 3, the test's pages at the host's addresses, and a supervisor half whose
 * interrupt handlers are single HLTs. An instruction has completed when the HLT behind it raises #GP. */
#include "oracle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bus/clock.h"
#include "cpu/core.h"
#include "cpu/engine.h"
#include "cpu/mmu.h"
#include "mem/mem.h"

#define RAM (4 * MiB)
#define KERNEL 0xffff800000000000ull /* guest-physical 0 */
#define PML4 0x1000u
#define GDT 0x40000u
#define IDT 0x41000u
#define TSS 0x42000u
#define STACK_TOP 0x44000u
#define HANDLERS 0x45000u /* vector * 16 */
#define DATA 0x50000u
#define RO 0x54000u
#define CODE 0x56000u
#define HLT 0xf4

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_NX BIT(63)

/* Two may exist: one per engine, to compare them. */
static struct guest {
	const struct engine_ops *engine;
	struct mem mem;
	struct clock clock;
	struct clock_timer limit; /* of what one case may take */
	struct cpu *cpu;
	struct cpu_arch start; /* user mode, before the case's registers */
	struct cpu_io io;
	u64 next_table;
	u8 *data; /* host address of the data pages */
} guests[2], *g = &guests[0];
static pthread_mutex_t device_lock = PTHREAD_MUTEX_INITIALIZER;

static u64 port_read(void *vm, u16 port, unsigned size) { return ~(u64)0; }
static void port_write(void *vm, u16 port, u64 value, unsigned size) {}
static u64 mmio_read(void *vm, u64 at, unsigned size) { return ~(u64)0; }
static void mmio_write(void *vm, u64 at, u64 value, unsigned size) {}
static void claim_code(void *vm, struct cpu *c, u64 frame) { mmu_write_protect(c, frame); }
static void service_code(void *vm, struct cpu *c) { cpu_unpend(c, PEND_CODE); }
static void code_written(void *opaque, u64 frame, unsigned first, unsigned last) { g->engine->forget(g->cpu, frame, first, last); }

#define LIMIT_NS 4000000 /* about two million instructions: random code makes loops without end */
bool guest_endless;
u64 guest_insns;
static void limit_reached(void *opaque)
{
	guest_endless = true;
	cpu_pend(opaque, PEND_KICK);
}

static void poke(u64 at, u64 v, unsigned size) { mem_write(&g->mem, gpa(at), &v, size); }
static u64 peek(u64 at) { return mem_read_le(&g->mem, gpa(at), 8); }

static void map(u64 la, u64 to, u64 flags)
{
	u64 table = PML4;

	for (unsigned shift = 39; shift > 12; shift -= 9) {
		u64 at = table + 8 * (la >> shift & 511);

		if (!(peek(at) & PTE_P)) {
			poke(at, g->next_table | PTE_P | PTE_W | PTE_U, 8);
			g->next_table += PAGE_SIZE;
		}
		table = peek(at) & ~(u64)0xfff;
	}
	poke(table + 8 * (la >> 12 & 511), to | flags | PTE_P, 8);
}

static void build_memory(void)
{
	for (u64 at = 0; at < 0x60000; at += PAGE_SIZE)
		map(KERNEL + at, at, PTE_W);
	for (u64 at = 0; at < O_DATA_SIZE; at += PAGE_SIZE)
		map(O_DATA + at, DATA + (at ^ PAGE_SIZE), PTE_W | PTE_U | PTE_NX); /* swapped: the next page's bytes are not behind this one's */
	map(O_RO, RO, PTE_U | PTE_NX);
	map(O_CODE, CODE, PTE_U | PTE_W);
	for (unsigned k = 0; k < 4096; k++)
		poke(RO + k, (u8)(k * 7 + 1), 1);
	/* The host's selectors: user code 33h, 32-bit user code 23h, user data 2Bh. */
	poke(GDT + 0x20, 0x00cffb000000ffff, 8);
	poke(GDT + 0x10, 0x00af9b000000ffff, 8);
	poke(GDT + 0x18, 0x00cf93000000ffff, 8);
	poke(GDT + 0x28, 0x00cff3000000ffff, 8);
	poke(GDT + 0x30, 0x00affb000000ffff, 8);
	poke(TSS + 4, KERNEL + STACK_TOP, 8);
	poke(TSS + 102, 0xffff, 2);
	for (unsigned v = 0; v < 256; v++) {
		u64 to = KERNEL + HANDLERS + v * 16;

		poke(HANDLERS + v * 16, HLT, 1);
		poke(IDT + 16 * v, (to & 0xffff) | 0x10ull << 16 | 0x8e00ull << 32 | (to >> 16 & 0xffff) << 48, 8);
		poke(IDT + 16 * v + 8, to >> 32, 8);
	}
	poke(CODE + (O_PAD_B - O_CODE), HLT, 1);
}

static struct seg segment(u16 sel, u64 base, u32 attr) { return (struct seg){ .base = base, .limit = 0xffffffff, .attr = attr, .sel = sel }; }

static void build_state(void)
{
	struct cpu_arch *a = &g->cpu->arch;

	a->efer = EFER_SCE | EFER_NXE | EFER_LME | EFER_LMA;
	a->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	a->cr3 = PML4;
	a->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	a->xcr0 = 7;
	a->seg[SEG_CS] = segment(0x33, 0, 0xa0fb);
	a->seg[SEG_SS] = segment(0x2b, 0, 0xc0f3);
	a->seg[SEG_DS] = a->seg[SEG_ES] = segment(0x2b, 0, 0xc0f3);
	a->seg[SEG_FS] = segment(0, 0, SEG_UNUSABLE);
	a->seg[SEG_GS] = segment(0, O_GS_BASE, SEG_UNUSABLE);
	a->tr = segment(0x40, KERNEL + TSS, 0x8b);
	a->tr.limit = 103;
	a->gdtr = (struct dtable){ .base = KERNEL + GDT, .limit = 0xff };
	a->idtr = (struct dtable){ .base = KERNEL + IDT, .limit = 0xfff };
	a->cpl = 3;
	a->activity = ACT_ACTIVE;
	g->start = *a;
	cpu_load_control(g->cpu, a->cr0, a->cr3, a->cr4, a->efer);
	cpu_update_mode(g->cpu);
	mmu_switch(g->cpu);
}

bool guest_engine(const char *name)
{
	g->engine = !strcmp(name, "jit") ? &jit_engine : &interp_engine;
	jit_hot = 0; /* each case runs once */
	return g->engine == &jit_engine || !strcmp(name, "interp");
}

void guest_select(unsigned n) { g = &guests[n]; }

int guest_init(void)
{
	int err = mem_init(&g->mem, RAM);

	if (!g->engine)
		g->engine = &interp_engine;
	g->next_table = PML4 + PAGE_SIZE;
	if (err || (err = mem_add_slot(&g->mem, gpa(0), RAM, MEM_RAM, "ram")))
		return err;
	clock_init(&g->clock, &device_lock);
	g->io = (struct cpu_io){ .port_read = port_read, .port_write = port_write, .mmio_read = mmio_read, .mmio_write = mmio_write, .claim_code = claim_code, .service_code = service_code };
	g->cpu = aligned_alloc(64, align_up(sizeof(*g->cpu), 64));
	memset(g->cpu, 0, sizeof(*g->cpu));
	g->cpu->ncpus = 1;
	g->cpu->mem = &g->mem;
	g->cpu->clock = &g->clock;
	g->cpu->io = &g->io;
	g->cpu->model = cpu_model_make("fast", false, 1, 2000000);
	g->cpu->tsc_khz = 2000000;
	if ((err = mmu_create(g->cpu)) || (err = g->engine->create(g->cpu)))
		return err;
	mem_add_listener(&g->mem, (struct mem_listener){ code_written, NULL });
	cpu_reset(g->cpu);
	build_memory();
	build_state();
	g->data = mem_ptr(&g->mem, gpa(DATA), O_DATA_SIZE);
	g->limit.fire = limit_reached;
	g->limit.opaque = g->cpu;
	clock_add_timer(&g->clock, &g->limit);
	clock_vcpu_run(&g->clock);
	return 0;
}

/* Features by instruction set, as the vCPU shows them. */
bool guest_shows(ZydisISASet set)
{
	static const struct { u16 set, feature; } need[] = {
		{ ZYDIS_ISA_SET_BMI1, FEAT_BMI1 }, { ZYDIS_ISA_SET_BMI2, FEAT_BMI2 }, { ZYDIS_ISA_SET_ADOX_ADCX, FEAT_ADX }, { ZYDIS_ISA_SET_MOVBE, FEAT_MOVBE },
		{ ZYDIS_ISA_SET_POPCNT, FEAT_POPCNT }, { ZYDIS_ISA_SET_LZCNT, FEAT_LZCNT }, { ZYDIS_ISA_SET_CMPXCHG16B, FEAT_CX16 },
		{ ZYDIS_ISA_SET_SSE3, FEAT_SSE3 }, { ZYDIS_ISA_SET_SSSE3, FEAT_SSSE3 }, { ZYDIS_ISA_SET_SSE4, FEAT_SSE41 }, { ZYDIS_ISA_SET_SSE42, FEAT_SSE42 },
		{ ZYDIS_ISA_SET_AVX, FEAT_AVX }, { ZYDIS_ISA_SET_AVX2, FEAT_AVX2 }, { ZYDIS_ISA_SET_AVX2GATHER, FEAT_AVX2 }, { ZYDIS_ISA_SET_FMA, FEAT_FMA },
		{ ZYDIS_ISA_SET_F16C, FEAT_F16C }, { ZYDIS_ISA_SET_AES, FEAT_AES }, { ZYDIS_ISA_SET_AVXAES, FEAT_AES }, { ZYDIS_ISA_SET_PCLMULQDQ, FEAT_PCLMUL },
		{ ZYDIS_ISA_SET_SHA, FEAT_SHA }, { ZYDIS_ISA_SET_XSAVE, FEAT_XSAVE }, { ZYDIS_ISA_SET_XSAVEC, FEAT_XSAVEC },
		{ ZYDIS_ISA_SET_XSAVEOPT, FEAT_XSAVEOPT }, { ZYDIS_ISA_SET_XSAVES, FEAT_XSAVES },
	};

	for (unsigned k = 0; k < array_len(need); k++)
		if (need[k].set == set)
			return cpu_has(g->cpu, need[k].feature);
	return true;
}

static struct seg ldt_segment(enum oseg n)
{
	return (struct seg){ .base = osegments[n].base, .limit = osegments[n].limit, .attr = osegments[n].attr, .sel = O_SELECTOR(n) };
}

static void move_data(u8 *to, const u8 *from)
{
	for (unsigned at = 0; at < O_DATA_SIZE; at += PAGE_SIZE)
		memcpy(to + at, from + (at ^ PAGE_SIZE), PAGE_SIZE);
}

static void load(const struct ocase *k)
{
	static const u8 hlt = HLT;
	struct cpu_arch *a = &g->cpu->arch;
	u64 at = CODE + (k->at - O_CODE);

	move_data(g->data, k->mem);
	mem_write(&g->mem, gpa(at), k->block ? k->block : k->code, k->len);
	mem_write(&g->mem, gpa(at + k->len), &hlt, 1);
	*a = g->start;
	if (k->mode == O_32) {
		a->seg[SEG_CS] = segment(0x23, 0, 0xc0fb);
		if (k->block) /* there is no silicon to agree with */
			a->seg[SEG_GS] = segment(0x2b, O_GS_BASE, 0xc0f3);
	}
	if (k->mode == O_16) {
		a->seg[SEG_CS] = ldt_segment(O_SEG_CODE);
		a->seg[SEG_DS] = ldt_segment(k->ds);
		a->seg[SEG_ES] = ldt_segment(k->es);
		a->seg[SEG_SS] = ldt_segment(k->ss);
	}
	memcpy(a->gpr, k->in.gpr, sizeof(k->in.gpr));
	a->rip = k->mode == O_16 ? k->at - O_CODE : k->at;
	a->rflags = (k->in.rflags & ~(u64)FLAG_ARITH) | FLAG_FIXED1;
	a->cc = cpu_flags_to_cc(k->in.rflags);
	memcpy(a->x87, k->in.fp.fx, 160);
	memset(a->x87 + 24, 0, 8);
	a->mxcsr = (u32)load_le(k->in.fp.fx + 24, 4);
	for (unsigned r = 0; r < 16; r++) {
		memcpy(a->ymm + 32 * r, k->in.fp.fx + 160 + 16 * r, 16);
		memcpy(a->ymm + 32 * r + 16, k->in.fp.ymmh + 16 * r, 16);
	}
	g->cpu->budget_end = g->cpu->icount + 1000000;
	cpu_update_mode(g->cpu);
}

static void store(struct ostate *out)
{
	const struct cpu_arch *a = &g->cpu->arch;

	memcpy(out->gpr, a->gpr, sizeof(out->gpr));
	memcpy(out->fp.fx, a->x87, 160);
	memcpy(out->fp.fx + 24, &a->mxcsr, 4);
	for (unsigned r = 0; r < 16; r++) {
		memcpy(out->fp.fx + 160 + 16 * r, a->ymm + 32 * r, 16);
		memcpy(out->fp.ymmh + 16 * r, a->ymm + 32 * r + 16, 16);
	}
}

void guest_forget_code(void)
{
	static const u8 zeros[PAGE_SIZE];
	mem_write(&g->mem, gpa(CODE), zeros, sizeof zeros);
	poke(CODE + (O_PAD_B - O_CODE), HLT, 1);
}

bool guest_run(const struct ocase *k, struct ostate *out, u8 memory[O_DATA_SIZE])
{
	struct exit_record x;
	u64 sp, frame[6], vector;
	unsigned n;

	memset(out, 0, sizeof(*out));
	load(k);
	guest_endless = false;
	clock_arm(&g->clock, &g->limit, cpu_now(g->cpu) + LIMIT_NS);
	cpu_pend(g->cpu, PEND_TIMER);
	u64 before = g->cpu->icount;
	do
		g->engine->run(g->cpu, &x);
	while (x.kind == EXIT_KICK && !guest_endless);
	g->engine->sync(g->cpu);
	guest_insns = g->cpu->icount - before;
	cpu_unpend(g->cpu, PEND_KICK);
	if (guest_endless)
		return false;
	clock_arm(&g->clock, &g->limit, CLOCK_NEVER);
	vector = (g->cpu->arch.rip - 1 - KERNEL - HANDLERS) / 16;
	if (x.kind != EXIT_HALT || vector > 31) {
		printf("vCPU: %s, rip %#llx: %s\n", x.kind == EXIT_HALT ? "halted" : "shut down", (unsigned long long)g->cpu->arch.rip, g->cpu->death);
		return false;
	}
	store(out);
	sp = g->cpu->arch.gpr[GPR_RSP] - KERNEL;
	n = (unsigned)(STACK_TOP - sp) / 8;
	for (unsigned f = 0; f < 6; f++)
		frame[f] = peek(STACK_TOP - 8 * (f + 1)); /* SS, RSP, RFLAGS, CS, RIP, error code */
	out->gpr[GPR_RSP] = frame[1];
	out->rflags = frame[2];
	out->rip = frame[4];
	out->vector = (u32)vector;
	out->error = n > 5 ? (u32)frame[5] : 0;
	out->cr2 = vector == VEC_PF ? g->cpu->arch.cr2 : 0;
	n = k->mode == O_16 ? O_CODE : 0;
	if (vector == VEC_GP && (out->rip + n == k->at + k->len || out->rip + n == O_PAD_B)) {
		out->vector = VECTOR_NONE;
		out->pad_b = out->rip + n == O_PAD_B;
	}
	move_data(memory, g->data);
	return true;
}
