/* From a --net option to an open port. */
#ifndef NB_NET_OPEN_H
#define NB_NET_OPEN_H

#include "net/port.h"
#include "net/spec.h"

/* Fills in what of the port its owner sets (port.h), with `name` for messages; starts the helper process that the kind needs. Before the sandbox. 0, or
 * -errno with one log line that names the option. */
int net_open(struct net_port *p, const struct net_spec *s, const char *name, const u8 *mac);

/* A MAC that stays the same for the same identity (a VM's name, say) and number; locally administered. No identity: a random one. */
void net_default_mac(u8 *mac, const char *identity, unsigned number);

#endif
