/* Interrupt controllers and timers of one machine without CPUs that execute: the tests move V and play the CPUs. */
#ifndef NB_TEST_RIG_H
#define NB_TEST_RIG_H

#include "bus/bus.h"
#include "cpu/cpu.h"
#include "cpu/intc.h"
#include "dev/dev.h"
#include "dev/hpet.h"
#include "dev/i8254.h"
#include "dev/mc146818.h"
#include "irq/i8259.h"
#include "irq/ioapic.h"
#include "irq/irq.h"
#include "irq/lapic.h"

#define RIG_CPUS 4
#define MS 1000000ull

struct rig {
	struct clock clock;
	struct bus bus;
	struct dev_list devs;
	struct irq_system *irq;
	struct cpu *cpu[RIG_CPUS];
	struct hpet *hpet;
	struct i8254 *pit;
	struct mc146818 *rtc;
	u64 kicks[RIG_CPUS];
};

extern u64 rig_host_ns; /* what the clock takes for the host's time */

struct rig *rig_create(void);
void rig_free(struct rig *r);
/* Moves V by ns, firing every timer on its way as running vCPUs would. */
void rig_run(struct rig *r, u64 ns);

static inline u8 in8(struct rig *r, u16 port) { return (u8)bus_port_read(&r->bus, port, 1); }
static inline void out8(struct rig *r, u16 port, u8 v) { bus_port_write(&r->bus, port, v, 1); }
static inline u32 rd32(struct rig *r, u64 a) { return (u32)bus_mmio_read(&r->bus, a, 4); }
static inline void wr32(struct rig *r, u64 a, u32 v) { bus_mmio_write(&r->bus, a, v, 4); }

/* Local APIC of vCPU n, register by number. */
u32 apic_rd(struct rig *r, unsigned n, unsigned reg);
void apic_wr(struct rig *r, unsigned n, unsigned reg, u32 v);
bool apic_msr_rd(struct rig *r, unsigned n, unsigned reg, u64 *v);
bool apic_msr_wr(struct rig *r, unsigned n, unsigned reg, u64 v);
bool apic_base(struct rig *r, unsigned n, u64 v);
int apic_pending(struct rig *r, unsigned n);
int apic_ack(struct rig *r, unsigned n);
void apic_enable(struct rig *r, unsigned n);   /* SVR = 1FFh */
void apic_x2(struct rig *r, unsigned n);

u32 ioapic_rd(struct rig *r, u32 reg);
void ioapic_wr(struct rig *r, u32 reg, u32 v);
void ioapic_pin(struct rig *r, unsigned pin, u64 rte);

void pic_init(struct rig *r);                  /* vectors 20h and 28h, all unmasked, AEOI off */
/* 8259 to vCPU 0 through LINT0, IOAPIC masked. */
void rig_virtual_wire(struct rig *r);

#endif
