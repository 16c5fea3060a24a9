/* ICH9's SATA controller in AHCI mode, 00:1f.2 (8086:2922; "Serial ATA Advanced Host Controller Interface 1.3.1", "ATA8-ACS"), with disks and CD-ROM
 * drives on its six ports. Not here: images (host/disk.h), packet commands (atapi.c). Surprise: data goes through a buffer of our own in both directions,
 * so that a port may be reset, or the guest unplug its memory, while the host is still busy with a request. */
#ifndef NB_DEV_AHCI_H
#define NB_DEV_AHCI_H

#include "dev/pci.h"
#include "host/disk_flight.h"

enum { AHCI_PORTS = 6, AHCI_SLOTS = 32, AHCI_CHUNK = 128 * 1024 };

#define AHCI_PORT_STATE(F, A) \
	F(u64, clb) F(u64, fb) \
	F(u32, is) F(u32, ie) F(u32, cmd) F(u32, tfd) F(u32, sig) F(u32, ssts) F(u32, sctl) F(u32, serr) F(u32, sact) F(u32, ci) \
	F(u32, sense)            /* of a CD-ROM: key << 16 | code << 8 | qualifier */ \
	F(u32, ncq_error)        /* BIT(31) | tag of the queued command that failed, for READ LOG EXT */ \
	F(u32, active)           /* slots being carried out */ \
	F(u8, in_reset)          /* software reset: SRST was 1 */ A(u8, pad_, 3)
STATE_STRUCT(ahci_port_regs, AHCI_PORT_STATE);

#define AHCI_STATE(F, A) A(struct ahci_port_regs, port, AHCI_PORTS) F(u32, ghc) F(u32, is) F(u32, index) F(u32, pad_)
STATE_STRUCT(ahci_regs, AHCI_STATE);

struct ahci;
struct ahci_port;

/* One command being carried out. bus->lock, but for rq and buf while the disk has them. */
struct ahci_cmd {
	struct ahci_port *port;
	struct ahci_cmd *next;     /* in port->active, or in ahci->finished */
	unsigned slot;
	bool ncq, write, pio, atapi;
	bool orphan;               /* its port was reset: nobody waits for it */
	u64 header;                /* gpa of the command header */
	u64 table;                 /* gpa of the command table */
	u32 prds, prd, prd_off;    /* number of PRD entries; the next byte's entry and place in it */
	u32 moved;                 /* bytes so far: PRDBC */
	u64 at, left;              /* bytes on the disk */
	u8 fis[20];                /* the command, read once */
	u8 packet[16];
	int err;
	struct disk_request rq;
	struct iovec iov;
	u8 *buf;                   /* AHCI_CHUNK */
	u32 buf_len;
};

struct ahci_port {
	struct ahci *hba;
	unsigned n;
	struct disk *disk;         /* not ours; NULL: nothing plugged in */
	bool cdrom;
	char serial[DISK_SERIAL_MAX + 1];
	struct ahci_cmd *active;   /* bus->lock */
	u32 running;               /* bus->lock: slots in `active` */
	bool ncq_running;          /* bus->lock: they are queued commands */
};

struct ahci {
	struct pci_function pci;
	struct bus *bus;
	struct ahci_regs regs;     /* bus->lock */
	struct ahci_port port[AHCI_PORTS];
	struct disk_flight flight;
};

struct ahci *ahci_create(struct pci_host *h, unsigned slot, unsigned fn);
/* Plugs a disk into the next free port, before the vCPUs start. The disk stays the caller's. -ENOSPC: six are there already. */
int ahci_attach(struct ahci *a, struct disk *d, bool cdrom, const char *serial);

/* ---- ahci_cmd.c ---- */
/* Starts what the guest has issued and the port can take. */
void ahci_issue(struct ahci_port *p);
/* Starts the commands of these slots, which were being carried out when the state was saved. */
void ahci_resume(struct ahci_port *p, u32 slots);
/* The port drops all commands. */
void ahci_abort(struct ahci_port *p);
/* As after COMRESET: signature, status. */
void ahci_signature(struct ahci_port *p);
void ahci_update(struct ahci *a);
void ahci_quiesce(void *a);
/* Moves n bytes between buf and the command's memory; the number that there was room for. */
u32 ahci_to_guest(struct ahci_cmd *c, const void *buf, u32 n);
u32 ahci_from_guest(struct ahci_cmd *c, void *buf, u32 n);
/* Ends a command, which is then gone. status and error as in the task file. */
void ahci_finish(struct ahci_cmd *c, u8 status, u8 error);
/* A data-in command of ours: buf to the guest, then the end. */
void ahci_finish_data(struct ahci_cmd *c, const void *buf, u32 n);
/* Reads or writes [at, at + left) of the disk through the command's memory, then ends it. */
void ahci_transfer(struct ahci_cmd *c, bool write, u64 at, u64 bytes);
/* A flush, discard, ...: one request without data. */
/* Discards the ranges in c->buf, as the ATA command has them: `left` bytes of them, from offset `at` on. Their values are good. */
enum { TRIM_RANGE_BYTES = 8 };
void ahci_trim(struct ahci_cmd *c);
void ahci_request(struct ahci_cmd *c, enum disk_op op, u64 at, u64 bytes);

/* ---- ata.c, atapi.c: what the devices do ---- */
void ata_command(struct ahci_cmd *c);
void atapi_command(struct ahci_cmd *c);    /* ATA commands of a packet device, PACKET among them */
void ata_identify_text(u8 *to, unsigned bytes, const char *text);

enum { ATA_BSY = 0x80, ATA_DRDY = 0x40, ATA_DF = 0x20, ATA_SERV = 0x10, ATA_DRQ = 0x08, ATA_ERR = 0x01, ATA_ABRT = 0x04, ATA_UNC = 0x40, ATA_IDNF = 0x10 };
#define ATA_OK (ATA_DRDY | ATA_SERV)
#define ATA_FAILED (ATA_DRDY | ATA_ERR)
enum { PORT_CMD_ST = 1, PORT_CMD_SUD = 2, PORT_CMD_POD = 4, PORT_CMD_CLO = 8, PORT_CMD_FRE = 16, PORT_CMD_FR = 1 << 14, PORT_CMD_CR = 1 << 15,
	PORT_CMD_ATAPI = 1 << 24 };
enum { PORT_IS_DHRS = 1, PORT_IS_PSS = 2, PORT_IS_SDBS = 8, PORT_IS_DPS = 32, PORT_IS_PCS = 64, PORT_IS_PRCS = 1 << 22, PORT_IS_OFS = 1 << 24,
	PORT_IS_HBFS = 1 << 29, PORT_IS_TFES = 1 << 30 };

#endif
