/* What virtio_device.c and virtio_pci.c share. */
#ifndef NB_VIRTIO_INTERNAL_H
#define NB_VIRTIO_INTERNAL_H

#include "virtio/virtio_pci.h"

void virtio_reset(struct virtio_device *v);
void virtio_write_status(struct virtio_device *v, u8 value);
void virtio_write_features(struct virtio_device *v, u32 value);
void virtio_kick(struct virtio_device *v, unsigned n);
/* Level of INTx from registers. */
void virtio_update(struct virtio_device *v);
/* Adds BARs, capabilities and MSI-X. */
void virtio_pci_init(struct virtio_device *v);

#endif
