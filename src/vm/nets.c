/* The machine's network cards: a card per --net option, its back-end opened, its MAC chosen. */
#include "base/log.h"
#include "net/open.h"
#include "virtio/virtio_net.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdlib.h>

/* What the MAC is made from, so that it stays when the machine is started again: its name, else its first disk. */
static const char *identity(const struct vm_config *cfg) { return cfg->name ? cfg->name : cfg->ndisks ? cfg->disks[0] : ""; }

static int create_one(struct vm *vm, struct pci_host *pci, unsigned slot, unsigned number)
{
	struct virtio_net_config cfg = { .threaded = true, .allow = vm->cfg.nets[number] };
	struct net_spec spec;
	char err[256], name[24];

	if (net_spec_parse(&spec, vm->cfg.nets[number], err, sizeof err)) {
		log_error("--net \"%s\": %s", vm->cfg.nets[number], err);
		return -EINVAL;
	}
	if (spec.has_mac)
		memcpy(cfg.mac, spec.mac, NET_MAC_BYTES);
	else
		net_default_mac(cfg.mac, identity(&vm->cfg), number);
	snprintf(name, sizeof name, "net%u", number);
	cfg.mac_spoofing = spec.mac_spoofing;
	cfg.mtu = spec.mtu;
	cfg.pairs = (unsigned)min_u64(spec.queues ? spec.queues : vm->ncpus, VIRTIO_NET_MAX_PAIRS);
	cfg.port = calloc(1, sizeof *cfg.port);
	int r = cfg.port ? net_open(cfg.port, &spec, name, cfg.mac) : -ENOMEM;
	if (r) {
		free(cfg.port);
		return r;
	}
	if (spec.server)
		vm->promises |= SANDBOX_SERVE;
	vm->nics[number] = virtio_net_create(pci, slot, &cfg);
	return vm->nics[number] ? 0 : -EAGAIN;
}

int nets_create(struct vm *vm, struct pci_host *pci, unsigned first_slot)
{
	int err = 0;
	for (unsigned i = 0; i < vm->cfg.nnets && !err; i++)
		err = create_one(vm, pci, first_slot + i, i);
	return err;
}

void nets_print_stats(struct vm *vm, FILE *out)
{
	for (unsigned i = 0; i < vm->cfg.nnets; i++) {
		struct virtio_net_counts c;
		if (!vm->nics[i])
			continue;
		virtio_net_get_counts(vm->nics[i], &c);
		const u8 *m = vm->nics[i]->own;
		fprintf(out, "stats: net=%u mac=%02x:%02x:%02x:%02x:%02x:%02x out_frames=%llu out_bytes=%llu in_frames=%llu in_bytes=%llu spoofed_dropped=%llu "
			"bad_dropped=%llu filtered=%llu in_lost=%llu out_lost=%llu\n",
			i, m[0], m[1], m[2], m[3], m[4], m[5], (unsigned long long)c.out_frames, (unsigned long long)c.out_bytes,
			(unsigned long long)c.in_frames, (unsigned long long)c.in_bytes, (unsigned long long)c.spoofed, (unsigned long long)c.bad_out,
			(unsigned long long)c.filtered, (unsigned long long)(c.lost_in + vm->nics[i]->port->lost_in), (unsigned long long)vm->nics[i]->port->lost_out);
	}
}
