/* pci-testdev 1b36:0005: BARs that count matching writes, to time MMIO and port exits. Only with --test-devices. */
#ifndef NB_DEV_PCI_TESTDEV_H
#define NB_DEV_PCI_TESTDEV_H

#include "dev/pci.h"

enum { PCI_TESTDEV_BARS = 2 }; /* BAR0 memory, BAR1 ports */

#define PCI_TESTDEV_STATE(F, A) A(u32, count, PCI_TESTDEV_BARS) A(u8, test, PCI_TESTDEV_BARS) A(u8, pad_, 2)
STATE_STRUCT(pci_testdev_regs, PCI_TESTDEV_STATE);

struct pci_testdev;
struct pci_testdev_bar {
	struct pci_testdev *t;
	unsigned n;
};

struct pci_testdev {
	struct pci_function pci;
	struct pci_testdev_regs regs; /* bus->lock */
	struct pci_testdev_bar bar[PCI_TESTDEV_BARS];
};

struct pci_testdev *pci_testdev_create(struct pci_host *h, unsigned slot);

#endif
