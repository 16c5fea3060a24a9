/* Inside of the FUSE server. */
#ifndef NB_SHARE_SERVER_H
#define NB_SHARE_SERVER_H

#include "share/share.h"
#include "share/fuse_abi.h"
#include <sys/stat.h>
#include <sys/uio.h>

/* HEAD: how much of a request is copied at once: header, arguments and names; a write's data stays where it is. */
enum { HEAD_BYTES = 16384, REPLY_BYTES = 262144, MAX_READ = 1 << 20 };

struct node {
	int fd;          /* O_PATH; -1: free */
	u32 type;        /* S_IFMT */
	u64 dev, ino, lookups, generation;
	u32 next;        /* in its hash chain, or of free nodes */
};

struct server {
	struct share_config cfg;
	int proc;        /* /proc/self/fd */
	bool is_root;
	struct node *node;      /* node[1] is the root; node[0] is none */
	u32 nnodes, free_node, *hash, nhash;
	u64 generation;
	int *handle;            /* open files; -1: free */
	u32 nhandles;
};

struct request {
	const struct fuse_in_header *h;
	const u8 *arg;          /* after the header; a copy, `len` bytes */
	size_t len;
	const struct share_request *segs;
	u64 out_len, in_len;    /* all bytes to read, to write */
	u8 *reply;              /* REPLY_BYTES; what an operation answers after the header */
	size_t reply_len;
	bool direct;            /* the answer's bytes, reply_len of them, are in the guest's memory already */
	bool silent;            /* no answer at all */
};

/* An operation: 0, or -errno. args have been checked to be there. */
typedef int share_op(struct server *s, struct request *r);

/* ---- node.c ---- */
int nodes_init(struct server *s);
void nodes_clear(struct server *s);              /* forgets all but the root */
struct node *node_get(struct server *s, u64 id); /* NULL: no such */
/* Finds name in folder id, counts one lookup, and fills e. */
int node_lookup(struct server *s, u64 id, const char *name, struct fuse_entry_out *e);
void node_forget(struct server *s, u64 id, u64 lookups);
void attr_fill(const struct server *s, struct fuse_attr *a, const struct stat *st);
u64 attr_ino(const struct server *s, u64 dev, u64 ino);
/* Opens the node's file itself (regular files and folders only). Descriptor or -errno. */
int node_open(struct server *s, const struct node *n, int flags);
/* "N" for functions that take a name in s->proc. */
const char *node_proc_name(const struct node *n, char buf[16]);
int handle_add(struct server *s, int fd, u64 *fh);
int handle_get(const struct server *s, u64 fh);  /* descriptor or -EBADF */
void handle_close(struct server *s, u64 fh);

/* The name at arg + off: ends inside the request, one component, neither "." nor "..". NULL else. */
const char *request_name(const struct request *r, size_t off);
/* The pieces to read / to write as an iovec, without their first `skip` bytes, at most max bytes. Returns how many. */
int request_iov(const struct request *r, bool in, u64 skip, u64 max, struct iovec iov[SHARE_MAX_SEGS]);
/* Room for n more bytes of answer; NULL: too long. */
void *reply_add(struct request *r, size_t n);

/* ---- ops.c, file.c, dir.c ---- */
#define OP(number, fn, bytes, writes) share_op fn;
#include "share/ops.def"
#undef OP

/* server.c */
int server_request(struct server *s, const struct share_request *rq, u32 *written);

#endif
