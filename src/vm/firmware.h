/* The machine's firmware: which image, where it lies, shadow RAM over it, and what it is told through fw_cfg. Not here: the flash chip (dev/pflash.c),
 * the tables (boot/). */
#ifndef NB_VM_FIRMWARE_H
#define NB_VM_FIRMWARE_H

#include "base/base.h"
#include "dev/fw_cfg.h"
#include "mem/mem.h"

struct vm;

enum firmware_kind { FIRMWARE_NONE, FIRMWARE_BIOS, FIRMWARE_UEFI };

#define FIRMWARE_VGA_BYTES (16 * MiB)

struct firmware {
	enum firmware_kind kind;
	u8 *code, *vars;           /* file contents until they are in guest memory */
	u64 code_size, vars_size;  /* bytes, page multiples; vars 0 for a BIOS */
	u64 code_frame, vars_frame, vga_frame;
	int vars_fd;               /* -1: the variables live with the VM */
	u8 pam[7];                 /* bus->lock; as last applied */
	bool vga;                  /* the board has a display adapter, so pages for it */
};

/* "auto", "bios", "uefi", "none", "file:PATH"; false: unknown. */
bool firmware_name_ok(const char *name);
/* Decides and reads the files that cfg names. 0, or -errno with one log line. */
int firmware_open(struct firmware *f, const struct vm *vm);
void firmware_close(struct firmware *f);
/* Bytes of guest memory beside RAM. */
u64 firmware_bytes(const struct firmware *f);
/* All memory slots of a machine with firmware; copies ROM and variables into theirs. 0 or -errno. */
int firmware_map(struct firmware *f, struct mem *m, u64 ram);
/* The chips: flash, write window of the shadow RAM. */
void firmware_create_devices(struct vm *vm, struct dev_list *devs);
/* q35_mch's pam_written; opaque is the vm. bus->lock held. */
void firmware_pam_written(void *opaque, const u8 pam[7]);
/* Items for firmware: tables, boot order, display BIOS, serial console. */
int firmware_fw_cfg(struct vm *vm, struct firmware *f, struct fw_cfg *cfg);

#endif
