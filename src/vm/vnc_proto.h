/* Between the VM process and nestbox-vnc: messages over a SOCK_SEQPACKET pair, pixels in a memfd that only the VM process writes. */
#ifndef NB_VM_VNC_PROTO_H
#define NB_VM_VNC_PROTO_H

#include <stdint.h>

/* Descriptors that nestbox-vnc is started with. */
enum { VNC_FD_VM = 3, VNC_FD_LISTEN = 4, VNC_FD_PIXELS = 5 };
enum { VNC_MAX_WIDTH = 2560, VNC_MAX_HEIGHT = 1600 };

enum vnc_kind { VNC_FRAME /* to the VM: draw; back: drawn */, VNC_KEY, VNC_POINTER };

struct vnc_message {
	uint32_t kind;
	int32_t a, b, c, d; /* FRAME back: width, height. KEY: scan code, down. POINTER: dx, dy, dz, buttons */
};

#endif
