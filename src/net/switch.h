/* The virtual switch's line: what a port says when it is plugged in. Frames follow both ways as messages of net_hdr and frame. */
#ifndef NB_NET_SWITCH_H
#define NB_NET_SWITCH_H

#include "net/frame.h"

#define NET_SWITCH_MAGIC 0x6277736eu /* "nswb" */

struct net_switch_hello {
	u32 magic, version;
	u8 mac[NET_MAC_BYTES];
	u8 mac_spoofing, pad;
};

enum { NET_SWITCH_VERSION = 1, NET_SWITCH_WELCOME = 1, NET_SWITCH_MAC_TAKEN = 2, NET_SWITCH_FULL = 3, NET_SWITCH_BAD_HELLO = 4 };

#endif
