/* What the pci_*.c files share. */
#ifndef NB_DEV_PCI_INTERNAL_H
#define NB_DEV_PCI_INTERNAL_H

#include "dev/pci.h"

/* Moves the windows of all BARs to where configuration space says. */
void pci_bars_update(struct pci_function *f);
/* The address in BAR n, without its type bits. */
u64 pci_bar_address(const struct pci_function *f, unsigned n);
/* Sends what became deliverable. */
void pci_msix_update(struct pci_function *f);

#endif
