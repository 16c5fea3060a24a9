/* nestbox-vnc: shows a VM's screen to VNC viewers, by libvncserver. A program of its own, because that library's licence (GPL-2+) is not ours, and because
 * it talks to strangers: it holds nothing but a listening socket, the pixels and a socket to the VM process. Started by nestbox with the descriptors of
 * vm/vnc_proto.h. Surprise: which parts have changed is found by comparing pictures, here, so that the guest draws at full speed. */
#include "vm/vnc_proto.h"

#include <errno.h>
#include <poll.h>
#include <rfb/keysym.h>
#include <rfb/rfb.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PIXEL_BYTES ((size_t)VNC_MAX_WIDTH * VNC_MAX_HEIGHT * 4)
enum { FRAME_MS = 40, TILE = 64 };

static const uint32_t *shared;
static uint32_t *shown;
static rfbScreenInfoPtr screen;
static int asked; /* a picture is on its way */
static int clients, last_x = -1, last_y = -1;

/* ---- input ---- */

static void tell(uint32_t kind, int a, int b, int c, int d)
{
	struct vnc_message m = { kind, a, b, c, d };
	if (write(VNC_FD_VM, &m, sizeof m) < 0 && errno != EAGAIN)
		exit(0);
}

/* Keysyms to scan codes of set 1, a US keyboard. Viewers send the shift key themselves. */
static const struct { rfbKeySym sym; uint16_t code; } special[] = {
	{ XK_Escape, 0x01 }, { XK_BackSpace, 0x0e }, { XK_Tab, 0x0f }, { XK_ISO_Left_Tab, 0x0f }, { XK_Return, 0x1c }, { XK_KP_Enter, 0xe01c },
	{ XK_Control_L, 0x1d }, { XK_Control_R, 0xe01d }, { XK_Shift_L, 0x2a }, { XK_Shift_R, 0x36 }, { XK_Alt_L, 0x38 }, { XK_Alt_R, 0xe038 },
	{ XK_Meta_L, 0x38 }, { XK_ISO_Level3_Shift, 0xe038 }, { XK_space, 0x39 }, { XK_Caps_Lock, 0x3a }, { XK_F1, 0x3b }, { XK_F2, 0x3c }, { XK_F3, 0x3d },
	{ XK_F4, 0x3e }, { XK_F5, 0x3f }, { XK_F6, 0x40 }, { XK_F7, 0x41 }, { XK_F8, 0x42 }, { XK_F9, 0x43 }, { XK_F10, 0x44 }, { XK_F11, 0x57 },
	{ XK_F12, 0x58 }, { XK_Num_Lock, 0x45 }, { XK_Scroll_Lock, 0x46 }, { XK_Home, 0xe047 }, { XK_Up, 0xe048 }, { XK_Page_Up, 0xe049 },
	{ XK_Left, 0xe04b }, { XK_Right, 0xe04d }, { XK_End, 0xe04f }, { XK_Down, 0xe050 }, { XK_Page_Down, 0xe051 }, { XK_Insert, 0xe052 },
	{ XK_Delete, 0xe053 }, { XK_Super_L, 0xe05b }, { XK_Super_R, 0xe05c }, { XK_Menu, 0xe05d },
};
static const char plain[] = "1234567890-=  qwertyuiop[]  asdfghjkl;'` \\zxcvbnm,./";
static const char shifted[] = "!@#$%^&*()_+  QWERTYUIOP{}  ASDFGHJKL:\"~ |ZXCVBNM<>?";

static void on_key(rfbBool down, rfbKeySym sym, rfbClientPtr client)
{
	for (unsigned i = 0; i < sizeof special / sizeof *special; i++)
		if (special[i].sym == sym) {
			tell(VNC_KEY, special[i].code, down, 0, 0);
			return;
		}
	if (sym <= ' ' || sym > '~')
		return;
	const char *p = strchr(plain, (int)sym), *s = strchr(shifted, (int)sym);
	tell(VNC_KEY, 2 + (int)(p ? p - plain : s - shifted), down, 0, 0);
}

/* The mouse of the guest knows movements only. */
static void on_pointer(int buttons, int x, int y, rfbClientPtr client)
{
	int dx = last_x < 0 ? 0 : x - last_x, dy = last_y < 0 ? 0 : last_y - y;
	last_x = x;
	last_y = y;
	tell(VNC_POINTER, dx, dy, buttons & 8 ? 1 : buttons & 16 ? -1 : 0, (buttons & 1) | (buttons & 4) >> 1 | (buttons & 2) << 1);
	rfbDefaultPtrAddEvent(buttons, x, y, client);
}

/* ---- pictures ---- */

static void ask(void)
{
	if (asked)
		return;
	asked = 1;
	tell(VNC_FRAME, 0, 0, 0, 0);
}

static void mark(int x, int y, int width, int height)
{
	int changed = 0;
	for (int row = y; row < y + height; row++) {
		size_t at = (size_t)row * screen->width + x;
		if (!memcmp(shown + at, shared + at, (size_t)width * 4))
			continue;
		memcpy(shown + at, shared + at, (size_t)width * 4);
		changed = 1;
	}
	if (changed)
		rfbMarkRectAsModified(screen, x, y, x + width, y + height);
}

static void on_frame(int width, int height)
{
	asked = 0;
	if (width < 1 || height < 1 || width > VNC_MAX_WIDTH || height > VNC_MAX_HEIGHT)
		return;
	if (width != screen->width || height != screen->height) {
		memset(shown, 0, PIXEL_BYTES);
		rfbNewFramebuffer(screen, (char *)shown, width, height, 8, 3, 4);
		screen->serverFormat.redShift = 16;
		screen->serverFormat.blueShift = 0;
	}
	for (int y = 0; y < height; y += TILE)
		for (int x = 0; x < width; x += TILE)
			mark(x, y, width - x < TILE ? width - x : TILE, height - y < TILE ? height - y : TILE);
}

static void read_vm(void)
{
	struct vnc_message m;
	ssize_t n = read(VNC_FD_VM, &m, sizeof m);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != sizeof m)
		exit(0); /* the VM has ended */
	if (m.kind == VNC_FRAME)
		on_frame(m.a, m.b);
}

/* ---- life ---- */

static void on_gone(rfbClientPtr client) { clients--; }
static enum rfbNewClientAction on_new(rfbClientPtr client)
{
	client->clientGoneHook = on_gone;
	clients++;
	return RFB_CLIENT_ACCEPT;
}

/* A socket of the file system outlives its listeners. */
static void remove_socket(void)
{
	struct sockaddr_un a;
	socklen_t len = sizeof a;
	if (!getsockname(VNC_FD_LISTEN, (struct sockaddr *)&a, &len) && a.sun_family == AF_UNIX && len > sizeof a.sun_family)
		unlink(a.sun_path);
}

static void quiet(const char *format, ...) {}

static rfbScreenInfoPtr make_screen(int *argc, char **argv)
{
	rfbScreenInfoPtr s = rfbGetScreen(argc, argv, 640, 480, 8, 3, 4);
	if (!s)
		return NULL;
	s->desktopName = "nestbox";
	s->frameBuffer = (char *)shown;
	s->serverFormat.redShift = 16;
	s->serverFormat.blueShift = 0;
	s->port = s->ipv6port = 0;
	s->alwaysShared = TRUE;
	s->kbdAddEvent = on_key;
	s->ptrAddEvent = on_pointer;
	s->newClientHook = on_new;
	s->deferUpdateTime = 5;
	rfbSetCursor(s, NULL); /* the guest draws its own */
	rfbInitServer(s);
	return s;
}

/* What serving viewers takes. Whatever else is asked, by the library or by a viewer that has taken it over, is refused; no file can be opened. */
static int confine(void)
{
	static const int calls[] = {
		SCMP_SYS(read), SCMP_SYS(write), SCMP_SYS(readv), SCMP_SYS(writev), SCMP_SYS(sendto), SCMP_SYS(recvfrom), SCMP_SYS(sendmsg), SCMP_SYS(recvmsg),
		SCMP_SYS(accept), SCMP_SYS(accept4), SCMP_SYS(getsockname), SCMP_SYS(getpeername), SCMP_SYS(setsockopt), SCMP_SYS(getsockopt), SCMP_SYS(shutdown),
		SCMP_SYS(close), SCMP_SYS(fcntl), SCMP_SYS(poll), SCMP_SYS(ppoll), SCMP_SYS(select), SCMP_SYS(pselect6), SCMP_SYS(restart_syscall),
		SCMP_SYS(mmap), SCMP_SYS(munmap), SCMP_SYS(mremap), SCMP_SYS(mprotect), SCMP_SYS(madvise), SCMP_SYS(brk), SCMP_SYS(futex),
		SCMP_SYS(clock_gettime), SCMP_SYS(gettimeofday), SCMP_SYS(getrandom), SCMP_SYS(getpid), SCMP_SYS(gettid), SCMP_SYS(tgkill),
		SCMP_SYS(rt_sigaction), SCMP_SYS(rt_sigprocmask), SCMP_SYS(rt_sigreturn), SCMP_SYS(exit_group), SCMP_SYS(exit),
		SCMP_SYS(unlink), SCMP_SYS(unlinkat), /* its socket, at the end */
	};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err = ctx ? 0 : -ENOMEM;
	for (unsigned i = 0; !err && i < sizeof calls / sizeof *calls; i++)
		err = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (!err)
		err = seccomp_load(ctx);
	seccomp_release(ctx);
	return err;
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	rfbLog = rfbErr = quiet;
	shared = mmap(NULL, PIXEL_BYTES, PROT_READ, MAP_SHARED, VNC_FD_PIXELS, 0);
	shown = calloc(1, PIXEL_BYTES);
	if (shared == MAP_FAILED || !shown || !(screen = make_screen(&argc, argv)))
		return 1;
	atexit(remove_socket);
	if (confine())
		return 1;
	for (;;) {
		struct pollfd p[] = { { .fd = VNC_FD_VM, .events = POLLIN }, { .fd = VNC_FD_LISTEN, .events = POLLIN } };
		if (poll(p, 2, clients ? FRAME_MS / 2 : -1) < 0 && errno != EINTR)
			return 1;
		if (p[0].revents)
			read_vm();
		if (p[1].revents) {
			int fd = accept(VNC_FD_LISTEN, NULL, NULL);
			if (fd >= 0)
				rfbNewClient(screen, fd);
		}
		if (clients) {
			ask();
			rfbProcessEvents(screen, FRAME_MS * 500);
		}
	}
}
