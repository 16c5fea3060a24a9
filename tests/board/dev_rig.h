/* A machine without vCPUs for device tests: memory, bus, clock, a Q35 host bridge, and records of what devices did
 * to the outside. */
#ifndef DEV_RIG_H
#define DEV_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "bus/bus.h"
#include "dev/dev.h"
#include "dev/ich9_lpc.h"
#include "dev/ich9_pm.h"
#include "dev/pci.h"
#include "dev/q35_mch.h"
#include "mem/mem.h"

#define RIG_RAM (4 * MiB)
#define RIG_ECAM 0xb0000000u

struct rig {
	struct mem mem;
	struct clock clock;
	struct bus bus;
	struct dev_list devs;
	struct pci_host *pci;
	struct q35_mch *mch;
	struct ich9_lpc *lpc;
	struct ich9_pm *pm;
	int level[64];             /* of line n */
	unsigned raises[64];       /* times line n went from 0 to 1 */
	unsigned powers;           /* calls of bus->power */
	enum bus_power power;      /* the last one */
	u32 power_value;
	unsigned msis;
	u64 msi_addr[16];          /* the last 16, at msis % 16 */
	u32 msi_data[16];
};

/* PCI's PIRQA is line 16, ISA interrupt n is line 32 + n when PCI routes there. */
struct rig *rig_create(void);
void rig_free(struct rig *r);
/* Line n of the rig. */
struct irq_line rig_line(struct rig *r, unsigned n);
/* V moves on by ns and timers fire. */
void rig_advance(struct rig *r, u64 ns);

void out8(struct rig *r, u16 port, u8 v);
void out16(struct rig *r, u16 port, u16 v);
void out32(struct rig *r, u16 port, u32 v);
u8 in8(struct rig *r, u16 port);
u16 in16(struct rig *r, u16 port);
u32 in32(struct rig *r, u16 port);

/* Configuration space by CF8h/CFCh. */
u32 cfg_get(struct rig *r, unsigned slot, unsigned off, unsigned size);
void cfg_set(struct rig *r, unsigned slot, unsigned off, u32 v, unsigned size);
/* Offset of a capability with this id after `after` (0 = first), 0 if none. */
unsigned cfg_find_cap(struct rig *r, unsigned slot, u8 id, unsigned after);
/* All BARs placed as at boot, and bus mastering on. */
void rig_assign(struct rig *r);

/* Saves, loads, saves again: same bytes both times. */
void rig_check_save_load(struct rig *r);

#endif
