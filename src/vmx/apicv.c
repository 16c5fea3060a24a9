/* APIC virtualization and virtual interrupts (SDM chapter of that title). The virtual-APIC page is guest RAM that L1
 * may write at any time: registers are read once, 32 bits at a time. */
#include "vmx/priv.h"

#define VTPR 0x80
#define VPPR 0xa0
#define VEOI 0xb0
#define VISR 0x100
#define VIRR 0x200
#define VICR_LO 0x300
#define VICR_HI 0x310

static u32 reg(const struct vmx *v, unsigned off)
{
	return __atomic_load_n((const u32 *)(v->vapic + off), __ATOMIC_RELAXED);
}

static void set_reg(struct cpu *c, unsigned off, u32 value)
{
	struct vmx *v = vmx_of(c);
	__atomic_store_n((u32 *)(v->vapic + off), value, __ATOMIC_RELAXED);
	vmx_page_written(c, v->vapic_frame, off, 4);
}

static void set_bit_of(struct cpu *c, unsigned base, unsigned vector, bool on)
{
	struct vmx *v = vmx_of(c);
	u32 *word = (u32 *)(v->vapic + base + (vector >> 5) * 16), mask = 1u << (vector & 31);

	if (on)
		__atomic_fetch_or(word, mask, __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(word, ~mask, __ATOMIC_SEQ_CST);
	vmx_page_written(c, v->vapic_frame, base + (vector >> 5) * 16, 4);
}

/* Highest vector set in a 256-bit register, 0 when none. */
static unsigned highest(const struct vmx *v, unsigned base)
{
	for (int n = 7; n >= 0; n--) {
		u32 word = reg(v, base + n * 16);
		if (word)
			return n * 32 + 31 - __builtin_clz(word);
	}
	return 0;
}

static u8 rvi(const struct vmx *v) { return (u8)v->f[VF_GUEST_INTR_STATUS]; }
static u8 svi(const struct vmx *v) { return (u8)(v->f[VF_GUEST_INTR_STATUS] >> 8); }
static void set_status(struct cpu *c, u8 r, u8 s) { vmcs_put(c, VF_GUEST_INTR_STATUS, r | (u64)s << 8); }

/* ---- TPR, PPR, EOI, self-IPI ---- */

/* SDM "Evaluation of Pending Virtual Interrupts". */
static void evaluate(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	v->s.virt_intr = !has(v, CTL_PROC_INTR_WINDOW) && (rvi(v) >> 4) > (reg(v, VPPR) >> 4 & 15);
	if (v->s.virt_intr)
		cpu_pend(c, PEND_VIRT);
}

/* SDM "PPR Virtualization". */
static void update_ppr(struct cpu *c)
{
	const struct vmx *v = vmx_of(c);
	u32 tpr = reg(v, VTPR) & 0xff;
	set_reg(c, VPPR, tpr >> 4 >= svi(v) >> 4 ? tpr : svi(v) & 0xf0);
}

/* SDM "TPR Virtualization". */
static void tpr_written(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	if (has(v, CTL_PROC2_VIRT_INTR)) {
		update_ppr(c);
		evaluate(c);
	} else if ((reg(v, VTPR) >> 4 & 15) < (v->f[VF_TPR_THRESHOLD] & 15)) {
		v->s.tpr_below = 1;
		cpu_pend(c, PEND_VIRT);
	}
}

/* SDM "EOI Virtualization". */
static void eoi_written(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	u8 vector = svi(v);

	set_bit_of(c, VISR, vector, false);
	set_status(c, rvi(v), highest(v, VISR));
	update_ppr(c);
	if (v->f[VF_EOI_EXIT_BITMAP0 + (vector >> 6)] >> (vector & 63) & 1) {
		v->s.eoi_exit = 1;
		v->s.eoi_vector = vector;
		cpu_pend(c, PEND_VIRT);
	} else {
		evaluate(c);
	}
}

/* SDM "Self-IPI Virtualization". */
static void self_ipi(struct cpu *c, u8 vector)
{
	struct vmx *v = vmx_of(c);

	set_bit_of(c, VIRR, vector, true);
	set_status(c, vector > rvi(v) ? vector : rvi(v), svi(v));
	evaluate(c);
}

/* SDM "Virtual-Interrupt Delivery". */
void vmx_virt_intr_deliver(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	u8 vector = rvi(v);

	set_bit_of(c, VISR, vector, true);
	set_bit_of(c, VIRR, vector, false);
	set_reg(c, VPPR, vector & 0xf0);
	set_status(c, highest(v, VIRR), vector);
	v->s.virt_intr = 0;
	c->arch.activity = ACT_ACTIVE;
	cpu_deliver(c, (struct event){ .kind = EVENT_EXT_INT, .vector = vector });
}

/* SDM "Posted-Interrupt Processing", from clearing ON; the notification was acknowledged and EOIed. Descriptor: PIR in
 * bytes 0-31, ON is bit 256. */
void vmx_posted_intr(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	u64 at = v->f[VF_POSTED_INTR_DESC];
	u64 *desc = mem_ptr(c->mem, gpa(at), 64);
	unsigned top = 0;

	if (!desc)
		return;
	mem_will_write(c->mem, mem_frame(c->mem, gpa(at)));
	__atomic_fetch_and(&desc[4], ~(u64)1, __ATOMIC_SEQ_CST);
	for (unsigned n = 0; n < 4; n++) {
		u64 pir = __atomic_exchange_n(&desc[n], 0, __ATOMIC_SEQ_CST);
		for (u64 m = pir; m; m &= m - 1) {
			top = n * 64 + __builtin_ctzll(m);
			set_bit_of(c, VIRR, top, true);
		}
	}
	mem_note_write(c->mem, mem_frame(c->mem, gpa(at)), at & 0xfff, 64);
	set_status(c, top > rvi(v) ? top : rvi(v), svi(v));
	evaluate(c);
}

/* SDM "VMX-Preemption Timer" .. "TPR Threshold" and "Virtual-Interrupt Delivery" among VM entry's steps. */
hot_path void vmx_apic_entry(struct cpu *c)
{
	struct vmx *v = vmx_of(c);

	if (has(v, CTL_PROC2_VIRT_INTR)) {
		update_ppr(c);
		evaluate(c);
	} else if (has(v, CTL_PROC2_APIC_ACCESSES) && (reg(v, VTPR) >> 4 & 15) < (v->f[VF_TPR_THRESHOLD] & 15)) {
		v->s.tpr_below = 1;
	}
}

/* ---- the APIC-access page ---- */

u64 vmx_apic_access_page(const struct cpu *c)
{
	const struct vmx *v = vmx_of(c);
	return has(v, CTL_PROC2_APIC_ACCESSES) ? v->f[VF_APIC_ACCESS_ADDR] : ~(u64)0;
}

/* Registers (offset >> 4) that APIC-register virtualization reads and writes: SDM "Virtualizing Reads from the
 * APIC-Access Page", "... Writes ...". */
#define REG_BIT(off) ((u64)1 << ((off) >> 4))
#define REG_RANGE(lo, hi) ((~(u64)0 << ((lo) >> 4)) & (~(u64)0 >> (63 - ((hi) >> 4))))
#define REGS_WRITE \
	(REG_BIT(0x20) | REG_BIT(0x80) | REG_BIT(0xb0) | REG_BIT(0xd0) | REG_BIT(0xe0) | REG_BIT(0xf0) | \
	 REG_BIT(0x280) | REG_BIT(0x300) | REG_BIT(0x310) | REG_RANGE(0x320, 0x370) | REG_BIT(0x380) | REG_BIT(0x3e0))
#define REGS_READ (REGS_WRITE | REG_BIT(0x30) | REG_RANGE(0x100, 0x270))

static bool is_virtualized(const struct vmx *v, u32 off, bool write)
{
	u64 regs;

	if (!has(v, CTL_PROC_TPR_SHADOW) || off >= 0x400)
		return false;
	if (has(v, CTL_PROC2_APIC_REGISTERS))
		regs = write ? REGS_WRITE : REGS_READ;
	else
		regs = REG_BIT(VTPR) | (write && has(v, CTL_PROC2_VIRT_INTR) ? REG_BIT(VEOI) | REG_BIT(VICR_LO) : 0);
	return regs >> (off >> 4) & 1;
}

/* SDM "Exit Qualification for APIC-Access VM Exits": 0 read, 1 write, 2 fetch, 3 during event delivery. */
static bool apic_exit(struct cpu *c, u32 off, bool write, bool fetch)
{
	u64 type = c->delivering.kind != EVENT_NONE ? 3 : fetch ? 2 : write;
	vmx_want_exit(c, EXIT_APIC_ACCESS, (off & 0xfff) | type << 12);
	return false;
}

/* The emulation of a write comes after the whole instruction: run it again alone, then look at the next boundary. */
static bool restart_alone(struct cpu *c)
{
	if ((c->mode & MODE_ONE) || c->delivering.kind != EVENT_NONE)
		return false;
	vmx_want_exit(c, 0, 0);
	vmx_of(c)->pend.restart = true;
	return true;
}

bool vmx_virtual_apic(struct cpu *c, u32 off, unsigned size, bool write, bool fetch, u64 *value, gva_t la)
{
	struct vmx *v = vmx_fresh(c);

	/* Within the low four bytes of a 16-byte register. */
	if (fetch || size > 4 || (off & 15) + size > 4 || !is_virtualized(v, off, write))
		return apic_exit(c, off, write, fetch);
	if (!write) {
		*value = load_le(v->vapic + off, size);
		return true;
	}
	if (restart_alone(c))
		return false;
	store_le(v->vapic + off, *value, size);
	vmx_page_written(c, v->vapic_frame, off, size);
	v->s.apic_write = 1;
	v->s.apic_off = off & 0xff0;
	cpu_pend(c, PEND_VIRT);
	return true;
}

/* A fixed, edge-triggered IPI to self with a vector from 16 up. */
static bool is_self_ipi(u32 icr) { return (icr & 0xfff3b700u) == 0 && bits(icr, 19, 18) == 1 && (icr & 0xf0); }

/* SDM "APIC-Write Emulation". */
void vmx_apic_emulate_write(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	bool delivery = has(v, CTL_PROC2_VIRT_INTR);

	v->s.apic_write = 0;
	switch (v->s.apic_off) {
	case VTPR:
		set_reg(c, VTPR, reg(v, VTPR) & 0xff);
		tpr_written(c);
		return;
	case VEOI:
		if (!delivery)
			break;
		set_reg(c, VEOI, 0);
		eoi_written(c);
		return;
	case VICR_LO:
		if (!delivery || !is_self_ipi(reg(v, VICR_LO)))
			break;
		self_ipi(c, reg(v, VICR_LO));
		return;
	case VICR_HI:
		set_reg(c, VICR_HI, reg(v, VICR_HI) & 0xff000000);
		return;
	}
	v->s.apic_exit = 1;
}

/* ---- CR8 and x2APIC MSRs ---- */

bool vmx_cr8(struct cpu *c, bool write, u64 *value)
{
	struct vmx *v = vmx_fresh(c);

	if (!has(v, CTL_PROC_TPR_SHADOW))
		return false;
	if (!write) {
		*value = reg(v, VTPR) >> 4 & 15;
		return true;
	}
	set_reg(c, VTPR, (*value & 15) << 4);
	tpr_written(c);
	return true;
}

static bool x2apic_read(struct vmx *v, u32 msr, u64 *value)
{
	unsigned off = (msr & 0xff) << 4;

	if (off != VTPR && !has(v, CTL_PROC2_APIC_REGISTERS))
		return false;
	*value = load_le(v->vapic + off, 8);
	return true;
}

static bool x2apic_write(struct cpu *c, u32 msr, u64 value, bool *ok)
{
	struct vmx *v = vmx_of(c);
	unsigned off = (msr & 0xff) << 4;
	bool delivery = has(v, CTL_PROC2_VIRT_INTR);

	if (off != VTPR && !(delivery && (msr == 0x80b || msr == 0x83f)))
		return false;
	*ok = !(value >> (msr == 0x80b ? 0 : 8));
	if (!*ok)
		return true;
	set_reg(c, off, value);
	if (off == VTPR) {
		tpr_written(c);
	} else if (msr == 0x80b) {
		eoi_written(c);
	} else if (value >> 4) {
		self_ipi(c, value);
	} else { /* vectors below 16: an APIC-write exit */
		v->s.apic_exit = 1;
		v->s.apic_off = off;
		cpu_pend(c, PEND_VIRT);
	}
	return true;
}

/* SDM "Virtualizing MSR-Based APIC Accesses". */
bool vmx_x2apic(struct cpu *c, u32 msr, bool write, u64 *value, bool *ok)
{
	struct vmx *v = vmx_fresh(c);

	if (!has(v, CTL_PROC2_X2APIC) || msr >> 8 != 8)
		return false;
	*ok = true;
	return write ? x2apic_write(c, msr, *value, ok) : x2apic_read(v, msr, value);
}
