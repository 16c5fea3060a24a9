/* The argument of --net, taken apart. */
#ifndef NB_NET_SPEC_H
#define NB_NET_SPEC_H

#include "net/frame.h"
#include <netinet/in.h>

enum net_kind { NET_KIND_USER, NET_KIND_TAP, NET_KIND_SOCKET, NET_KIND_SWITCH, NET_KINDS };
enum { NET_SPEC_TEXT = 1024, NET_MAX_FORWARDS = 32, NET_PATH_MAX = 107 /* sun_path */, NET_NAME_MAX = 40 };

struct net_forward {
	bool udp;
	struct in_addr host, guest;
	u16 host_port, guest_port;
};

struct net_spec {
	char text[NET_SPEC_TEXT];       /* as given */
	enum net_kind kind;
	bool has_mac, mac_spoofing;
	u8 mac[NET_MAC_BYTES];
	unsigned queues;                /* 0: as many as there are vCPUs */
	u16 mtu;                        /* 0: not said */
	struct net_forward forward[NET_MAX_FORWARDS];
	unsigned nforwards;
	bool restricted;                /* user: nothing but forwards */
	bool server;                    /* socket: listen, do not connect */
	char ifname[16];
	char path[NET_PATH_MAX + 1], name[NET_NAME_MAX + 1];
};

/* 0, or -EINVAL with a sentence in err (without the option's name and value, which the caller puts before it). */
int net_spec_parse(struct net_spec *s, const char *text, char *err, size_t size);

#endif
