/* Verbs about network cards: what they have counted, and pulling the cable. */
#include "ctl/ctl.h"
#include "ctl/handlers.h"
#include "virtio/virtio_net.h"

#include <stdio.h>

static json_t *describe(struct vm *vm, unsigned i)
{
	struct virtio_net *n = vm->nics[i];
	struct virtio_net_counts c;
	char mac[24];

	virtio_net_get_counts(n, &c);
	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", n->own[0], n->own[1], n->own[2], n->own[3], n->own[4], n->own[5]);
	return json_pack("{si ss ss sb sb sb sI sI sI sI sI sI sI}", "card", (int)i, "option", vm->cfg.nets[i], "mac", mac, "mac_spoofing", (int)n->mac_spoofing,
			 "cable", (int)n->cable, "link", (int)n->link_up, "out_frames", (json_int_t)c.out_frames, "out_bytes", (json_int_t)c.out_bytes,
			 "in_frames", (json_int_t)c.in_frames, "in_bytes", (json_int_t)c.in_bytes, "spoofed_dropped", (json_int_t)c.spoofed,
			 "filtered", (json_int_t)c.filtered, "in_lost", (json_int_t)(c.lost_in + n->port->lost_in));
}

void ctl_do_nets(struct vm *vm, struct ctl_call *call, json_t *args)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < vm->cfg.nnets; i++)
		json_array_append_new(list, describe(vm, i));
	ctl_reply(call, json_pack("{so}", "nets", list));
}

void ctl_do_net_cable(struct vm *vm, struct ctl_call *call, json_t *args)
{
	json_int_t card = json_integer_value(json_object_get(args, "card"));

	if (card < 0 || card >= vm->cfg.nnets) {
		ctl_fail(call, "no-such-card", "there is no network card %lld; the machine has %u", (long long)card, vm->cfg.nnets);
		return;
	}
	virtio_net_set_cable(vm->nics[card], json_is_true(json_object_get(args, "in")));
	ctl_reply(call, json_pack("{sb}", "link", (int)vm->nics[card]->link_up));
}
