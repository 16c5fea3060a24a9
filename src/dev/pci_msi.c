/* MSI: one message per function. PCI Local Bus Specification "MSI Capability Structure". Not here: MSI-X (pci_msix.c). Surprise: without per-vector
 * masking there is nothing to hold back, so a message leaves at once and nothing is remembered. */
#include "dev/pci_internal.h"

enum { CONTROL = 2, ADDRESS = 4, ADDRESS_HIGH = 8, DATA = 12, CAP_BYTES = 14 };
enum { CONTROL_ENABLE = 1, CONTROL_MULTIPLE = 0x70, CONTROL_64 = 0x80 };

void pci_add_msi(struct pci_function *f)
{
	unsigned cap = pci_add_cap(f, PCI_CAP_MSI, CAP_BYTES);

	f->msi_cap = (u8)cap;
	pci_config_init(f, cap + CONTROL, CONTROL_64, CONTROL_ENABLE | CONTROL_MULTIPLE, 2);
	pci_config_init(f, cap + ADDRESS, 0, 0xfffffffc, 4);
	pci_config_init(f, cap + ADDRESS_HIGH, 0, 0xffffffff, 4);
	pci_config_init(f, cap + DATA, 0, 0xffff, 2);
}

bool pci_msi_enabled(const struct pci_function *f)
{
	return f->msi_cap && (pci_config_get(f, f->msi_cap + CONTROL, 2) & CONTROL_ENABLE);
}

void pci_msi_send(struct pci_function *f)
{
	if (pci_msi_enabled(f))
		bus_msi(f->host->bus, (u64)pci_config_get(f, f->msi_cap + ADDRESS_HIGH, 4) << 32 | pci_config_get(f, f->msi_cap + ADDRESS, 4),
			pci_config_get(f, f->msi_cap + DATA, 2));
}
