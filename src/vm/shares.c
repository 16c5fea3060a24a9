/* Shared folders. */
#include "vm/shares.h"
#include "base/log.h"
#include "virtio/virtio_fs.h"

#include <errno.h>
#include <stdlib.h>

/* Cuts ",KEY=VALUE" off the end of path if it is one of ours. False: it is not. */
static bool cut_setting(struct share_spec *s, char *err, size_t size)
{
	char *comma = strrchr(s->path, ','), *end;
	if (!comma)
		return false;
	if (!strncmp(comma, ",tag=", 5)) {
		size_t len = strlen(comma + 5);
		if (len < 1 || len >= sizeof s->tag)
			snprintf(err, size, "tag \"%.60s\" must have 1 to 36 characters", comma + 5);
		snprintf(s->tag, sizeof s->tag, "%.36s", comma + 5);
	} else if (!strncmp(comma, ",cache=", 7)) {
		unsigned long n = strtoul(comma + 7, &end, 10);
		if (*end || end == comma + 7 || comma[7] == '-' || n > 1000000)
			snprintf(err, size, "cache \"%.60s\" must be a number of seconds up to 1000000", comma + 7);
		s->cfg.cache_s = (unsigned)n;
	} else {
		return false;
	}
	*comma = 0;
	return true;
}

static bool cut_suffix(char *path, const char *suffix)
{
	size_t len = strlen(path), n = strlen(suffix);
	if (len < n || strcmp(path + len - n, suffix))
		return false;
	path[len - n] = 0;
	return true;
}

int share_spec_parse(struct share_spec *s, const char *text, unsigned number, char *err, size_t size)
{
	*s = (struct share_spec){ 0 };
	err[0] = 0;
	if (snprintf(s->path, sizeof s->path, "%s", text) >= (int)sizeof s->path)
		snprintf(err, size, "the folder's name is too long");
	snprintf(s->tag, sizeof s->tag, "share%u", number);
	while (!err[0] && cut_setting(s, err, size))
		;
	if (!cut_suffix(s->path, ":rw"))
		s->cfg.read_only = cut_suffix(s->path, ":ro");
	s->cfg.path = s->path;
	if (!err[0] && !s->path[0])
		snprintf(err, size, "the folder is missing; say DIR, DIR:ro or DIR,tag=TAG");
	return err[0] ? -EINVAL : 0;
}

int shares_create(struct vm *vm, struct pci_host *h, unsigned slot)
{
	struct share_spec *spec = calloc(1, sizeof *spec);
	int err = spec ? 0 : -ENOMEM;
	for (unsigned i = 0; !err && i < vm->cfg.nshares; i++) {
		char why[256];
		err = share_spec_parse(spec, vm->cfg.shares[i], i, why, sizeof why);
		if (err) {
			log_error("--share \"%s\": %s", vm->cfg.shares[i], why);
			break;
		}
		int fd = share_start(&spec->cfg);
		err = fd < 0 ? fd : virtio_fs_create(h, slot + i, spec->tag, fd, spec->path) ? 0 : -EAGAIN;
	}
	free(spec);
	return err;
}
