#include "cpu/debugger.h"
#include "mmu_rig.h"

#include <stdlib.h>

unsigned rig_maxphyaddr = 39;
static struct rig *current;

/* ---- the CPU core's part ---- */
enum step cpu_fault(struct cpu *c, unsigned vector)
{
	c->fault = (struct event){ .kind = EVENT_FAULT, .vector = vector };
	return STEP_FAULT;
}
enum step cpu_fault_err(struct cpu *c, unsigned vector, u32 error)
{
	c->fault = (struct event){ .kind = EVENT_FAULT, .vector = vector, .has_error = 1, .error = error };
	return STEP_FAULT;
}
unsigned cpu_maxphyaddr(const struct cpu *c) { return rig_maxphyaddr; }
bool cpu_has(const struct cpu *c, enum cpu_feature f) { return true; }
void cpu_debug_access(struct cpu *c, u64 la, unsigned len, bool write) { }
void cpu_debug_data(struct cpu *c, u64 la, unsigned size, bool write)
{
	current->debug_la = la;
	current->debug_size = size;
	current->debug_write = write;
	current->debug_calls++;
}

/* ---- device ---- */
static u64 io_read(void *vm, u64 at, unsigned size)
{
	struct rig *r = vm;
	r->io_at = at;
	r->io_size = size;
	r->io_was_write = false;
	r->io_reads++;
	return 0x1122334455667788ull & low_mask(8 * size);
}

static void io_write(void *vm, u64 at, u64 value, unsigned size)
{
	struct rig *r = vm;
	r->io_at = at;
	r->io_size = size;
	r->io_value = value;
	r->io_was_write = true;
	r->io_writes++;
}

void rig_open(struct rig *r, enum rig_mode mode)
{
	memset(r, 0, sizeof *r);
	current = r;
	rig_maxphyaddr = 39;
	assert_int_equal(mem_init(&r->mem, RIG_RAM + 64 * KiB), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(0), RIG_RAM, MEM_RAM, "ram"), 0);
	assert_int_equal(mem_add_slot(&r->mem, gpa(RIG_ROM), 64 * KiB, MEM_ROM, "rom"), 0);
	r->io = (struct cpu_io){ .mmio_read = io_read, .mmio_write = io_write, .vm = r };
	struct cpu *c = r->cpu = aligned_alloc(64, align_up(sizeof *c, 64));
	memset(c, 0, sizeof *c);
	c->mem = &r->mem;
	c->io = &r->io;
	assert_int_equal(mmu_create(c), 0);
	r->next_table = RIG_TABLES + PAGE_SIZE;
	c->arch.cr3 = RIG_TABLES;
	c->arch.cr0 = CR0_PE | CR0_WP | (mode == RIG_REAL ? 0 : CR0_PG);
	c->arch.cr4 = CR4_PSE | CR4_PGE | (mode >= RIG_PAE ? CR4_PAE : 0);
	c->arch.efer = (mode >= RIG_PAE ? EFER_NXE : 0) | (mode == RIG_64 ? EFER_LMA | EFER_LME : 0);
	c->mode = mode == RIG_64 ? MODE_L | MODE_PE : MODE_PE;
	c->lma = mode == RIG_64;
	c->paging = mode != RIG_REAL;
	rig_update(r);
}

void rig_close(struct rig *r)
{
	mmu_destroy(r->cpu);
	free(r->cpu);
	mem_free(&r->mem);
}

void rig_update(struct rig *r)
{
	r->cpu->acc_class = mmu_access_class(r->cpu);
	mmu_switch(r->cpu);
}

void rig_user(struct rig *r, bool user)
{
	r->cpu->arch.cpl = user ? 3 : 0;
	rig_update(r);
}

u64 rig_get(struct rig *r, u64 at) { return mem_read_le(&r->mem, gpa(at), 8); }
void rig_set(struct rig *r, u64 at, u64 v) { mem_write_le(&r->mem, gpa(at), v, 8); }

u64 rig_entry(struct rig *r, u64 la, unsigned level)
{
	u64 table = r->cpu->arch.cr3 & 0x000ffffffffff000ull;
	for (unsigned l = 3;; l--) {
		u64 at = table + 8 * (la >> (12 + 9 * l) & 511);
		if (l == level)
			return at;
		table = rig_get(r, at) & 0x000ffffffffff000ull;
	}
}

u64 rig_map(struct rig *r, u64 la, u64 pa, u64 flags, unsigned shift)
{
	unsigned leaf = (shift - 12) / 9;
	for (unsigned l = 3; l > leaf; l--) {
		u64 at = rig_entry(r, la, l);
		if (rig_get(r, at) & P)
			continue;
		rig_set(r, at, r->next_table | P | W | U);
		r->next_table += PAGE_SIZE;
	}
	u64 at = rig_entry(r, la, leaf);
	rig_set(r, at, pa | flags | (leaf ? PS : 0));
	return at;
}

bool rig_access(struct rig *r, u64 la, u32 acc)
{
	u64 v = 0x5a;
	memset(&r->cpu->fault, 0, sizeof r->cpu->fault);
	if (acc & ACC_X)
		return mmu_fetch(r->cpu, la);
	if (acc & ACC_SYS)
		return acc & ACC_W ? mmu_write_sys(r->cpu, la, 1, v) : mmu_read_sys(r->cpu, la, 1, &v);
	return acc & ACC_W ? mmu_write(r->cpu, la, 1, v) : mmu_read(r->cpu, la, 1, &v);
}

void rig_expect_ok(struct rig *r, u64 la, u32 acc)
{
	bool ok = rig_access(r, la, acc);
	if (!ok)
		print_error("vector %u error %x\n", r->cpu->fault.vector, r->cpu->fault.error);
	assert_true(ok);
}

void rig_expect_vector(struct rig *r, unsigned vector)
{
	assert_int_equal(r->cpu->fault.kind, EVENT_FAULT);
	assert_int_equal(r->cpu->fault.vector, vector);
}

void rig_expect_pf(struct rig *r, u64 la, u32 acc, u32 error)
{
	assert_false(rig_access(r, la, acc));
	rig_expect_vector(r, VEC_PF);
	assert_int_equal(r->cpu->fault.has_error, 1);
	assert_int_equal(r->cpu->fault.payload, la);
	if (r->cpu->fault.error != error)
		print_error("la %lx acc %x: error code %x, expected %x\n", la, acc, r->cpu->fault.error, error);
	assert_int_equal(r->cpu->fault.error, error);
}
