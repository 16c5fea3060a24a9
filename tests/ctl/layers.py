#!/usr/bin/env python3
"""Overlays that deleted checkpoints leave become one, in a VM that runs, in one that is off, and whoever is killed meanwhile; checkpoints that are left stay usable.

usage: layers.py NESTBOX CHAIN KILLS
"""
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tinykernel

nestbox, chain, kills = os.path.abspath(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
work = tempfile.mkdtemp(prefix="nestbox-layers-")
seed = random.randrange(1 << 32)
random.seed(seed)


def command(*args):
    return [nestbox, "--state", f"{work}/state", *args]


def fail(text):
    print(f"FAIL (seed {seed}): {text}\n{nb('log', 'a', check=False).stdout}")
    sys.exit(1)


def nb(*args, check=True):
    r = subprocess.run(command(*args), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if check and r.returncode:
        fail(f"nestbox {' '.join(args)}: status {r.returncode}: {r.stderr}{r.stdout}")
    return r


def files():
    return sorted(os.path.basename(p) for p in glob.glob(f"{work}/state/vms/*/checkpoints/*.overlay"))


def lists():
    """The lists of overlays in use by what they belong to; a checkpoint's are gone with it."""
    out = {}
    for path in glob.glob(f"{work}/state/vms/*/checkpoints/*"):
        name = os.path.basename(path)
        if name == "current" or (name.endswith(".disks") and not os.path.exists(path[:-6] + ".gone") and os.path.exists(path[:-6] + ".snap")):
            with open(path) as f:
                out[name] = (json.load(f)["disks"] or [[]])[0]
    return out


def settled(most):
    """Waits until there are at most so many overlays."""
    end = time.monotonic() + 20
    while len(files()) > most:
        if time.monotonic() > end:
            fail(f"{len(files())} overlays, must be at most {most}: {lists()}")
        time.sleep(0.02)


def whole():
    for name, overlays in lists().items():
        missing = set(overlays[:-1] if name == "current" else overlays) - set(files())
        if missing:
            fail(f"{name} needs {missing}, which are gone")


def names():
    return [c["name"] for c in json.loads(nb("checkpoint", "a", "list", "--json").stdout)["checkpoints"]]


def long_chain():
    """Of a VM that runs: each checkpoint is deleted after the next has been made."""
    nb("start", "a")
    nb("checkpoint", "a", "create", "first")
    for n in range(chain):
        nb("checkpoint", "a", "create", f"c{n}")
        if n:
            nb("checkpoint", "a", "delete", f"c{n - 1}")
        if len(files()) > 12:
            settled(12)
    settled(3)   # below first, between first and the last, above the last
    nb("checkpoint", "a", "apply", "first")
    nb("checkpoint", "a", "apply", f"c{chain - 1}")
    nb("stop", "--force", "a")
    whole()


def half_written():
    """Killed between two lists: one has both overlays, the other the upper one alone. The machine that stands on the latter must not copy what lies below both."""
    nb("start", "a")
    for n in range(1, 4):
        nb("checkpoint", "a", "create", f"h{n}")
    nb("stop", "--force", "a")
    folder = os.path.dirname(glob.glob(f"{work}/state/vms/*/checkpoints/current")[0])
    key = {c["name"]: c["key"] for c in json.loads(nb("checkpoint", "a", "list", "--json").stdout)["checkpoints"]}
    before = lists()
    gone = before[key["h2"] + ".disks"][-1]
    kept = {}
    for name in (gone, key["h3"] + ".disks"):
        with open(f"{folder}/{name}", "rb") as f:
            kept[name] = f.read()
    nb("checkpoint", "a", "delete", "h2")
    after = lists()
    if gone in files() or gone in after[key["h3"] + ".disks"]:
        fail(f"nothing was merged: {before} {after}")
    for name, data in kept.items():
        with open(f"{folder}/{name}", "wb") as f:
            f.write(data)
    nb("start", "a")
    end = time.monotonic() + 10
    while lists() != after and time.monotonic() < end:
        time.sleep(0.02)
    if lists() != after:
        fail(f"half of the lists were rewritten, and then: {lists()}, must be {after}")
    nb("checkpoint", "a", "create", "h4")
    nb("stop", "--force", "a")
    for name in ("h3", "h1", "h4"):
        nb("checkpoint", "a", "apply", name)
        nb("start", "a")
        nb("stop", "--force", "a")
    for n in (1, 3, 4):
        nb("checkpoint", "a", "delete", f"h{n}")


def many():
    """More than fifty at once: the C library sorts long lists in another way, for which the sandbox killed the machine."""
    nb("start", "a")
    for n in range(60):
        nb("checkpoint", "a", "create", f"m{n}")
    nb("checkpoint", "a", "apply", "m30")
    nb("checkpoint", "a", "delete", "m59")
    nb("stop", "--force", "a")
    whole()


def branches_off():
    """A tree, then one after the other goes while the VM is off."""
    for n in range(4):
        nb("checkpoint", "a", "apply", random.choice(names()))
        nb("start", "a")
        nb("checkpoint", "a", "create", f"b{n}")
        nb("checkpoint", "a", "create", f"bb{n}")
        nb("stop", "--force", "a")
    left = names()
    random.shuffle(left)
    while left:
        nb("checkpoint", "a", "delete", left.pop())
        whole()
        if left and len(left) % 3 == 0:
            nb("checkpoint", "a", "apply", random.choice(left))
    settled(2)   # what the machine stands on: that of its last checkpoint, and the one that the next start would make
    nb("start", "a")
    nb("stop", "--force", "a")


def killed():
    """kill -9 of the VM's process (or, off, of the command) while deleting."""
    cut = 0
    for n in range(kills):
        pid = json.loads(nb("start", "a", "--json").stdout)["pid"]
        for k in range(3):
            nb("checkpoint", "a", "create", f"k{n}-{k}")
        before = set(names())
        victim = random.choice(sorted(before))
        off = n % 3 == 2
        if off:
            nb("stop", "--force", "a")
        p = subprocess.Popen(command("checkpoint", "a", "delete", victim), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.random() ** 2 * 0.04)
        os.kill(p.pid if off else pid, signal.SIGKILL)
        p.wait()
        cut += p.returncode != 0
        if not off:
            while json.loads(nb("show", "a", "--json").stdout)["state"] != "crashed":
                time.sleep(0.02)
        after = set(names())
        if before - after - {victim} or after - before:
            fail(f"after the kill: {after}, before {before}, {victim} was being deleted")
        if p.returncode == 0 and victim in after:
            fail(f"{victim} was deleted and is there")
        whole()
        if n % 4 == 3:
            nb("checkpoint", "a", "apply", random.choice(sorted(after)))
        for name in random.sample(sorted(after), min(len(after), 4 if len(after) > 8 else 1)):
            nb("checkpoint", "a", "delete", name)
    for name in names():
        nb("checkpoint", "a", "apply", name)
        nb("start", "a")
        nb("checkpoint", "a", "apply", name)
        nb("stop", "--force", "a")
    print(f"{kills} kills, {cut} commands cut off")


try:
    with open(f"{work}/count", "wb") as f:
        f.write(tinykernel.kernel("count"))
    with open(f"{work}/disk", "wb") as f:
        f.truncate(4 << 20)
    nb("create", "a", "--kernel", f"{work}/count", "--memory", "16M", "--disk", f"{work}/disk")
    half_written()
    long_chain()
    branches_off()
    killed()
    for name in names():
        nb("checkpoint", "a", "delete", name)
    settled(2)
    many()
    print(f"ok: a chain of {chain}, {kills} kills (seed {seed})")
finally:
    nb("stop", "--force", "a", check=False)
    shutil.rmtree(work, ignore_errors=True)
