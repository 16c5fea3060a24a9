/* virtio-rng: entropy from the host's getrandom(). Specification "Entropy Device". */
#ifndef NB_VIRTIO_RNG_H
#define NB_VIRTIO_RNG_H

#include "virtio/virtio_pci.h"

struct virtio_device *virtio_rng_create(struct pci_host *h, unsigned slot);

#endif
