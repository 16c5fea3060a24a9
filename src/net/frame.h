/* Ethernet frames as they travel between network cards, back-ends and the switch: a header that says what the sender left undone
 * (checksum, segmentation), then the frame. Not here: who sends what to whom. Surprise: the header is virtio's own (specification
 * "Network Device", "Device Operation"), which is also what Linux's TAP devices speak, so that a frame of 64 KiB can cross from one guest to
 * another without ever being cut into packets. */
#ifndef NB_NET_FRAME_H
#define NB_NET_FRAME_H

#include "base/base.h"

enum {
	NET_MAC_BYTES = 6,
	NET_ETH_BYTES = 14,
	NET_HDR_BYTES = 12,
	NET_FRAME_MAX = 65535 + 14 + 4, /* the longest IP packet, with a VLAN tag */
};

enum { NET_NEEDS_CSUM = 1, NET_DATA_VALID = 2 }; /* net_hdr.flags */
enum { NET_GSO_NONE = 0, NET_GSO_TCPV4 = 1, NET_GSO_TCPV6 = 4, NET_GSO_UDP_L4 = 5, NET_GSO_ECN = 0x80 }; /* net_hdr.gso_type */

struct net_hdr {
	u8 flags, gso_type;
	u16 hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
_Static_assert(sizeof(struct net_hdr) == NET_HDR_BYTES, "net_hdr has padding");

/* Where the layers of a frame begin; all offsets lie inside it. */
struct net_layers {
	u16 l3, l4;
	u32 payload, end; /* of TCP or UDP data */
	u8 version;       /* 4 or 6 */
	u8 proto;         /* NET_TCP or NET_UDP */
};
enum { NET_TCP = 6, NET_UDP = 17 };

static inline u16 net_get16(const u8 *p) { return (u16)(p[0] << 8 | p[1]); }
static inline u32 net_get32(const u8 *p) { return (u32)net_get16(p) << 16 | net_get16(p + 2); }
static inline void net_put16(u8 *p, u32 v) { p[0] = (u8)(v >> 8); p[1] = (u8)v; }
static inline void net_put32(u8 *p, u32 v) { net_put16(p, v >> 16); net_put16(p + 2, v); }
static inline bool net_is_multicast(const u8 *mac) { return mac[0] & 1; }

/* False for what is neither TCP nor UDP over IPv4 or IPv6, for fragments, IPv6 extension headers, and lengths that do not fit. */
bool net_parse(const u8 *frame, u32 len, struct net_layers *l);

/* Ones-complement sum of n bytes added to `sum`, folded to 16 bits, not inverted; as a number to store with net_put16 (RFC 1071). */
u16 net_sum(const u8 *p, u32 n, u32 sum);
/* The same of the pseudo header for `bytes` of transport header and data. */
u16 net_pseudo_sum(const u8 *frame, const struct net_layers *l, u32 bytes);

/* Whether a header from outside makes sense for its frame: known kinds, all offsets inside. */
bool net_hdr_valid(const struct net_hdr *h, const u8 *frame, u32 len);
/* Does what NET_NEEDS_CSUM asks for. h is valid and has no segmentation. */
void net_finish_csum(struct net_hdr *h, u8 *frame, u32 len);

/* Cuts a frame with gso_type into packets of at most gso_size bytes of data, with checksums. False: it cannot be cut, and nothing was emitted. */
typedef void (*net_emit)(void *opaque, const struct net_hdr *h, const u8 *frame, u32 len);
bool net_segment(const struct net_hdr *h, const u8 *frame, u32 len, net_emit emit, void *opaque);

/* Consecutive TCP packets of one connection put together to one frame with gso_type, the reverse of net_segment. */
struct net_merge {
	u8 *frame;            /* NET_FRAME_MAX bytes, the owner's */
	u32 len;              /* 0: empty */
	u32 packets, next_seq;
	u16 gso_size;
	bool trusted;         /* checksums need no check: the sender is our own stack */
	struct net_layers l;
	net_emit emit;
	void *opaque;
};
/* Takes a packet; emits what it cannot be added to, or what is complete. */
void net_merge_add(struct net_merge *m, const u8 *frame, u32 len);
void net_merge_flush(struct net_merge *m);

#endif
