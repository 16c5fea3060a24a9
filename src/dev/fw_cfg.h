/* Firmware configuration interface, as firmware for virtual PCs expects it ("QEMU Firmware Configuration (fw_cfg)
 * Device" specification). Not here: what the files contain (boot/). Surprise: the items are the machine's
 * configuration, not guest state; only selector, offset and the half-written DMA address are saved. */
#ifndef NB_DEV_FW_CFG_H
#define NB_DEV_FW_CFG_H

#include "bus/bus.h"
#include "dev/dev.h"

enum fw_cfg_key {
	FW_CFG_SIGNATURE = 0x00, FW_CFG_ID = 0x01, FW_CFG_UUID = 0x02, FW_CFG_RAM_SIZE = 0x03, FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05, FW_CFG_KERNEL_ADDR = 0x07, FW_CFG_KERNEL_SIZE = 0x08, FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b, FW_CFG_NUMA = 0x0d, FW_CFG_BOOT_MENU = 0x0e, FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_KERNEL_ENTRY = 0x10, FW_CFG_KERNEL_DATA = 0x11, FW_CFG_INITRD_DATA = 0x12, FW_CFG_CMDLINE_ADDR = 0x13,
	FW_CFG_CMDLINE_SIZE = 0x14, FW_CFG_CMDLINE_DATA = 0x15, FW_CFG_SETUP_ADDR = 0x16, FW_CFG_SETUP_SIZE = 0x17,
	FW_CFG_SETUP_DATA = 0x18, FW_CFG_FILE_DIR = 0x19, FW_CFG_FILE_FIRST = 0x20, FW_CFG_FILES = 64,
	FW_CFG_ARCH = 0x8000, FW_CFG_ARCH_ITEMS = 8,
};

#define FW_CFG_STATE(F, A) F(u64, dma_address) F(u32, offset) F(u16, key) F(u16, pad_)
STATE_STRUCT(fw_cfg_regs, FW_CFG_STATE);

struct fw_cfg_item {
	u8 *data; /* owned */
	u32 size;
};

struct fw_cfg_file {
	char name[56];
	struct fw_cfg_item item;
};

struct fw_cfg {
	struct bus *bus;
	struct fw_cfg_regs regs;                     /* bus->lock */
	struct fw_cfg_item item[FW_CFG_FILE_FIRST];  /* fixed after boot, as below */
	struct fw_cfg_item arch[FW_CFG_ARCH_ITEMS];
	struct fw_cfg_file file[FW_CFG_FILES];       /* sorted by name; file n has key FW_CFG_FILE_FIRST + n */
	unsigned nfiles;
};

/* Ports 510h (selector), 511h (data), 514h (DMA). Adds signature, id and the empty directory. */
struct fw_cfg *fw_cfg_create(struct bus *bus, struct dev_list *devs);

/* All copy the data. A key of the item or arch range replaces what was there. */
void fw_cfg_set(struct fw_cfg *f, u16 key, const void *data, u32 size);
void fw_cfg_set_u16(struct fw_cfg *f, u16 key, u16 v);
void fw_cfg_set_u32(struct fw_cfg *f, u16 key, u32 v);
void fw_cfg_set_u64(struct fw_cfg *f, u16 key, u64 v);
/* Adds or replaces a named file. 0, -ENAMETOOLONG or -ENOSPC. Before the vCPUs start: keys follow the sorted order. */
int fw_cfg_add_file(struct fw_cfg *f, const char *name, const void *data, u32 size);

#endif
