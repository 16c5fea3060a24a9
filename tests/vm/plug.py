#!/usr/bin/env python3
"""Memory is plugged and unplugged by a VM whose L2 counts: it grows, is used, lives through save and start, shrinks, and leaves the process.

usage: plug.py NESTBOX ENGINE      Exit status: 0 passed, 1 failed, 77 no guest images (make them with tools/guest-images).
"""
import base64
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache"))
IMAGES = CACHE + "/images"
MODULE = glob.glob(f"{CACHE}/unpacked/linux-image-*/lib/modules/*/kernel/drivers/virtio/virtio_mem.ko")
COUNT = 'n=0; while [ $n -lt 100000 ]; do n=$((n+1)); mark count "n=$n"; sleep 0.1; done\n'
# L1: says what it has once a second; once it has got more it puts a file of FILE MiB, which the memory of power-on cannot hold, into it and keeps its sum in mind;
# once it has been told to go on, by a second step up, it checks the sum and removes the file.
FILE = 400
L1 = f"""
load virtio_pci; load virtio_balloon; insmod /virtio_mem.ko && mark plugs
total() {{ awk '/^MemTotal/ {{ print int($2 / 1024) }}' /proc/meminfo; }}
mount -t tmpfs -o size=900m t /mnt
(first=$(total); state=waits
while :; do now=$(total); mark total "mib=$now first=$first state=$state"
	if [ $state = waits ] && [ $now -gt $((first + 300)) ]; then
		dd if=/dev/urandom of=/tmp/seed bs=1M count=4 2>/dev/null
		for i in $(seq {FILE // 4}); do cat /tmp/seed >>/mnt/x; done; sum=$(md5sum </mnt/x); state=filled
	fi
	if [ $state = filled ] && [ $now -gt $((first + 440)) ]; then
		[ "$sum" = "$(md5sum </mnt/x)" ] && state=same || state=differs; rm /mnt/x
	fi
	sleep 1
done) &
"""
BAD = r"WARNING:|BUG:|soft lockup|rcu.*stall|Marking clocksource.*|event=badlog.*|Kernel panic|Out of memory|virtio_mem.*error"
MIB = 1 << 20
START, MOST = 448, 960

if not os.path.exists(f"{IMAGES}/l1.cpio") or not MODULE:
    print("no guest images")
    sys.exit(77)
nestbox, engine = os.path.abspath(sys.argv[1]), sys.argv[2]
work = tempfile.mkdtemp(prefix="nestbox-plug-")


def newc(name, data):
    """A cpio archive of one file, as the kernel unpacks after others."""
    out = b""
    for n, d in ((name, data), ("TRAILER!!!", b"")):
        out += b"070701" + b"".join(b"%08X" % v for v in (0, 0o100644, 0, 0, 1, 0, len(d), 0, 0, 0, 0, len(n) + 1, 0)) + n.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + d
        out += b"\0" * (-len(out) % 4)
    return out


def fail(text):
    print("FAIL:", text)
    print(nb("log", "a", check=False), nb("console", "a", "--dump", check=False)[-3000:], nb("ctl", "a", "memory", check=False))
    sys.exit(1)


def nb(*args, check=True):
    r = subprocess.run([nestbox, "--state", f"{work}/state", *args], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=300)
    if check and r.returncode:
        fail(f"nestbox {' '.join(args)}: status {r.returncode}: {r.stderr}{r.stdout}")
    return r.stdout


def console():
    return nb("console", "a", "--dump")


def counts():
    return [int(n) for n in re.findall(r"level=2 event=count .*n=(\d+)\r?\n", console())]


def guest():
    """What L1 said last: MemTotal, the same at first, and what it is doing."""
    said = re.findall(r"event=total .*mib=(\d+) first=(\d+) state=(\w+)\r?\n", console())
    return (int(said[-1][0]), int(said[-1][1]), said[-1][2]) if said else (0, 0, "silent")


def wait(what, ready, seconds=240):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            fail(f"in {seconds} s never: {what}")
        time.sleep(0.3)


def goes_on():
    last = len(counts())
    wait("the L2 counts on", lambda: len(counts()) > last + 2)


def memory():
    return json.loads(nb("ctl", "a", "memory"))


def show(what):
    m = memory()
    print(f"{what}: the guest has {m['now'] // MIB} MiB, {m['plugged'] // MIB} plugged, says MemTotal {guest()[0]} MiB; the process holds {m['resident'] // MIB}", flush=True)
    return m


def resize(mib):
    nb("set", "a", f"memory={mib}M")
    wait(f"the guest has {mib} MiB", lambda: memory()["now"] == mib * MIB, 180)
    goes_on()


try:
    leaf, l1 = (base64.b64encode(s.encode()).decode() for s in (COUNT, L1))
    append = ("console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests memhp_default_state=online_movable "
              f"nb.mode=auto nb.depth=2 nb.cmd64={l1} nb.leaf64={leaf}")
    with open(f"{work}/initrd", "wb") as f:
        f.write(open(f"{IMAGES}/l1.cpio", "rb").read() + newc("virtio_mem.ko", open(MODULE[0], "rb").read()))
    nb("create", "a", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{work}/initrd", "--append", append, "--memory", f"{START}M:{START}M:{MOST}M",
       "--nested", "on", "--engine", engine)
    nb("start", "a")
    wait("L2 counts", lambda: len(counts()) > 3)
    resize(START)
    before, first = show("at first"), guest()[1]
    if before["plugged"] or not START - 100 < first < START:
        fail(f"it began with {first} MiB, {before}")

    resize(START + 384)
    wait("MemTotal grows by 384 MiB", lambda: guest()[0] - first == 384)
    wait("the guest fills what it got", lambda: guest()[2] == "filled", 300)
    full = show("grown and used")
    if full["resident"] < before["resident"] + 250 * MIB:
        fail(f"the guest's file is not in our memory: {full}")

    saved = counts()[-1]
    nb("save", "a")
    size = sum(os.stat(p).st_size for p in glob.glob(f"{work}/state/vms/*/checkpoints/*.snap"))
    nb("start", "a")
    wait("the L2 counts after the restore", lambda: len(counts()) > 2)
    if not saved <= counts()[0] <= saved + 20:
        fail(f"saved after {saved}, went on at {counts()[0]}")
    wait("the guest speaks again", lambda: guest()[0])
    again = show(f"saved after {saved} ({size // MIB} MiB of snapshot), went on at {counts()[0]}")
    if again["plugged"] != 384 * MIB or again["min"] != again["wanted"] or guest()[0] - first != 384:
        fail("what was plugged is not plugged any more, or not meant to stay")

    resize(MOST)
    wait("the guest has checked its file", lambda: guest()[2] in ("same", "differs"), 300)
    if guest()[2] != "same":
        fail("the file in plugged memory has changed")
    resize(START)
    wait("MemTotal is what it was", lambda: guest()[0] == first)
    small = show("shrunk")
    if small["plugged"] or small["resident"] > START * MIB + 16 * MIB or small["resident"] > full["resident"] - 200 * MIB:
        fail(f"memory that the guest unplugged is still held: {full} {small}")
    bad = re.findall(BAD, console())
    if bad:
        fail(f"unhealthy: {bad}")
    print("ok")
finally:
    nb("stop", "--force", "a", check=False)
    shutil.rmtree(work, ignore_errors=True)
