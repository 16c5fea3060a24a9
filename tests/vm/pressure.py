#!/usr/bin/env python3
"""A guest with memory=MIN:START:MAX that idles gives memory back, gets more than START while it fills a tmpfs, and gives that back once the file is gone.

usage: pressure.py NESTBOX ENGINE ROUNDS      Exit status: 0 passed, 1 failed, 77 no guest images (make them with tools/guest-images).
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
MIN, START, MOST = 256, 448, 960
# In each round: idles, so that the host takes memory; fills a tmpfs with 4 MiB ten times a second, checks it, and removes it.
FILE = 560
GUEST = f"""
load virtio_pci; load virtio_balloon; insmod /virtio_mem.ko && mark plugs
mkdir -p /mnt; mount -t tmpfs -o size=90% t /mnt; mount -o remount,size={FILE + 64}m /mnt
dd if=/dev/urandom of=/seed bs=1M count=4 2>/dev/null; seed=$(md5sum </seed)
for round in $(seq ROUNDS); do
	mark state "idle round=$round"; sleep 25
	mark state "fills round=$round"
	i=0; while [ $i -lt {FILE // 4} ]; do cat /seed >/mnt/$i || mark state failed; i=$((i+1)); sleep 0.1; done
	bad=0; for f in /mnt/*; do [ "$(md5sum <$f)" = "$seed" ] || bad=$((bad+1)); done
	mark state "full round=$round files=$(ls /mnt | wc -l) bad=$bad"; sleep 4
	rm /mnt/*; mark state "freed round=$round"
done
mark state "idle at the end"
while :; do sleep 1; done
"""
BAD = r"WARNING:|BUG:|soft lockup|rcu.*stall|Marking clocksource.*|event=badlog.*|Kernel panic|Out of memory|oom-kill.*|virtio_mem.*error|state=failed"
MIB = 1 << 20

if not os.path.exists(f"{IMAGES}/small.cpio") or not MODULE:
    print("no guest images")
    sys.exit(77)
nestbox, engine, rounds = os.path.abspath(sys.argv[1]), sys.argv[2], int(sys.argv[3])
work = tempfile.mkdtemp(prefix="nestbox-pressure-")


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


def until(what, ready, seconds=300):
    """Waits for ready(console, memory); returns the least and the most that the guest had meanwhile."""
    end, low, high, shown = time.monotonic() + seconds, 1 << 60, 0, 0
    while True:
        text, m = nb("console", "a", "--dump"), json.loads(nb("ctl", "a", "memory"))
        low, high = min(low, m["now"]), max(high, m["now"])
        if re.search(BAD, text):
            fail(f"unhealthy: {re.findall(BAD, text)}")
        if ready(text, m):
            print(f"{what}: the guest has {m['now'] // MIB} MiB, {m['plugged'] // MIB} plugged, {m['available'] // MIB} available; "
                  f"the process holds {m['resident'] // MIB}; meanwhile {low // MIB} to {high // MIB}", flush=True)
            return low // MIB, high // MIB
        if time.monotonic() > end:
            fail(f"in {seconds} s never: {what}")
        time.sleep(0.3)


try:
    script = base64.b64encode(GUEST.replace("ROUNDS", str(rounds)).encode()).decode()
    append = f"console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests memhp_default_state=online_movable nb.mode=auto nb.depth=1 nb.cmd64={script}"
    with open(f"{work}/initrd", "wb") as f:
        f.write(open(f"{IMAGES}/small.cpio", "rb").read() + newc("virtio_mem.ko", open(MODULE[0], "rb").read()))
    nb("create", "a", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{work}/initrd", "--append", append, "--memory", f"{MIN}M:{START}M:{MOST}M", "--engine", engine)
    nb("start", "a")
    until("it idles", lambda text, m: "idle round=1" in text)
    low, _ = until("it has given back", lambda text, m: m["now"] < START * MIB or "fills round=1" in text, 60)
    if low >= START:
        fail("an idle guest gave nothing back")
    for n in range(1, rounds + 1):
        _, high = until(f"round {n}: it is full", lambda text, m: f"full round={n} " in text)
        if high <= START:
            fail(f"the guest never had more than {high} MiB")
        if f"full round={n} files={FILE // 4} bad=0" not in nb("console", "a", "--dump"):
            fail("files are missing or damaged")
        until(f"round {n}: it has freed", lambda text, m: f"freed round={n}" in text)
        until(f"round {n}: it has given back", lambda text, m: m["now"] <= (high - 128) * MIB, 120)
    until("it has little", lambda text, m: m["now"] <= START * MIB and m["resident"] <= (START + 16) * MIB, 120)
    print("ok")
finally:
    nb("stop", "--force", "a", check=False)
    shutil.rmtree(work, ignore_errors=True)
