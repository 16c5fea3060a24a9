/* What the nvme*.c files share. Sections named in comments are the NVM Express Base Specification's, 1.4. */
#ifndef NB_NVME_INT_H
#define NB_NVME_INT_H

#include "dev/nvme.h"
#include "host/disk_flight.h"

enum { NVME_PAGE = 4096, NVME_MDTS = 7, NVME_MAX_PIECES = (1 << NVME_MDTS) + 1, NVME_MAX_BYTES = NVME_PAGE << NVME_MDTS };
enum { NVME_SQE_BYTES = 64, NVME_CQE_BYTES = 16 };

/* Status field: status code type << 8 | status code; "Status Field Definition". */
enum nvme_status {
	NVME_OK = 0x000, NVME_BAD_OPCODE = 0x001, NVME_BAD_FIELD = 0x002, NVME_TRANSFER_ERROR = 0x004, NVME_INTERNAL = 0x006, NVME_ABORTED_SQ = 0x008,
	NVME_BAD_NAMESPACE = 0x00b, NVME_BAD_PRP_OFFSET = 0x013, NVME_WRITE_PROTECTED = 0x020, NVME_LBA_RANGE = 0x080,
	NVME_BAD_CQ = 0x100, NVME_BAD_QUEUE_ID = 0x101, NVME_BAD_QUEUE_SIZE = 0x102, NVME_TOO_MANY_EVENTS = 0x105, NVME_BAD_VECTOR = 0x108,
	NVME_BAD_LOG = 0x109, NVME_BAD_DELETE = 0x10c, NVME_NOT_SAVEABLE = 0x10d, NVME_NOT_CHANGEABLE = 0x10e,
	NVME_WRITE_FAULT = 0x280, NVME_READ_ERROR = 0x281, NVME_LATER = -1 /* no completion yet */,
};

/* A submission queue entry, read once from the guest's memory. */
struct nvme_command {
	u8 opcode, flags;
	u16 id;
	u32 nsid, dw2, dw3;
	u64 mptr, prp1, prp2;
	u32 dw10, dw11, dw12, dw13, dw14, dw15;
};
_Static_assert(sizeof(struct nvme_command) == NVME_SQE_BYTES, "Submission Queue Entry");

/* A piece of the guest's memory inside one page. */
struct nvme_piece {
	u8 *host;
	u64 gpa;
	u32 len;
};

struct nvme_data {
	unsigned n;
	struct nvme_piece piece[NVME_MAX_PIECES];
};

struct nvme_request {
	struct nvme_request *next;
	struct nvme *nvme;
	struct nvme_command cmd;
	unsigned cq;
	unsigned sq;           /* 0: the controller's own flush at shutdown */
	bool busy;
	enum nvme_status status;
	struct disk_request disk;
	struct nvme_data data;
	struct iovec iov[NVME_MAX_PIECES];
	u32 range;             /* dataset management: the one being done */
	u8 *ranges;            /* its list, copied; room for 4096 bytes, made when needed */
};

struct nvme {
	struct pci_function pci;
	struct bus *bus;
	struct disk *disk;
	char serial[DISK_SERIAL_MAX];
	struct nvme_regs regs;           /* bus->lock */
	struct nvme_request *requests;   /* NVME_REQUESTS of them, and one for the shutdown */
	struct nvme_request *free;       /* bus->lock */
	unsigned of_cq[NVME_QUEUES];     /* bus->lock: commands in flight that will complete to each queue */
	u8 owner[NVME_QUEUES];           /* their addresses name the queues' requests to the disk */
	struct disk_flight flight;
};

/* ---- nvme_queue.c; bus->lock held ---- */
/* Fetches and starts commands of all submission queues while there is room. */
void nvme_run(struct nvme *n);
/* Whether one more command of the queue may be taken. */
bool nvme_can_complete(const struct nvme *n, unsigned sq);
void nvme_complete(struct nvme *n, unsigned sq, u16 id, enum nvme_status status, u32 result);
/* The data that a command's PRP entries describe, len bytes; to_guest: the controller writes it. */
enum nvme_status nvme_map(struct nvme *n, const struct nvme_command *c, u32 len, bool to_guest, struct nvme_data *d);
/* Copies between a buffer and mapped data. */
void nvme_copy(struct nvme *n, struct nvme_data *d, void *buf, u32 len, bool to_guest);
/* Tells mem/ what the controller has written there. */
void nvme_note_written(struct nvme *n, const struct nvme_data *d);
/* Interrupt lines from registers. */
void nvme_update(struct nvme *n);
void nvme_interrupt(struct nvme *n, unsigned cq);

/* ---- nvme_admin.c ---- */
enum nvme_status nvme_admin(struct nvme *n, const struct nvme_command *c, u32 *result);
void nvme_default_features(struct nvme *n);

/* ---- nvme_io.c ---- */
enum { NVME_FEATURE_WRITE_CACHE = 6 };
/* Starts a command of I/O queue sq. NVME_LATER: it completes by itself. */
enum nvme_status nvme_io(struct nvme *n, unsigned sq, const struct nvme_command *c);
void nvme_io_init(struct nvme *n);
void nvme_io_free(struct nvme *n);
/* Flushes, then says that the shutdown is complete. */
void nvme_start_shutdown(struct nvme *n);
/* Takes back or waits for the commands of queue sq (0: of all), without completing them. */
void nvme_forget(struct nvme *n, unsigned sq);
/* bus->lock not held: waits until all is completed or held by the disk; what is held stands in the registers. */
void nvme_quiesce(void *nvme);
/* Commands that were held when the state was saved. */
void nvme_restart_held(struct nvme *n);

#endif
