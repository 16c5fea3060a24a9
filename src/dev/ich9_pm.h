/* ICH9 power management: PM1a event and control blocks, PM timer, GPE0 (Intel ICH9 data sheet "Power Management I/O
 * Registers", ACPI specification "ACPI Hardware Specification"). Not here: where PMBASE comes from (ich9_lpc.c),
 * CF9h (pci_host.c). Surprises: ACPI mode is always on (SCI_EN reads 1, there is no SMI), and the timer is computed
 * from the virtual clock, never stored. */
#ifndef NB_DEV_ICH9_PM_H
#define NB_DEV_ICH9_PM_H

#include "bus/bus.h"
#include "dev/dev.h"

#define ICH9_PM_DEFAULT_BASE 0x600
#define ICH9_PM_SIZE 0x80
#define PM_TMR_HZ 3579545u

#define ICH9_PM_STATE(F, A) \
	F(u64, tmrof_base) \
	F(u64, gpe_sts) F(u64, gpe_en) \
	F(u32, smi_en) F(u16, pm1_sts) F(u16, pm1_en) \
	F(u16, pm1_cnt) A(u16, pad_, 3)
STATE_STRUCT(ich9_pm_regs, ICH9_PM_STATE);

struct ich9_pm_config {
	struct irq_line sci;
	u8 slp_typ_s5;  /* as in the DSDT's \_S5 */
};

struct ich9_pm {
	struct bus *bus;
	struct ich9_pm_config cfg;
	struct ich9_pm_regs regs;  /* bus->lock */
	int window;
	struct clock_timer overflow;
};

/* The block's window starts closed; ich9_pm_place() opens it. */
struct ich9_pm *ich9_pm_create(struct bus *bus, struct dev_list *devs, const struct ich9_pm_config *cfg);
void ich9_pm_place(struct ich9_pm *p, u16 base, bool enabled);
/* The user pressed the power button. Any thread; takes bus->lock. */
void ich9_pm_power_button(struct ich9_pm *p);

#endif
