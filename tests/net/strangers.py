#!/usr/bin/env python3
"""The switch and the user-mode network, each a process of its own, get tens of thousands of random messages and still serve.

usage: strangers.py NESTBOX [SEED]      Exit status: 0 passed, 1 failed. The seed is printed.
"""
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

nestbox = os.path.abspath(sys.argv[1])
seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
print(f"seed {seed}")
rng = random.Random(seed)
problems = 0
MESSAGES = 30000


def check(ok, sentence):
    global problems
    problems += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {sentence}", flush=True)


def helper(verb, *args, fds):
    """Starts a helper with these descriptors as 3 and 4."""
    def place():
        high = [os.dup2(f, 50 + i) for i, f in enumerate(fds)]
        for i, f in enumerate(high):
            os.dup2(f, 3 + i)
    return subprocess.Popen([nestbox, verb, *args], pass_fds=[3 + i for i in range(len(fds))], close_fds=True, preexec_fn=place)


def frame(mac_from, mac_to=b"\xff" * 6):
    """Header and frame that are nearly right: IPv4 or IPv6, TCP, UDP or ICMP, with some bytes changed."""
    six, proto, data = rng.random() < 0.3, rng.choice((1, 6, 6, 17, 58)), rng.randbytes(rng.choice((0, 1, 20, 100, 1400, rng.randrange(60000))))
    body = struct.pack(">HHIIHHHH", rng.choice((53, 67, 69, 80)), rng.choice((53, 67, 69, 80)), rng.getrandbits(32), rng.getrandbits(32),
                       rng.choice((0x5002, 0x5010, 0x5018, 0x6002)), 65535, 0, 0) + data
    if six:
        packet = struct.pack(">IHBB", 6 << 28, len(body) & 0xffff, proto, 64) + bytes.fromhex("fec0") + bytes(13) + b"\x15" + bytes.fromhex("fec0") + bytes(13) + b"\x02"
    else:
        packet = struct.pack(">BBHHHBBH", 0x45, 0, (20 + len(body)) & 0xffff, 1, 0x4000, 64, proto, 0) + bytes((10, 0, 2, 15, 10, 0, 2, rng.choice((2, 3, 15, 255))))
    raw = bytearray(mac_to + mac_from + (b"\x86\xdd" if six else b"\x08\0") + packet + body)
    if rng.random() < 0.5:
        for _ in range(rng.randrange(4)):
            raw[rng.randrange(min(len(raw), 80))] = rng.getrandbits(8)
    l4 = 54 if six else 34
    header = struct.pack("<BBHHHHH", rng.choice((0, 1, 1, 3, 255)), rng.choice((0, 0, 1, 4, 5, 3, 0x81)), l4, rng.choice((0, 1, 1000, 1448, 65535)),
                         rng.choice((l4, l4, rng.randrange(65536))), rng.choice((16, 6)), 0)
    return header + bytes(raw)


def send(s, message):
    try:
        s.send(message)
    except BlockingIOError:
        time.sleep(0.001)
    except OSError:
        return False
    while True:
        try:
            if not s.recv(70000):
                return False
        except BlockingIOError:
            return True
        except OSError:
            return False


def arp(s, mac):
    """Whether 10.0.2.2 answers a request for its address."""
    request = b"\xff" * 6 + mac + b"\x08\x06" + bytes.fromhex("0001080006040001") + mac + bytes((10, 0, 2, 15)) + bytes(6) + bytes((10, 0, 2, 2))
    s.setblocking(True)
    s.settimeout(60)
    for _ in range(5):
        s.send(bytes(12) + request)
        end = time.monotonic() + 60
        try:
            while time.monotonic() < end:
                m = s.recv(70000)
                if m[24:26] == b"\x08\x06" and m[32:34] == b"\0\x02" and m[40:44] == bytes((10, 0, 2, 2)):
                    return True
        except TimeoutError:
            pass
    return False


def user():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    p = helper("net-user", "net0", "user,restrict=on", fds=[theirs.fileno()])
    theirs.close()
    mac = bytes.fromhex("020000000001")
    check(ours.recv(1) == b"\x01" and arp(ours, mac), "the user-mode network is there")
    ours.setblocking(False)
    for _ in range(MESSAGES):
        if not send(ours, frame(mac, rng.choice((b"\xff" * 6, bytes.fromhex("525500000202")))) if rng.random() < 0.9 else rng.randbytes(rng.randrange(1, 2000))):
            break
    check(p.poll() is None, f"it lives after {MESSAGES} random frames (status {p.poll()})")
    check(p.poll() is None and arp(ours, mac), "and its gateway still answers")
    ours.close()
    check(p.wait(60) == 0, "it ends with its machine")


def plug(path, mac, spoofing, blocking=False):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    s.send(struct.pack("<II6sBB", 0x6277736e, 1, mac, spoofing, 0))
    s.settimeout(60)
    return s, s.recv(1)


def crosses(a, b, mac_a, mac_b):
    message = bytes(12) + mac_b + mac_a + b"\x88\xb5" + os.urandom(50)
    a.settimeout(60)
    b.settimeout(60)
    a.send(message)
    try:
        while (got := b.recv(70000)) != message:
            if not got:
                return False
        return True
    except (TimeoutError, OSError):
        return False


def switch():
    work = tempfile.mkdtemp(prefix="nestbox-strangers-")
    path = os.path.join(work, "switch")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(16)
    folder = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
    p = helper("net-switch", "net0", path, fds=[listener.fileno(), folder])
    listener.close()
    mac_a, mac_b = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    (a, welcome_a), (b, welcome_b) = plug(path, mac_a, 0), plug(path, mac_b, 0)
    check(welcome_a == welcome_b == b"\x01" and crosses(a, b, mac_a, mac_b), "the switch is there")
    check(plug(path, mac_a, 0)[1] == b"\x02", "a MAC that is taken is refused")
    message = bytes(12) + mac_b + bytes.fromhex("020000000099") + b"\x88\xb5" + bytes(50)
    b.settimeout(1)
    a.send(message)
    try:
        check(b.recv(70000) != message, "a foreign source MAC does not cross")
    except TimeoutError:
        check(True, "a foreign source MAC does not cross")
    for _ in range(200):  # strangers that say anything, or nothing
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        s.connect(path)
        if rng.random() < 0.8:
            s.send(rng.randbytes(rng.randrange(1, 200)))
        s.close()
    c, _ = plug(path, bytes.fromhex("020000000003"), 1)
    c.setblocking(False)
    for _ in range(MESSAGES):
        source = bytes((2, 0, 0, 1, rng.getrandbits(8), rng.getrandbits(8)))
        if not send(c, frame(source, rng.choice((mac_a, mac_b, b"\xff" * 6, source))) if rng.random() < 0.9 else rng.randbytes(rng.randrange(1, 2000))):
            break
        if rng.random() < 0.05:
            for s in (a, b):
                s.setblocking(False)
                send(s, bytes(12))
    check(p.poll() is None, f"it lives after {MESSAGES} random frames (status {p.poll()})")
    check(crosses(a, b, mac_a, mac_b) and crosses(b, a, mac_b, mac_a), "and frames still cross it")
    for s in (a, b, c):
        s.close()
    check(p.wait(60) == 0 and not os.path.exists(path), "it ends with its last port, and its socket is gone")
    shutil.rmtree(work)


user()
switch()
sys.exit(problems > 0)
