#!/usr/bin/env python3
"""A guest's disk has, after each apply, what it had at that checkpoint, whichever others have been deleted and their overlays merged meanwhile.

usage: layers.py NESTBOX ENGINE      Exit status: 0 passed, 1 failed, 77 no guest images (make them with tools/guest-images).
"""
import base64
import glob
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
# go: writes blocks of 64 KiB, some of zeros, to random places; look WORD: says what the sum of the whole disk is, read past its cache.
GUEST = """
load virtio_pci; load virtio_blk
n=0; while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
round=1; mark ready
while read -r what word; do case $what in
go)
	i=0
	while [ $i -lt 8 ]; do
		at=$((0x$(head -c 2 /dev/urandom | hexdump -e '1/2 "%x"') % 128)); i=$((i+1))
		yes "round $round block $at" | head -c 65536 >/tmp/block; [ $i != 3 ] || head -c 65536 /dev/zero >/tmp/block
		dd if=/tmp/block of=/dev/vda bs=65536 seek=$at conv=fsync 2>/dev/null
	done
	round=$((round+1)) ;;
esac
echo 3 >/proc/sys/vm/drop_caches; mark look "word=$word sum=$(md5sum </dev/vda)"
done
"""
BYTES = 8 << 20

if not os.path.exists(f"{IMAGES}/small.cpio"):
    print("no guest images")
    sys.exit(77)
nestbox, engine = os.path.abspath(sys.argv[1]), sys.argv[2]
work = tempfile.mkdtemp(prefix="nestbox-layers-")
seed = random.randrange(1 << 32)
random.seed(seed)
sums = {}   # of the disk, by checkpoint


def fail(text):
    print(f"FAIL (seed {seed}): {text}\n{nb('log', 'a', check=False)}{nb('console', 'a', '--dump', check=False)[-2000:]}")
    sys.exit(1)


def nb(*args, check=True, typed=""):
    r = subprocess.run([nestbox, "--state", f"{work}/state", *args], capture_output=True, text=True, errors="replace", timeout=120,
                       **({"input": typed} if typed else {"stdin": subprocess.DEVNULL}))
    if check and r.returncode:
        fail(f"nestbox {' '.join(args)}: status {r.returncode}: {r.stderr}{r.stdout}")
    return r.stdout


def wait(what, ready, seconds=120):
    end = time.monotonic() + seconds
    while not (got := ready()):
        if time.monotonic() > end:
            fail(f"in {seconds} s never: {what}")
        time.sleep(0.1)
    return got


def tell(what):
    """The sum of the disk, once the guest has done it."""
    word = f"w{random.randrange(1 << 40)}"
    nb("console", "a", typed=f"{what} {word}\n\x01x")
    return wait(f"the guest answers to {what}", lambda: re.search(rf"event=look .*word={word} sum=([0-9a-f]{{32}})", nb("console", "a", "--dump"))).group(1)


def create(name):
    sums[name] = tell("look")
    nb("checkpoint", "a", "create", name)


def expect(name):
    if tell("look") != sums[name]:
        fail(f"the disk is not what it was at checkpoint {name}")


def apply(name):
    nb("checkpoint", "a", "apply", name)


def delete(name):
    nb("checkpoint", "a", "delete", name)
    del sums[name]


def overlays():
    return len(glob.glob(f"{work}/state/vms/*/checkpoints/*.overlay"))


try:
    script = base64.b64encode(GUEST.encode()).decode()
    append = f"console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=poweroff nb.cmd64={script}"
    with open(f"{work}/disk", "wb") as f:
        f.truncate(BYTES)
    nb("create", "a", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/small.cpio", "--append", append, "--memory", "192M", "--disk", f"{work}/disk",
       "--engine", engine)
    nb("start", "a")
    wait("the guest is ready", lambda: "event=ready" in nb("console", "a", "--dump"))
    for n in range(7):
        tell("go")
        create(f"c{n}")
    last = tell("go")
    for n in (1, 3, 4):
        delete(f"c{n}")
    wait("overlays are merged", lambda: overlays() <= 5)   # between c0, c2, c5, c6 and above
    if tell("look") != last:
        fail("the disk has changed while overlays were merged")
    for name in ("c2", "c6", "c0"):
        apply(name)
        expect(name)
    # A branch, and what the others stand on goes while it is in use; requests go on meanwhile.
    tell("go")
    create("d0")
    tell("go")
    create("d1")
    delete("c0")
    delete("d0")
    now = tell("go")
    wait("overlays are merged", lambda: overlays() <= 7)
    if tell("look") != now:
        fail("the disk has changed while overlays were merged below a branch")
    for name in ("c5", "d1", "c2"):
        apply(name)
        expect(name)
    # kill -9 while that goes on
    for name in ("c5", "d1"):
        pid = json.loads(nb("show", "a", "--json"))["pid"]
        delete(name)
        time.sleep(random.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
        wait("it is gone", lambda: json.loads(nb("show", "a", "--json"))["state"] == "crashed")
        apply("c2")
        nb("start", "a")
        expect("c2")
        tell("go")
        create("e" + name)
    # Off.
    nb("stop", "--force", "a")
    delete("c2")
    for name in ("ec5", "ed1", "c6"):
        apply(name)
        nb("start", "a")
        expect(name)
        nb("stop", "--force", "a")
    for name in list(sums):
        delete(name)
    if overlays() > 2:
        fail(f"{overlays()} overlays are left of a VM without checkpoints")
    print("ok")
finally:
    nb("stop", "--force", "a", check=False)
    shutil.rmtree(work, ignore_errors=True)
