#include "rig_disk.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int rig_disk_open(struct disk **out, const char *text)
{
	struct disk_spec s;
	int err = disk_spec_parse(&s, text);

	if (err)
		return err;
	err = disk_open(out, &s);
	disk_spec_free(&s);
	return err;
}

struct disk *rig_disk(const char *path, const char *words)
{
	struct disk *d = NULL;
	char text[8192];

	snprintf(text, sizeof(text), "%s,%s", path, words);
	bug_if(rig_disk_open(&d, text));
	return d;
}

struct disk *rig_scratch_disk(u64 bytes)
{
	char path[] = "/tmp/nestbox-scratch-XXXXXX";
	int fd = mkstemp(path);
	struct disk *d;

	bug_if(fd < 0 || ftruncate(fd, (off_t)bytes) < 0);
	close(fd);
	d = rig_disk(path, "format=raw");
	unlink(path);
	return d;
}

struct waiting {
	struct disk_request r;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int err;
};

static void done(struct disk_request *r, int err)
{
	struct waiting *w = container_of(r, struct waiting, r);

	pthread_mutex_lock(&w->lock);
	w->err = err;
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

int rig_disk_do(struct disk *d, enum disk_op op, u64 at, void *buf, u64 len)
{
	struct iovec iov = { buf, len };
	struct waiting w = { .r = { .op = op, .at = at, .len = len, .iov = &iov, .niov = 1, .done = done, .owner = &w },
		.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

	disk_submit(d, &w.r);
	pthread_mutex_lock(&w.lock);
	while (!w.done)
		pthread_cond_wait(&w.cond, &w.lock);
	pthread_mutex_unlock(&w.lock);
	return w.err;
}

bool rig_disk_at_once(struct disk *d, enum disk_op op, u64 at, void *buf, u64 len)
{
	struct iovec iov = { buf, len };
	struct disk_request r = { .op = op, .at = at, .len = len, .iov = &iov, .niov = 1 };

	return disk_at_once(d, &r);
}
