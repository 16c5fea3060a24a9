/* qemu-storage-daemon as our child: it reads and writes images that are not raw, and speaks NBD with us over sockets that nobody else can
 * reach. It ends when this process ends, however that happens. Not here: NBD (disk_nbd.c). */
#ifndef NB_HOST_DISK_SERVER_H
#define NB_HOST_DISK_SERVER_H

#include "base/base.h"
#include <sys/types.h>

#define DISK_SERVER_PROGRAM "qemu-storage-daemon"
#define DISK_SERVER_EXPORT "disk"

struct disk_server {
	pid_t pid;
	int pidfd;     /* becomes readable when it ends; -1: none */
	int messages;  /* its stderr, does not block */
};

/* Starts it for one image, with `n` connected sockets in sock[]. block_device: path is one. 0 or -errno with one log line. */
int disk_server_start(struct disk_server *s, const char *path, const char *format, bool read_only, bool block_device, int *sock, unsigned n);
/* What it last said on stderr, without its name, as one line; empty if nothing. Waits for it up to wait_ms. */
void disk_server_last_words(struct disk_server *s, char *text, size_t size, int wait_ms);
/* Asks it to end and waits for that. Its connections must be closed. */
void disk_server_stop(struct disk_server *s);

#endif
