/* PCI: functions on bus 0, configuration space, BARs, INTx, MSI, MSI-X ("PCI Local Bus Specification 3.0", "PCI Express
 * Base Specification"). Not here: the host bridge's ports and ECAM (pci_host.c), the chips on the bus. Surprise:
 * there are no bridges, so bus 0 is all there is. */
#ifndef NB_DEV_PCI_H
#define NB_DEV_PCI_H

#include "bus/bus.h"
#include "dev/dev.h"

/* Offsets in configuration space (specification chapter "Configuration Space Organization"). */
enum pci_reg {
	PCI_VENDOR = 0x00, PCI_DEVICE = 0x02, PCI_CMD = 0x04, PCI_STS = 0x06, PCI_REVISION = 0x08, PCI_CLASS = 0x09,
	PCI_CACHE_LINE = 0x0c, PCI_LATENCY = 0x0d, PCI_HEADER = 0x0e, PCI_BAR0 = 0x10, PCI_SUBVENDOR = 0x2c, PCI_SUBDEVICE = 0x2e,
	PCI_CAP_PTR = 0x34, PCI_INT_LINE = 0x3c, PCI_INT_PIN = 0x3d, PCI_CAPS_START = 0x40,
};

enum { PCI_CONFIG_SIZE = 256, PCI_BARS = 6, PCI_MSIX_MAX = 32, PCI_CAP_MSI = 0x05, PCI_CAP_VENDOR = 0x09, PCI_CAP_MSIX = 0x11 };
enum { PCI_CMD_IO = 1, PCI_CMD_MEM = 2, PCI_CMD_MASTER = 4, PCI_CMD_NO_INTX = 0x400, PCI_STS_INTX = 8, PCI_STS_CAPS = 0x10 };

/* One MSI-X table entry as the guest sees it. */
struct pci_msix_entry {
	u32 addr_lo, addr_hi, data, control;
};

#define PCI_STATE(F, A) \
	A(u8, config, PCI_CONFIG_SIZE) \
	A(struct pci_msix_entry, msix, PCI_MSIX_MAX) \
	F(u32, msix_pending) F(u32, intx)
STATE_STRUCT(pci_regs, PCI_STATE);

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
	enum pci_bar_kind kind;
	u64 size;      /* a power of two */
	int window;    /* bus handle */
	u64 base;      /* where the window now is; meaningful while enabled */
	bool enabled;
};

struct pci_ident {
	u16 vendor, device, subvendor, subdevice;
	u32 class_code; /* 24 bits: base class, subclass, interface */
	u8 revision;
	u8 int_pin;     /* 0 = none, 1 = INTA */
};

struct pci_function {
	struct pci_host *host;
	struct pci_regs regs;               /* bus->lock */
	struct pci_bar bar[PCI_BARS];       /* bus->lock; derived from regs */
	u8 devfn;
	char name[32];
	u8 initial[PCI_CONFIG_SIZE];        /* configuration space at power-on; fixed after boot, as below */
	u8 writable[PCI_CONFIG_SIZE];       /* bits that a write changes */
	u8 clear_by_one[PCI_CONFIG_SIZE];   /* bits that a written 1 clears */
	u8 msi_cap, msix_cap, next_cap, last_cap;
	unsigned msix_vectors;
	/* Both optional. config_read may change what the default found; config_written hears of a write (or of a
	 * load: all of it). */
	u32 (*config_read)(void *dev, unsigned off, unsigned size, u32 value);
	void (*config_written)(void *dev, unsigned off, unsigned size);
	/* Optional: BAR n now decodes at base, or nothing. For BARs that show guest memory. */
	void (*bar_moved)(void *dev, unsigned n, u64 base, bool on);
	void *dev;
};

struct pci_host_config {
	struct irq_line gsi[8];  /* PIRQA..PIRQH as IOAPIC inputs 16..23 */
	struct irq_line isa[16]; /* the 8259s' inputs, for PIRQs that the guest routes there; unused ones may be empty */
};

#define PCI_HOST_STATE(F, A) F(u32, address) F(u8, reset_control) A(u8, pad_, 3)
STATE_STRUCT(pci_host_regs, PCI_HOST_STATE);

struct pci_host {
	struct bus *bus;
	struct dev_list *devs;
	struct pci_host_config cfg;
	struct pci_host_regs regs;          /* bus->lock */
	struct pci_function *function[256]; /* by devfn; fixed after boot */
	int ecam_window;
	u8 pirq_route[8];                   /* bus->lock; LPC's PIRQx_ROUT, bit 7 = not routed */
	u8 pirq_level;                      /* levels last given out, as the next */
	u16 isa_level;
};

/* Ports CF8h-CFFh and the (still closed) ECAM window. */
struct pci_host *pci_host_create(struct bus *bus, struct dev_list *devs, const struct pci_host_config *cfg);
/* Places the 256 MB ECAM window. */
void pci_host_place_ecam(struct pci_host *h, u64 base, bool enabled);
/* New PIRQx_ROUT registers. */
void pci_host_route(struct pci_host *h, const u8 route[8]);
void pci_host_update_irqs(struct pci_host *h);

/* Which of the 8 PIRQs a slot's pin (0 = INTA) drives; GSI = 16 + this. The DSDT's _PRT says the same. */
static inline unsigned pci_pirq(unsigned slot, unsigned pin) { return (slot + pin) & 7; }

/* Puts a function at slot.function of bus 0 and registers its state. Then add BARs and capabilities; all before the
 * vCPUs start. */
void pci_function_init(struct pci_function *f, struct pci_host *h, const char *name, unsigned slot, unsigned fn,
		       const struct pci_ident *id, void *dev);
/* The lowest free slot from `first` on; -1 if none. */
int pci_free_slot(const struct pci_host *h, unsigned first);
/* Sets power-on bytes and which of their bits are writable. */
void pci_config_init(struct pci_function *f, unsigned off, u32 value, u32 writable, unsigned size);
void pci_add_bar(struct pci_function *f, unsigned n, enum pci_bar_kind kind, u64 size, const struct bus_ops *ops, void *dev);
/* A capability of len bytes with id and link filled in; returns its offset. */
unsigned pci_add_cap(struct pci_function *f, u8 id, unsigned len);
/* MSI-X with table and PBA in a 4 KiB memory BAR of its own. */
void pci_add_msix(struct pci_function *f, unsigned bar, unsigned vectors);

u64 pci_config_read(struct pci_function *f, unsigned off, unsigned size);
void pci_config_write(struct pci_function *f, unsigned off, u32 value, unsigned size);
static inline u32 pci_config_get(const struct pci_function *f, unsigned off, unsigned size)
{
	return (u32)load_le(f->regs.config + off, size);
}

/* MSI with one message. */
void pci_add_msi(struct pci_function *f);
bool pci_msi_enabled(const struct pci_function *f);
/* One more message, where the level has not changed; nothing while MSI is off. */
void pci_msi_send(struct pci_function *f);

/* Whether the function wants to interrupt: the level of its INTx pin, or with MSI on a message when it rises. */
void pci_intx_set(struct pci_function *f, bool level);
bool pci_msix_enabled(const struct pci_function *f);
/* Sends or, while masked, notes vector n. Nothing while MSI-X is off or n is out of range. */
void pci_msix_notify(struct pci_function *f, unsigned n);

/* Resource windows for a boot without firmware. */
struct pci_windows {
	u64 mem_base, mem_end; /* [base, end) */
	u32 io_base, io_end;
};
/* Gives every BAR an address, biggest first in each window, and enables decoding. 0 or -ENOSPC with one log line. */
int pci_assign_bars(struct pci_host *h, const struct pci_windows *w);

#endif
