/* Exits that events cause: exceptions, triple faults, INIT, SIPI, and those that a walk or an access asked for. */
#include "vmx/priv.h"

/* SDM "Exceptions": the exception bitmap, for #PF combined with error-code mask and match. */
static bool exception_exits(const struct vmx *v, const struct event *ev)
{
	bool set = v->f[VF_EXCEPTION_BITMAP] >> (ev->vector & 31) & 1;

	if (ev->vector != VEC_PF)
		return set;
	return ((ev->error & v->f[VF_PF_ERROR_MASK]) == v->f[VF_PF_ERROR_MATCH]) == set;
}

static bool event_exits(const struct vmx *v, const struct event *ev)
{
	switch ((enum event_kind)ev->kind) {
	case EVENT_FAULT: case EVENT_TRAP: case EVENT_SOFT_EXC: case EVENT_ICEBP: return exception_exits(v, ev);
	case EVENT_NMI: return has(v, CTL_PIN_NMI);
	case EVENT_EXT_INT: return has(v, CTL_PIN_EXT_INTR);
	case EVENT_NONE: case EVENT_SOFT_INT: case EVENT_VIRT: break;
	}
	return false;
}

/* The IRET at rip ended NMI blocking and then failed. */
static bool iret_unblocked(const struct cpu *c)
{
	const struct vmx *v = vmx_of(c);
	return v->iret_unblocked && v->iret_rip == c->arch.rip && v->iret_icount == c->icount;
}

/* RF as delivery would push it: set by faults other than instruction breakpoints. */
static bool sets_rf(const struct event *ev)
{
	return ev->kind == EVENT_FAULT && (ev->vector != VEC_DB || (ev->payload & BIT(13)));
}

static u64 event_qualification(const struct event *ev)
{
	bool db = ev->vector == VEC_DB && ev->kind != EVENT_SOFT_EXC;
	return ev->vector == VEC_PF ? ev->payload : db ? ev->payload & 0x600f : 0; /* B0-B3, BD, BS */
}

bool vmx_event(struct cpu *c, const struct event *ev, const struct event *during)
{
	struct vmx *v = vmx_fresh(c);

	if (!event_exits(v, ev))
		return false;
	v->x.intr = vmx_event_info(ev);
	v->x.intr_error = ev->has_error ? ev->error : 0;
	bool soft = ev->kind == EVENT_SOFT_EXC || ev->kind == EVENT_ICEBP;
	/* SDM "Information for VM Exits During Event Delivery": a double fault is not during delivery of the first
	 * event. */
	if (ev->vector != VEC_DF)
		vmx_set_vectoring(c, during);
	if (!v->x.vectoring && ev->vector != VEC_DF && ev->kind == EVENT_FAULT && iret_unblocked(c))
		v->x.intr |= BIT(12);
	if (soft)
		v->x.len = ev->insn_len;
	v->x.rf = sets_rf(ev) && !v->x.vectoring ? RF_SET : RF_KEEP;
	if (ev->vector == VEC_DB && ev->kind != EVENT_ICEBP)
		c->arch.pending_dbg = 0;
	vmx_exit(c, EXIT_EXCEPTION_NMI, event_qualification(ev));
	return true;
}

void vmx_triple_fault(struct cpu *c)
{
	vmx_fresh(c);
	vmx_exit(c, EXIT_TRIPLE_FAULT, 0);
}

/* SDM "INIT signals" in non-root operation: blocked only in wait-for-SIPI. */
bool vmx_init_signal(struct cpu *c)
{
	vmx_fresh(c);
	if (c->arch.activity == ACT_WAIT_SIPI)
		return true;
	c->arch.init_pending = 0;
	vmx_exit(c, EXIT_INIT, 0);
	return true;
}

bool vmx_sipi(struct cpu *c, unsigned vector)
{
	vmx_fresh(c);
	if (c->arch.activity == ACT_WAIT_SIPI)
		vmx_exit(c, EXIT_SIPI, vector);
	return true;
}

/* ---- exits from within an access ---- */

void vmx_want_exit(struct cpu *c, u32 reason, u64 qualification)
{
	struct vmx *v = vmx_of(c);

	v->pend = (struct pending_exit){ .reason = reason, .qualification = qualification };
	c->fault = (struct event){ .kind = EVENT_VIRT };
}

/* Length of the instruction at rip: not required for EPT and APIC-access exits, but processors give it; KVM uses it for
 * misconfigurations. */
static unsigned insn_length(struct cpu *c)
{
	struct vmx *v = vmx_of(c);
	enum isa_mode mode = c->mode & MODE_L ? ISA_64 : c->mode & MODE_D ? ISA_32 : ISA_16;
	struct isa_insn in;
	u8 bytes[ISA_MAX_LEN];
	u64 fault_la, la = c->arch.rip + c->seg_base[SEG_CS];

	if (mode != ISA_64)
		la = (u32)la;
	unsigned n = mmu_fetch_bytes(c, la, bytes, sizeof(bytes), &fault_la);
	return n && isa_decode(&v->dec, mode, bytes, n, &in) == ISA_OK ? in.zi.length : 0;
}

static bool vectoring(const struct event *during) { return during && during->kind != EVENT_NONE; }

void vmx_take_exit(struct cpu *c, const struct event *during)
{
	struct vmx *v = vmx_fresh(c);
	struct pending_exit p = v->pend;
	u64 q = p.qualification;

	c->fault.kind = EVENT_NONE;
	if (p.restart) {
		c->alone = true;
		cpu_pend(c, PEND_STEP);
		return;
	}
	if (p.convertible && !vectoring(during) && vmx_make_ve(c, &p))
		return;
	if (!vectoring(during)) {
		v->x.len = insn_length(c);
		if ((p.reason == EXIT_EPT_VIOLATION || p.reason == EXIT_PML_FULL) && iret_unblocked(c))
			q |= BIT(12);
		v->x.rf = RF_SET;
	}
	c->fault.kind = EVENT_NONE;
	vmx_set_vectoring(c, during);
	v->x.linear = p.linear;
	v->x.physical = p.physical;
	v->x.has_linear = p.has_linear;
	v->x.has_physical = p.has_physical;
	vmx_exit(c, p.reason, q);
}
