/* The machine's shared folders: --share's text, and the virtio-fs devices with their servers. */
#ifndef NB_SHARES_H
#define NB_SHARES_H

#include "share/share.h"
#include "vm/vm.h"

struct pci_host;

struct share_spec {
	char path[4096];
	char tag[37];
	struct share_config cfg; /* its path points to the one above */
};

/* DIR[:ro|:rw][,tag=TAG][,cache=SECONDS], the number-th of the machine. 0, or -EINVAL with a sentence in err. */
int share_spec_parse(struct share_spec *spec, const char *text, unsigned number, char *err, size_t size);
/* A device with a server for each of vm->cfg.shares, from the PCI slot on. 0, or -errno with one log line. */
int shares_create(struct vm *vm, struct pci_host *h, unsigned slot);

#endif
