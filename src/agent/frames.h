/* What nestbox and its helper in the guest say to each other over a port, org.nestbox.exec.N: frames of an 8-byte head and at most FRAME_MAX bytes.
 * Shared by the host's side and the guest's helper, so it includes nothing of ours. One session per opening of the port:
 *
 *   guest: HELLO                              host: SET... GO, then STDIN, SIGNAL, WINSIZE
 *   guest: BEGAN, then OUT, ERR, ACK, and last EXIT; or FAIL in place of BEGAN
 *
 * Surprise: the host sends at most FRAME_WINDOW bytes of standard input beyond what ACK frames have confirmed, so that a command that does not read
 * never stands in the way of a signal. */
#ifndef NB_AGENT_FRAMES_H
#define NB_AGENT_FRAMES_H

#include <stdint.h>

enum { FRAME_MAX = 16384, FRAME_WINDOW = 65536, FRAME_HEAD = 8, FRAME_VERSION = 1 };

enum frame_type {
	/* host -> guest. SET: "key=value" without end mark: op (exec, get, put), arg (repeated), env (repeated), cwd, uid, gid, groups, path, mode, tty (ROWSxCOLS),
	 * host, mount (TAG:PATH). STDIN of length 0: end of input. SIGNAL: u32 number. WINSIZE: u16 rows, u16 columns. */
	FRAME_SET = 'S', FRAME_GO = 'G', FRAME_STDIN = 'I', FRAME_SIGNAL = 'K', FRAME_WINSIZE = 'W',
	/* guest -> host. HELLO: u32 version. BEGAN: u64 ns since the guest's kernel started. ACK: u32 bytes. EXIT: u32 0 and the status, or u32 1 and the signal's
	 * number. FAIL: u32 status (127 not found, 126 else), then a sentence. */
	FRAME_HELLO = 'H', FRAME_BEGAN = 'B', FRAME_OUT = 'O', FRAME_ERR = 'E', FRAME_ACK = 'A', FRAME_EXIT = 'X', FRAME_FAIL = 'F',
};

struct frame_head {
	uint8_t type, zero[3];
	uint32_t len;
};

#endif
