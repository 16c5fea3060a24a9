/* EPT: the walk, its violations and misconfigurations, accessed and dirty flags, page-modification logging, #VE
 * (SDM "The Extended Page Table Mechanism (EPT)"). Nothing is cached here: the MMU caches translations. */
#include "vmx/priv.h"

#define EPT_R BIT(0)
#define EPT_W BIT(1)
#define EPT_X BIT(2)     /* supervisor execute, or all execute without mode-based execute control */
#define EPT_LEAF BIT(7)
#define EPT_A BIT(8)
#define EPT_D BIT(9)
#define EPT_XU BIT(10)
#define EPT_SUPPRESS_VE BIT(63)

#define ADDR_BITS 0x000ffffffffff000ull

struct ept_step {
	u64 *host;     /* NULL: not RAM */
	u64 value;
	i64 frame;
};

struct ept_walk {
	struct ept_step step[4];
	unsigned n;      /* steps taken */
	unsigned level;  /* of the last one: 0 page table .. 3 PML4 */
	u64 rights;      /* AND over all steps */
	enum { EPT_OK, EPT_VIOLATION, EPT_MISCONFIG } end;
};

u64 vmx_npt_tag(const struct vmx *v, u64 eptp)
{
	/* Root, and what changes the meaning of its entries. Bit 0 keeps the tag of root 0 from being "none". */
	return (eptp & ADDR_BITS) | (eptp & BIT(6)) | (v->mbec ? BIT(1) : 0) | BIT(0);
}

void vmx_flush_eptp(struct cpu *c, u64 eptp)
{
	for (unsigned n = 0; n < 4; n++)
		mmu_flush_npt(c, (eptp & ADDR_BITS) | (n & 1 ? BIT(6) : 0) | (n & 2 ? BIT(1) : 0) | BIT(0));
}

/* SDM "VM-Execution Control Fields", the checks on EPTP. */
bool vmx_eptp_ok(const struct vmx *v, u64 eptp)
{
	u64 type = eptp & 7;
	return (type == 0 || type == 6) && bits(eptp, 5, 3) == 3 && !(eptp & (0xf80 | v->phys_mask));
}

/* SDM "EPT Misconfigurations". */
static bool misconfigured(const struct vmx *v, u64 e, unsigned level)
{
	bool leaf = level == 0 || (level < 3 && (e & EPT_LEAF));
	u64 reserved = v->phys_mask & 0x000fffffffffffffull;

	if ((e & (EPT_R | EPT_W)) == EPT_W)
		return true;
	if (!leaf)
		reserved |= level == 3 ? 0xf8 : 0x78;
	else if (level)
		reserved |= level == 2 ? 0x3ffff000 : 0x1ff000;
	if (e & reserved)
		return true;
	unsigned type = bits(e, 5, 3);
	return leaf && (type == 2 || type == 3 || type == 7);
}

static void read_step(struct cpu *c, u64 at, struct ept_step *s)
{
	s->host = mem_ptr(c->mem, gpa(at), 8);
	s->frame = s->host ? mem_frame(c->mem, gpa(at)) : -1;
	s->value = s->host ? __atomic_load_n(s->host, __ATOMIC_RELAXED) : ~(u64)0;
}

static void walk(struct cpu *c, u64 at, struct ept_walk *w)
{
	const struct vmx *v = vmx_of(c);
	u64 present = EPT_R | EPT_W | EPT_X | (v->mbec ? EPT_XU : 0);
	u64 table = v->f[VF_EPTP] & ADDR_BITS;

	w->n = 0;
	w->rights = present;
	w->end = EPT_VIOLATION;
	if (at >> 48) { /* beyond what four levels translate */
		w->rights = 0;
		w->level = 3;
		return;
	}
	for (unsigned level = 3;; level--) {
		struct ept_step *s = &w->step[w->n++];
		w->level = level;
		read_step(c, table + bits(at, 12 + 9 * level + 8, 12 + 9 * level) * 8, s);
		w->rights &= s->value;
		if (!(s->value & present))
			return;
		if (misconfigured(v, s->value, level)) {
			w->end = EPT_MISCONFIG;
			return;
		}
		if (!level || (level < 3 && (s->value & EPT_LEAF)))
			break;
		table = s->value & ADDR_BITS;
	}
	w->end = EPT_OK;
}

/* The rights that an access needs. With A/D flags, accesses to guest paging structures count as writes (SDM "Accessed
 * and Dirty Flags for EPT"). */
static u64 needed(const struct vmx *v, u32 acc, enum npt_use use)
{
	u64 need = (acc & ACC_R ? EPT_R : 0) | (acc & ACC_W ? EPT_W : 0);

	if (use == NPT_GUEST_PT && v->ept_ad && !(acc & ACC_PROBE))
		need |= EPT_R | EPT_W;
	if (acc & ACC_X)
		need |= v->mbec && (acc & ACC_UPAGE) ? EPT_XU : EPT_X;
	return need;
}

static bool exit_wanted(struct cpu *c, u32 reason, u64 q, u64 at, bool la_valid, u64 la)
{
	struct vmx *v = vmx_of(c);

	vmx_want_exit(c, reason, q);
	v->pend.physical = at;
	v->pend.has_physical = reason != EXIT_PML_FULL;
	v->pend.linear = la;
	v->pend.has_linear = la_valid && reason == EXIT_EPT_VIOLATION;
	return false;
}

/* SDM "Exit Qualification for EPT Violations". Bit 12 is added when the exit is taken. */
static bool violation(struct cpu *c, u64 at, const struct ept_walk *w, u64 need, enum npt_use use, bool la_valid,
		      u64 la)
{
	struct vmx *v = vmx_of(c);
	u64 q = (need & (EPT_R | EPT_W)) | (need & (EPT_X | EPT_XU) ? BIT(2) : 0) | (w->rights & 7) << 3;

	if (v->mbec && (w->rights & EPT_XU))
		q |= BIT(6);
	if (la_valid)
		q |= BIT(7) | (use == NPT_DATA ? BIT(8) : 0);
	exit_wanted(c, EXIT_EPT_VIOLATION, q, at, la_valid, la);
	v->pend.convertible =
		has(v, CTL_PROC2_EPT_VE) && (c->arch.cr0 & CR0_PE) && w->n && !(w->step[w->n - 1].value & EPT_SUPPRESS_VE);
	return false;
}

/* SDM "Page-Modification Logging". */
static void log_dirty(struct cpu *c, u64 at)
{
	struct vmx *v = vmx_of(c);
	u64 index = v->f[VF_PML_INDEX];

	cpu_phys_write(c, v->f[VF_PML_ADDRESS] + index * 8, 8, at & PAGE_MASK);
	vmcs_put(c, VF_PML_INDEX, (index - 1) & 0xffff);
}

static bool set_bits(struct cpu *c, struct ept_step *s, u64 want)
{
	u64 now = s->value;

	if (s->frame >= 0)
		mem_will_write(c->mem, s->frame);
	if (!__atomic_compare_exchange_n(s->host, &now, now | want, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return false;
	s->value = now | want;
	vmx_page_written(c, s->frame, (uintptr_t)s->host & 0xfff, 8);
	return true;
}

enum flag_end { FLAGS_OK, FLAGS_AGAIN, FLAGS_EXIT };

/* Accessed in every entry used, dirty in the last for a write. */
static enum flag_end set_flags(struct cpu *c, u64 at, struct ept_walk *w, bool write)
{
	const struct vmx *v = vmx_of(c);

	for (unsigned n = 0; n < w->n; n++) {
		struct ept_step *s = &w->step[n];
		u64 want = (EPT_A | (write && n + 1 == w->n ? EPT_D : 0)) & ~s->value;
		if (likely(!want) || !s->host)
			continue;
		if (has(v, CTL_PROC2_PML) && v->f[VF_PML_INDEX] > 511) {
			exit_wanted(c, EXIT_PML_FULL, 0, at, false, 0);
			return FLAGS_EXIT;
		}
		if (!set_bits(c, s, want))
			return FLAGS_AGAIN;
		if ((want & EPT_D) && has(v, CTL_PROC2_PML))
			log_dirty(c, at);
	}
	return FLAGS_OK;
}

static void fill_page(const struct vmx *v, const struct ept_walk *w, u64 at, struct npt_page *out)
{
	const struct ept_step *leaf = &w->step[w->n - 1];
	u64 size = PAGE_SIZE << (9 * w->level);

	out->gpa = (leaf->value & ADDR_BITS & ~(size - 1)) | (at & (size - 1));
	out->size = size;
	out->r = w->rights & EPT_R;
	out->w = w->rights & EPT_W;
	out->x = w->rights & EPT_X;
	out->xu = v->mbec ? !!(w->rights & EPT_XU) : out->x;
	out->dirty_ok = !v->ept_ad || (leaf->value & EPT_D) || !leaf->host;
	out->accessed_ok = true;
	for (unsigned n = 0; v->ept_ad && n < w->n; n++)
		out->accessed_ok &= !!(w->step[n].value & EPT_A);
}

bool vmx_npt_walk(struct cpu *c, l2gpa_t l2, u32 acc, enum npt_use use, bool la_valid, gva_t la, struct npt_page *out)
{
	struct vmx *v = vmx_fresh(c);
	u64 need = needed(v, acc, use), at = l2.v;
	struct ept_walk w;
	enum flag_end end = FLAGS_OK;

	do {
		walk(c, at, &w);
		if (w.end == EPT_OK && (w.rights & need) == need && v->ept_ad && !(acc & ACC_PROBE))
			end = set_flags(c, at, &w, need & EPT_W);
	} while (end == FLAGS_AGAIN);
	if (end == FLAGS_EXIT)
		return false;
	if (w.end == EPT_MISCONFIG)
		return exit_wanted(c, EXIT_EPT_MISCONFIG, 0, at, false, 0);
	if (w.end == EPT_VIOLATION || (w.rights & need) != need)
		return violation(c, at, &w, need, use, la_valid, la.v);
	fill_page(v, &w, at, out);
	return true;
}

/* SDM "Virtualization Exceptions": fill the information area and deliver vector 20. */
bool vmx_make_ve(struct cpu *c, const struct pending_exit *p)
{
	struct vmx *v = vmx_of(c);
	u64 area = v->f[VF_VE_INFO_ADDR];

	if (cpu_phys_read(c, area + 4, 4))
		return false;
	cpu_phys_write(c, area, 4, EXIT_EPT_VIOLATION);
	cpu_phys_write(c, area + 4, 4, 0xffffffff);
	cpu_phys_write(c, area + 8, 8, p->qualification);
	cpu_phys_write(c, area + 16, 8, p->linear);
	cpu_phys_write(c, area + 24, 8, p->physical);
	cpu_phys_write(c, area + 32, 2, v->f[VF_EPTP_INDEX]);
	cpu_fault(c, VEC_VE);
	cpu_take_fault(c);
	return true;
}
