/* The ICH9's LPC bridge, 00:1f.0 (Intel ICH9 data sheet "LPC Interface Bridge Registers (D31:F0)"): PMBASE, PIRQ
 * routing, RCBA. Surprise: PMBASE starts enabled at 600h, because a directly booted kernel has no firmware that
 * would do it. */
#ifndef NB_DEV_ICH9_LPC_H
#define NB_DEV_ICH9_LPC_H

#include "dev/ich9_pm.h"
#include "dev/pci.h"

/* Chipset configuration space: what firmware sets up and reads back. */
#define ICH9_RCBA_STATE(F, A) A(u8, routes, 0x100) F(u32, oic) F(u32, gcs)
STATE_STRUCT(ich9_rcba_regs, ICH9_RCBA_STATE);

struct ich9_lpc {
	struct pci_function pci;
	struct ich9_pm *pm;
	struct ich9_rcba_regs rcba;  /* bus->lock */
	int rcba_window;
};

struct ich9_lpc *ich9_lpc_create(struct pci_host *h, struct ich9_pm *pm);

#endif
