/* The Q35's memory controller hub, 00:00.0 (Intel 3 Series Express Chipset Family data sheet). It owns PCIEXBAR and
 * the PAM registers. Surprise: PCIEXBAR starts enabled at B0000000h, because a directly booted kernel has no
 * firmware that would do it. */
#ifndef NB_DEV_Q35_MCH_H
#define NB_DEV_Q35_MCH_H

#include "dev/pci.h"

#define Q35_ECAM_BASE 0xb0000000u

struct q35_mch {
	struct pci_function pci;
	/* Optional: the guest changed PAM0..PAM6 (which parts of C0000h-FFFFFh read and write RAM). */
	void (*pam_written)(void *opaque, const u8 pam[7]);
	void *opaque;
};

struct q35_mch *q35_mch_create(struct pci_host *h);

#endif
