/* What the parts of virtio-net share. */
#ifndef NB_VIRTIO_NET_INT_H
#define NB_VIRTIO_NET_INT_H

#include "virtio/virtio_net.h"

#define NET_F_CSUM BIT(0)
#define NET_F_GUEST_CSUM BIT(1)
#define NET_F_CTRL_GUEST_OFFLOADS BIT(2)
#define NET_F_MTU BIT(3)
#define NET_F_MAC BIT(5)
#define NET_F_GUEST_TSO4 BIT(7)
#define NET_F_GUEST_TSO6 BIT(8)
#define NET_F_GUEST_ECN BIT(9)
#define NET_F_HOST_TSO4 BIT(11)
#define NET_F_HOST_TSO6 BIT(12)
#define NET_F_HOST_ECN BIT(13)
#define NET_F_MRG_RXBUF BIT(15)
#define NET_F_STATUS BIT(16)
#define NET_F_CTRL_VQ BIT(17)
#define NET_F_CTRL_RX BIT(18)
#define NET_F_CTRL_VLAN BIT(19)
#define NET_F_CTRL_RX_EXTRA BIT(20)
#define NET_F_GUEST_ANNOUNCE BIT(21)
#define NET_F_MQ BIT(22)
#define NET_F_CTRL_MAC_ADDR BIT(23)
#define NET_F_GUEST_USO4 BIT(54)
#define NET_F_GUEST_USO6 BIT(55)
#define NET_F_HOST_USO BIT(56)
#define NET_F_SPEED_DUPLEX BIT(63)
/* What GUEST_OFFLOADS_SET may switch. */
#define NET_GUEST_OFFLOADS (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN | NET_F_GUEST_USO4 | NET_F_GUEST_USO6)

/* Bits of rx_mode: the commands of class VIRTIO_NET_CTRL_RX. */
enum { NET_RX_PROMISC, NET_RX_ALLMULTI, NET_RX_ALLUNI, NET_RX_NOMULTI, NET_RX_NOUNI, NET_RX_NOBCAST, NET_RX_MODES };
enum { NET_S_LINK_UP = 1, NET_S_ANNOUNCE = 2 };

static inline struct virtio_net *virtio_net_of(struct virtio_device *v) { return container_of(v, struct virtio_net, v); }
/* Receive features in force now. */
static inline bool virtio_net_guest_takes(const struct virtio_net *n, u64 offload) { return (n->regs.offloads & offload) == offload; }

/* ---- virtio_net.c ---- */
/* Status, MAC and the rest of v->config from registers. */
void virtio_net_update(struct virtio_net *n);

/* ---- virtio_net_ctrl.c; bus->lock held ---- */
void virtio_net_serve_ctrl(struct virtio_net *n, unsigned queue);
bool virtio_net_accepts(const struct virtio_net *n, const u8 *frame, u32 len);

/* ---- virtio_net_rx.c, virtio_net_tx.c: the port's callbacks ---- */
bool virtio_net_receive(void *net, const struct net_hdr *h, const u8 *frame, u32 len);
void virtio_net_received(void *net);
bool virtio_net_transmit(void *net);
/* The driver has kicked a transmit queue; bus->lock held. */
void virtio_net_kicked(struct virtio_net *n);
/* The same number for both directions of a flow. */
unsigned virtio_net_flow(const u8 *frame, u32 len);

#endif
