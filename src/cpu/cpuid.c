/* The CPUID instruction: the model's table plus what depends on the vCPU or on control registers (SDM CPUID). */
#include "cpu/model.h"

static unsigned apic_id(const struct cpu *c)
{
	return c->intc ? c->intc->apic_id(c->intc_state) : c->index;
}

static unsigned ceil_log2(unsigned n)
{
	unsigned s = 0;
	while ((1u << s) < n)
		s++;
	return s;
}

/* Leaves 0Bh and 1Fh: every vCPU is a core with one thread, all in one package. EDX is valid for every subleaf. */
static void topology(const struct cpu *c, u32 sub, u32 r[4])
{
	unsigned n = c->model->ncpus;
	r[ECX] = sub & 0xff;
	r[EDX] = apic_id(c);
	if (sub == 0) {
		r[EBX] = 1;
		r[ECX] |= 1u << 8; /* SMT */
	} else if (sub == 1) {
		r[EAX] = ceil_log2(n);
		r[EBX] = n;
		r[ECX] |= 2u << 8; /* core */
	}
}

static void set_bit(u32 *r, unsigned n, bool on)
{
	*r = on ? *r | 1u << n : *r & ~(1u << n);
}

static void clear_unless(u32 *r, unsigned n, bool on)
{
	if (!on)
		set_bit(r, n, false);
}

static void leaf1(struct cpu *c, u32 r[4])
{
	unsigned n = c->model->ncpus;
	r[EBX] |= n > 1 ? (n & 0xff) << 16 : 1u << 16;
	r[EBX] |= (apic_id(c) & 0xff) << 24;
	clear_unless(&r[EDX], 9, c->arch.apic_base & BIT(11));
	set_bit(&r[EDX], 28, n > 1);
	set_bit(&r[ECX], 27, c->arch.cr4 & CR4_OSXSAVE);
	c->arch.bios_sign_id = model_microcode(c->model); /* SDM "Microcode Update Facilities": CPUID(1) loads the revision */
}

/* Out of range: the data of the highest basic leaf. */
static u32 effective_leaf(u32 leaf)
{
	if (leaf <= CPUID_MAX_BASIC || (leaf >= 0x80000000 && leaf <= CPUID_MAX_EXT))
		return leaf;
	return CPUID_MAX_BASIC;
}

void cpu_cpuid(struct cpu *c, u32 leaf, u32 subleaf, u32 r[4])
{
	const struct cpu_model *m = c->model;
	leaf = effective_leaf(leaf);
	memset(r, 0, 4 * sizeof r[0]);
	for (unsigned i = 0; i < m->nrows; i++)
		if (m->rows[i].leaf == leaf && (m->rows[i].sub == subleaf || m->rows[i].sub == CPUID_ANY_SUB))
			memcpy(r, m->rows[i].r, 4 * sizeof r[0]);
	switch (leaf) {
	case 1:
		leaf1(c, r);
		break;
	case 7:
		if (subleaf == 0)
			set_bit(&r[ECX], 4, c->arch.cr4 & CR4_PKE);
		break;
	case 0xb:
	case 0x1f:
		topology(c, subleaf, r);
		break;
	case 0xd:
		if (subleaf == 0 && m->has[FEAT_XSAVE])
			r[EBX] = cpu_xsave_size(c->arch.xcr0, 0, false);
		else if (subleaf == 1 && m->has[FEAT_XSAVE])
			r[EBX] = cpu_xsave_size(c->arch.xcr0, c->arch.xss, true);
		break;
	case 0x80000001:
		clear_unless(&r[EDX], 11, c->mode & MODE_L); /* Intel shows SYSCALL in 64-bit mode only */
		break;
	}
}
