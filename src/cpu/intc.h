/* What irq/ (the local APIC) gives to the CPU core. All calls come from the vCPU's own thread unless marked. */
#ifndef NB_INTC_H
#define NB_INTC_H

#include "cpu/cpu.h"

/* Whatever makes something deliverable (IRR set, TPR lowered, EOI, software enable) must cpu_pend(PEND_INTR): the core asks pending() only then. */
struct intc_ops {
	/* Highest deliverable vector, or -1. Honours TPR/PPR, and ExtINT from the 8259 through LINT0. Does not change state. */
	int (*pending)(void *intc);
	/* Acknowledge what pending() would give now (it may have changed): IRR -> ISR, or INTA to the 8259. Returns the vector, or -1 if nothing is left. */
	int (*acknowledge)(void *intc);
	u8 (*tpr)(void *intc);            /* 8-bit TPR */
	void (*set_tpr)(void *intc, u8 tpr);
	/* IA32_APIC_BASE is kept in cpu->arch.apic_base; validity is checked by irq/. False: #GP. */
	bool (*set_base)(void *intc, u64 value);
	/* x2APIC MSRs 800h-8FFh. False: #GP. */
	bool (*msr_read)(void *intc, u32 msr, u64 *value);
	bool (*msr_write)(void *intc, u32 msr, u64 value);
	/* xAPIC page, off 0-FFFh. */
	u64 (*mmio_read)(void *intc, u32 off, unsigned size);
	void (*mmio_write)(void *intc, u32 off, u64 value, unsigned size);
	u64 (*deadline)(void *intc);      /* IA32_TSC_DEADLINE */
	void (*set_deadline)(void *intc, u64 tsc);
	/* Called on INIT and RESET. */
	void (*init)(void *intc, bool reset);
	/* Posted-interrupt processing found vector `v` as notification vector: EOI it (VMX "Posted-Interrupt Processing"). */
	void (*eoi)(void *intc);
	u32 (*apic_id)(void *intc);
};

#endif
