/* The queues of virtio-fs with rubbish, before a server that reads and writes all that it is told to and answers what it likes, and before one that has
 * ended. Not here: what a real server makes of requests (fuzz-share.c). */
#include "fuzz_input.h"
#include "base/log.h"
#include "share/share.h"
#include "virtio_driver.h"
#include "virtio/virtio_fs.h"
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ALIVE, DEAD, DEVICES, QUEUES = 2, ARENA = 0x100000, ARENA_BYTES = 0x8000 };

static struct rig *r;
static struct vdrv d[DEVICES];

/* Every byte of what the device hands out must be memory. Lies about how much was written, and sometimes about who. */
static void *serve(void *opaque)
{
	int fd = *(int *)opaque;
	static struct share_request rq;
	u32 sum = 0;

	while (read(fd, &rq, sizeof rq) > 0) {
		bug_if(rq.nout + rq.nin > SHARE_MAX_SEGS);
		for (unsigned i = 0; i < (unsigned)rq.nout + rq.nin; i++) {
			volatile u8 *p = (volatile u8 *)(uintptr_t)rq.seg[i].addr;

			for (u64 k = 0; k < rq.seg[i].len; k++)
				sum = i < rq.nout ? sum * 31 + p[k] : (p[k] = (u8)(sum + k), sum);
		}
		struct share_reply lie = { .id = sum, .written = sum * 7 }, reply = { .id = rq.id, .written = sum % 3 ? sum >> 8 & 0x3ff : ~0u };

		if (sum % 5 == 0 && rq.id != ~0u && write(fd, &lie, sizeof lie) < 0)
			break;
		if (write(fd, &reply, sizeof reply) < 0)
			break;
	}
	return NULL;
}

static void create(void)
{
	static int alive[2], dead[2];
	pthread_t thread;

	r = rig_create();
	log_set_level(LOG_ERROR - 1); /* that the server has ended is meant */
	bug_if(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, alive) || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, dead));
	bug_if(pthread_create(&thread, NULL, serve, &alive[1]));
	pthread_detach(thread);
	bug_if(!virtio_fs_create(r->pci, 2 + ALIVE, "alive", alive[0], "alive"));
	bug_if(!virtio_fs_create(r->pci, 2 + DEAD, "dead", dead[0], "dead"));
	close(dead[1]);
}

static void start(unsigned i, u64 features) { vdrv_start(&d[i], r, 2 + i, features, QUEUES); }

static void op_chain(struct fuzz_input *in)
{
	u8 how = (u8)fuzz_take(in, 1);
	unsigned q = how >> 1 & 1, n = 1 + (how >> 2 & 3);
	struct vbuf b[4];

	for (unsigned i = 0; i < n; i++)
		b[i] = (struct vbuf){ ARENA + fuzz_take(in, 2) % ARENA_BYTES, (u32)fuzz_take(in, 2), i && fuzz_take(in, 1) & 1 ? VD_WRITE : 0 };
	vdrv_add(&d[how & 1], q, b, n);
	vdrv_kick(&d[how & 1], q);
}

static void op_desc(struct fuzz_input *in)
{
	u8 how = (u8)fuzz_take(in, 1);
	unsigned q = how >> 1 & 1;
	u16 i = fuzz_take(in, 1) % VD_QSIZE;

	vdrv_desc(&d[how & 1], q, i, ARENA + fuzz_take(in, 2), (u32)fuzz_take(in, fuzz_size(in) & 7), fuzz_take(in, 1) & 7, fuzz_take(in, 1) % VD_QSIZE);
	vdrv_publish(&d[how & 1], q, i);
	vdrv_kick(&d[how & 1], q);
}

static void op_ring(struct fuzz_input *in)
{
	mem_write_le(&r->mem, gpa(0x10000 + fuzz_take(in, 3) % 0x20000), fuzz_take(in, 2), 2);
}

static void op_wait(struct fuzz_input *in) { dev_list_quiesce(&r->devs); }
static void op_restart(struct fuzz_input *in) { start(fuzz_take(in, 1) & 1, fuzz_take(in, 1) << 28 & (BIT(28) | BIT(29))); }

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	static void (*const op[8])(struct fuzz_input *in) = { op_chain, op_desc, op_chain, op_ring, op_wait, op_restart, op_chain, op_desc };
	struct fuzz_input in = { data, data + size };

	if (!r)
		create();
	for (unsigned i = 0; i < DEVICES; i++)
		start(i, VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC);
	while (fuzz_more(&in))
		op[fuzz_take(&in, 1) & 7](&in);
	dev_list_quiesce(&r->devs);
	rig_check_save_load(r);
	return 0;
}
