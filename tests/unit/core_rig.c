#include "core_rig.h"

#include <stdlib.h>

/* ---- fake interrupt controller ---- */
static int intc_pending(void *o) { return ((struct core *)o)->irq; }
static int intc_acknowledge(void *o)
{
	struct core *r = o;
	int v = r->irq;
	r->irq = -1;
	r->acknowledged++;
	return v;
}
static u8 intc_tpr(void *o) { return 0; }
static void intc_set_tpr(void *o, u8 v) {}
static bool intc_set_base(void *o, u64 v) { return !(v & 0xff); }
static bool intc_msr_read(void *o, u32 msr, u64 *v)
{
	*v = msr;
	return true;
}
static bool intc_msr_write(void *o, u32 msr, u64 v) { return true; }
static u64 intc_deadline(void *o) { return ((struct core *)o)->deadline; }
static void intc_set_deadline(void *o, u64 v) { ((struct core *)o)->deadline = v; }
static void intc_init(void *o, bool reset) {}
static void intc_eoi(void *o) {}
static u32 intc_id(void *o) { return ((struct core *)o)->cpu->index; }
static const struct intc_ops intc = {
	.pending = intc_pending, .acknowledge = intc_acknowledge, .tpr = intc_tpr, .set_tpr = intc_set_tpr, .set_base = intc_set_base,
	.msr_read = intc_msr_read, .msr_write = intc_msr_write, .deadline = intc_deadline, .set_deadline = intc_set_deadline, .init = intc_init,
	.eoi = intc_eoi, .apic_id = intc_id,
};

static void service_code(void *vm, struct cpu *c) { ((struct core *)vm)->code_calls++; }

u64 core_get(struct core *r, u64 at, unsigned size)
{
	u64 v = 0;
	assert_int_equal(mem_read(&r->mem, gpa(at), &v, size), 0);
	return v;
}
void core_set(struct core *r, u64 at, unsigned size, u64 v) { assert_int_equal(mem_write(&r->mem, gpa(at), &v, size), 0); }

void core_gdt(struct core *r, u16 sel, u32 base, u32 limit, u8 access, u8 flags)
{
	u64 at = AT_GDT + (sel & 0xfff8u);
	core_set(r, at, 4, (base & 0xffff) << 16 | (limit & 0xffff));
	core_set(r, at + 4, 4, (base >> 16 & 0xff) | (u32)access << 8 | (limit & 0xf0000) | (u32)flags << 20 | (base & 0xff000000));
}

void core_gate(struct core *r, u64 at, u16 sel, u64 off, u8 access, u8 low)
{
	core_set(r, at, 4, (off & 0xffff) | (u32)sel << 16);
	core_set(r, at + 4, 4, (off & 0xffff0000) | (u32)access << 8 | low);
	if (r->cpu->lma)
		core_set(r, at + 8, 8, off >> 32);
}

void core_idt(struct core *r, unsigned vector, u16 sel, u64 off, u8 access, u8 ist)
{
	core_gate(r, AT_IDT + vector * (r->cpu->lma ? 16 : 8), sel, off, access, ist);
}

static void build_gdt(struct core *r)
{
	core_gdt(r, CODE0, 0, 0xfffff, 0x9a, 0xc);
	core_gdt(r, DATA0, 0, 0xfffff, 0x92, 0xc);
	core_gdt(r, CODE3, 0, 0xfffff, 0xfa, 0xc);
	core_gdt(r, DATA3, 0, 0xfffff, 0xf2, 0xc);
	core_gdt(r, CODE64, 0, 0, 0x9a, 0xa);
	core_gdt(r, CODE64_3, 0, 0, 0xfa, 0xa);
	core_gdt(r, TSS, AT_TSS, 0x67, 0x89, 0);
	core_gdt(r, CODE16, 0, 0xffff, 0x9a, 0);
	core_gdt(r, CONFORMING, 0, 0xfffff, 0x9e, 0xc);
	core_gdt(r, ABSENT_DATA, 0, 0xfffff, 0x12, 0xc);
	core_gdt(r, EXEC_ONLY, 0, 0xfffff, 0x98, 0xc);
	core_gdt(r, READ_ONLY, 0, 0xfffff, 0x90, 0xc);
	core_gdt(r, EXPAND_DOWN, 0, 0xfff, 0x96, 0x4);
	core_gdt(r, LDT, AT_LDT, 0xff, 0x82, 0);
	core_gdt(r, TSS2, AT_TSS2, 0x67, 0x89, 0);
	core_gate(r, AT_GDT + TASK_GATE, TSS2, 0, 0x85, 0);
	core_gdt(r, SMALL_CODE, 0, 0xff, 0x9a, 0x4);
	core_gdt(r, ABSENT_CODE, 0, 0xfffff, 0x1a, 0xc);
	core_gdt(r, DATA16, 0, 0xffff, 0x92, 0);
	core_gdt(r, DATA1, 0, 0xfffff, 0xb2, 0xc);
}

static void enter_protected(struct core *r)
{
	struct cpu *c = r->cpu;
	build_gdt(r);
	c->arch.gdtr = (struct dtable){ .base = AT_GDT, .limit = GDT_END - 1 };
	c->arch.idtr = (struct dtable){ .base = AT_IDT, .limit = 0xfff };
	assert_int_not_equal(cpu_set_cr0(c, CR0_PE | CR0_ET | CR0_NE), STEP_FAULT);
	assert_int_not_equal(cpu_far_jmp(c, CODE0, AT_CODE, 4, 7), STEP_FAULT);
	for (unsigned s = 0; s < SEG_COUNT; s++)
		if (s != SEG_CS)
			assert_int_not_equal(cpu_load_seg(c, s, DATA0), STEP_FAULT);
	assert_int_not_equal(cpu_ltr(c, TSS), STEP_FAULT);
	core_set(r, AT_TSS + 4, 4, AT_STACK0);
	core_set(r, AT_TSS + 8, 4, DATA0);
	c->arch.gpr[GPR_RSP] = AT_STACK0 - 0x100;
}

static void enter_long(struct core *r)
{
	struct cpu *c = r->cpu;
	core_set(r, AT_TABLES, 8, (AT_TABLES + 0x1000) | 7);
	core_set(r, AT_TABLES + 0x1000, 8, 0x87); /* 1 GiB, user */
	assert_int_not_equal(cpu_set_cr4(c, CR4_PAE), STEP_FAULT);
	assert_int_not_equal(cpu_set_cr3(c, AT_TABLES), STEP_FAULT);
	assert_true(cpu_wrmsr(c, 0xc0000080, EFER_LME | EFER_NXE | EFER_SCE));
	assert_int_not_equal(cpu_set_cr0(c, c->arch.cr0 | CR0_PG | CR0_WP), STEP_FAULT);
	assert_true(c->lma);
	assert_int_not_equal(cpu_far_jmp(c, CODE64, AT_CODE, 4, 7), STEP_FAULT);
	assert_true(c->mode & MODE_L);
	core_set(r, AT_TSS + 4, 8, AT_STACK0);
	core_set(r, AT_TSS + 0x24, 8, AT_IST);
}

u64 core_ram = 2 * MiB;

void core_open(struct core *r, enum core_mode mode)
{
	memset(r, 0, sizeof *r);
	r->irq = -1;
	assert_int_equal(mem_init(&r->mem, core_ram), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(0), core_ram, MEM_RAM, "ram"), 0);
	clock_init(&r->clock, NULL);
	r->io = (struct cpu_io){ .service_code = service_code, .vm = r };
	struct cpu *c = r->cpu = aligned_alloc(64, align_up(sizeof *c, 64));
	memset(c, 0, sizeof *c);
	c->mem = &r->mem;
	c->io = &r->io;
	c->clock = &r->clock;
	c->intc = &intc;
	c->intc_state = r;
	c->ncpus = 1;
	c->tsc_khz = 2000000;
	c->model = cpu_model_make("fast", false, 1, c->tsc_khz);
	assert_non_null(c->model);
	assert_int_equal(mmu_create(c), 0);
	cpu_reset(c);
	if (mode == CORE_REAL) {
		assert_int_not_equal(cpu_far_jmp(c, AT_CODE >> 4, 0, 2, 5), STEP_FAULT);
		c->arch.gpr[GPR_RSP] = 0x8000;
		return;
	}
	enter_protected(r);
	if (mode == CORE_LONG)
		enter_long(r);
}

void core_close(struct core *r)
{
	mmu_destroy(r->cpu);
	cpu_model_free((struct cpu_model *)r->cpu->model);
	free(r->cpu);
	mem_free(&r->mem);
}

void core_user(struct core *r)
{
	struct cpu *c = r->cpu;
	struct stack s;
	unsigned n = c->lma ? 8 : 4;
	stack_current(c, &s, 0);
	assert_true(stack_push(c, &s, DATA3, n) && stack_push(c, &s, AT_STACK3, n) && stack_push(c, &s, 0x202, n) &&
		    stack_push(c, &s, c->lma ? CODE64_3 : CODE3, n) && stack_push(c, &s, AT_CODE, n));
	c->arch.gpr[GPR_RSP] = s.sp;
	assert_int_equal(cpu_iret(c, n, NULL), STEP_STOP);
	assert_int_equal(c->arch.cpl, 3);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (i != SEG_CS && i != SEG_SS)
			assert_int_not_equal(cpu_load_seg(c, i, DATA3), STEP_FAULT);
}

u64 core_stack(struct core *r, unsigned n, unsigned size)
{
	return core_get(r, r->cpu->arch.seg[SEG_SS].base + (r->cpu->arch.gpr[GPR_RSP] & r->cpu->stack_mask) + n * size, size);
}

void core_expect_fault(struct core *r, enum step s, unsigned vector, int error)
{
	const struct event *f = &r->cpu->fault;
	assert_int_equal(s, STEP_FAULT);
	if (f->vector != vector || (error >= 0 && f->error != (u32)error))
		print_error("vector %u error %x, expected %u %x\n", f->vector, f->error, vector, error);
	assert_int_equal(f->kind, EVENT_FAULT);
	assert_int_equal(f->vector, vector);
	assert_int_equal(f->has_error, error >= 0);
	if (error >= 0)
		assert_int_equal(f->error, error);
}
