/* All interrupt controllers of one VM and what lies between them: ISA/PCI lines, MSIs, IPIs.
 *
 *	device --irq_line--> 8259 pair --INTR--> LINT0 of every local APIC, IOAPIC pin 0
 *	                 \-> IOAPIC ----message--\
 *	device --MSI-----------------------------> destination matching --> local APICs --> cpu->pending + kick
 *	local APIC --ICR-------------------------/
 *
 * Locking: lines, 8259 and IOAPIC under bus->lock; messages need no lock (IRR and TMR are atomic, see lapic.h). */
#ifndef NB_IRQ_H
#define NB_IRQ_H

#include "bus/bus.h"
#include "cpu/intc.h"
#include "dev/dev.h"

#define IRQ_MAX_CPUS 64
#define IRQ_GSIS 24           /* 0-15 ISA, 16-23 PCI INTA-INTH */
#define IRQ_IOAPIC_BASE 0xfec00000u

struct lapic;
struct ioapic;
struct i8259;

/* SDM "Interrupt Command Register (ICR)", IOAPIC redirection table, MSI data: the same numbers everywhere. */
enum irq_mode { IRQ_FIXED, IRQ_LOWEST, IRQ_SMI, IRQ_REMOTE_READ, IRQ_NMI, IRQ_INIT, IRQ_SIPI, IRQ_EXTINT };

/* A message on what used to be the APIC bus. */
struct irq_msg {
	u32 dest;
	u8 vector;
	u8 mode;      /* enum irq_mode */
	bool logical; /* dest is a logical destination */
	bool level;   /* level-triggered: its EOI is broadcast to the IOAPIC */
	bool redirect;/* redirection hint: one of the matching processors, the lowest priority */
	bool wide;    /* dest is a 32-bit x2APIC destination, else 8 bits; all ones is broadcast in either */
};

#define IRQ_LINES_STATE(F, A) \
	A(u64, sources, IRQ_GSIS)  /* which of the devices on a line assert it */ \
	F(u32, lowest_next)        /* atomic: where the search for a lowest-priority target starts */ \
	F(u32, pad_)
STATE_STRUCT(irq_lines_regs, IRQ_LINES_STATE);
extern const struct state_desc irq_lines_regs_state;

struct irq_system {
	struct bus *bus;
	struct dev_list *devs;
	struct lapic *lapic[IRQ_MAX_CPUS]; /* by vCPU number = APIC ID; fixed before the vCPUs start */
	unsigned ncpus;
	struct ioapic *ioapic;
	struct i8259 *pic;
	u8 nsources[IRQ_GSIS];             /* devices wired to each line */
	/* Wake vCPU thread `cpu_index` if it sleeps: something was pended for it. Any thread. Filled in by vm/. */
	void (*kick)(void *vm, unsigned cpu_index);
	void *vm;
	struct irq_lines_regs regs;        /* bus->lock */
};

/* Makes 8259 pair and IOAPIC, registers them with devs, and takes bus->msi. Freed with the device list. */
struct irq_system *irq_system_create(struct bus *bus, struct dev_list *devs);
/* Makes the local APIC of c (APIC ID = c->index) and fills c->intc. Before the vCPUs start; c->clock must be set. */
void irq_system_add_cpu(struct irq_system *s, struct cpu *c);

/* A line for one more device. gsi 0-15: ISA IRQ n, wired to 8259 input n and IOAPIC pin n, but IRQ 0 to pin 2 (the machine's tables must say so);
 * 16-23: PCI, IOAPIC only. Level 1 means asserted whatever the electrical polarity, so the IOAPIC's polarity bit has no effect. Each call gives a
 * distinct source; the line is asserted while any source asserts it. */
struct irq_line irq_system_line(struct irq_system *s, unsigned gsi);

/* Message-signalled interrupt: DMA write of `data` to FEExxxxxh (SDM "Message Signalled Interrupts"). Any thread. */
void irq_system_msi(void *system, u64 address, u32 data);

/* Routes a message. skip: the sender of an all-but-self IPI, or NULL. Returns how many local APICs accepted it. Any thread. */
unsigned irq_system_deliver(struct irq_system *s, const struct irq_msg *m, const struct lapic *skip);

/* What firmware leaves behind and kernels booted without one expect: the 8259 reaches vCPU 0 (LINT0 = ExtINT, LINT1 = NMI). */
void irq_system_virtual_wire(struct irq_system *s);
/* The board's NMI button: a pulse on every LINT1. */
void irq_system_nmi(struct irq_system *s);

/* ---- between the chips of this folder ---- */
void irq_system_eoi(struct irq_system *s, u8 vector);            /* EOI broadcast from a local APIC; takes bus->lock */
void irq_system_pic_output(void *system, unsigned n, int level); /* the 8259's INTR pin changed */

#endif
