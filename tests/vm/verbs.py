#!/usr/bin/env python3
"""checkpoint, apply, save, start, clone and set memory on a VM that stays and whose L2 counts.

usage: verbs.py NESTBOX ENGINE      Exit status: 0 passed, 1 failed, 77 no guest images (make them with tools/guest-images).
"""
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
COUNT = 'n=0; while [ $n -lt 100000 ]; do n=$((n+1)); mark count "n=$n"; sleep 0.1; done\n'
BALLOON = "load virtio_pci; load virtio_balloon\n"
BAD = r"WARNING:|BUG:|soft lockup|rcu.*stall|Marking clocksource.*|event=badlog.*|Kernel panic|Out of memory"
MIB = 1 << 20

if not os.path.exists(f"{IMAGES}/l1.cpio"):
    print("no guest images")
    sys.exit(77)
nestbox, engine = os.path.abspath(sys.argv[1]), sys.argv[2]
work = tempfile.mkdtemp(prefix="nestbox-verbs-")


def fail(text):
    print("FAIL:", text)
    print(nb("log", "a", check=False), nb("console", "a", "--dump", check=False)[-3000:])
    sys.exit(1)


def nb(*args, check=True):
    r = subprocess.run([nestbox, "--state", f"{work}/state", *args], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=300)
    if check and r.returncode:
        fail(f"nestbox {' '.join(args)}: status {r.returncode}: {r.stderr}{r.stdout}")
    return r.stdout


def counts(name="a"):
    return [int(n) for n in re.findall(r"level=2 event=count .*n=(\d+)\r?\n", nb("console", name, "--dump"))]


def wait(what, ready, seconds=240):
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            fail(f"in {seconds} s never: {what}")
        time.sleep(0.3)


def goes_on(name="a"):
    last = len(counts(name))
    wait(f"the L2 of {name} counts on", lambda: len(counts(name)) > last + 2)


def jumped_back(name="a"):
    """Where the count went back in the console's record, as (before, after)."""
    c = counts(name)
    return [(x, y) for x, y in zip(c, c[1:]) if y <= x]


def memory():
    return json.loads(nb("ctl", "a", "memory"))


def resize(size):
    nb("set", "a", f"memory={size // MIB}M")
    wait(f"the guest has {size // MIB} MiB", lambda: memory()["now"] == size, 120)
    goes_on()
    m = memory()
    print(f"memory={size // MIB}M: the guest has {m['now'] // MIB} MiB, {m['available'] // MIB} available, the process holds {m['resident'] // MIB}")
    return m


try:
    leaf, balloon = (base64.b64encode(s.encode()).decode() for s in (COUNT, BALLOON))
    append = ("console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests "
              f"nb.mode=auto nb.depth=2 nb.cmd64={balloon} nb.leaf64={leaf}")
    with open(f"{work}/disk.img", "wb") as f:
        f.truncate(16 * MIB)
    nb("create", "a", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/l1.cpio", "--append", append, "--memory", "1G", "--nested", "on",
       "--engine", engine, "--disk", f"{work}/disk.img")
    nb("start", "a")
    wait("L2 counts", lambda: len(counts()) > 3)

    before = resize(1024 * MIB)
    small = resize(448 * MIB)
    if small["resident"] > small["now"] + 64 * MIB or small["resident"] > before["resident"] + 16 * MIB:
        fail(f"memory that the guest gave back is still held: {before} {small}")
    resize(1024 * MIB)

    before_first = counts()[-1]
    first = json.loads(nb("checkpoint", "a", "create", "first", "--json"))
    after_first = counts()[-1] # the machine runs while it is written
    goes_on()
    second = json.loads(nb("checkpoint", "a", "create", "second", "--json"))
    if first["incremental"] or not second["incremental"]:
        fail("the second checkpoint does not stand on the first")
    goes_on()
    nb("checkpoint", "a", "apply", "first")
    goes_on()
    back = jumped_back()
    if len(back) != 1 or not before_first <= back[0][1] <= after_first + 1:
        fail(f"checkpoint between {before_first} and {after_first}; applied, the count went {back}")
    print(f"checkpoint between {before_first} and {after_first}; applied to the running machine the count went from {back[0][0]} to {back[0][1]}")

    saved = counts()[-1] # and a few more until it stands still
    nb("save", "a")
    if " saved " not in nb("list"):
        fail("the VM is not shown as saved")
    nb("start", "a")
    wait("the L2 counts after the restore", lambda: len(counts()) > 2)
    if not saved <= counts()[0] <= saved + 20:
        fail(f"saved after {saved}, went on at {counts()[0]}")
    print(f"saved after {saved}, went on at {counts()[0]}")

    nb("clone", "a", "b", "--checkpoint", "second")
    nb("start", "b")
    goes_on("b")
    goes_on("a")
    print(f"a clone of the second checkpoint counts from {counts('b')[0]}")
    tree = nb("checkpoint", "a", "tree")
    if tree.split() [0] != "first" or "\n  second" not in tree:
        fail(f"the tree is {tree}")
    for name in ("a", "b"):
        bad = re.findall(BAD, nb("console", name, "--dump"))
        if bad:
            fail(f"unhealthy: {bad}")
    print("ok")
finally:
    for name in ("a", "b"):
        nb("stop", "--force", name, check=False)
    shutil.rmtree(work, ignore_errors=True)
