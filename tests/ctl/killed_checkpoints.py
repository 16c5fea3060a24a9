#!/usr/bin/env python3
"""kill -9 of the VM process while it writes checkpoints: those that were reported stay, the VM starts, and each can still be applied.

usage: killed_checkpoints.py NESTBOX ROUNDS
"""
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

nestbox, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2])
work = tempfile.mkdtemp(prefix="nestbox-kills-")
seed = random.randrange(1 << 32)
random.seed(seed)


def command(*args):
    return [nestbox, "--state", f"{work}/state", *args]


def nb(*args, check=True):
    r = subprocess.run(command(*args), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if check and r.returncode:
        sys.exit(f"FAIL (seed {seed}): nestbox {' '.join(args)}: status {r.returncode}: {r.stderr}{r.stdout}")
    return r


def names():
    return [c["name"] for c in json.loads(nb("checkpoint", "a", "list", "--json").stdout)["checkpoints"]]


try:
    with open(f"{work}/count", "wb") as f:
        f.write(tinykernel.kernel("count"))
    with open(f"{work}/disk", "wb") as f:
        f.truncate(4 << 20)
    nb("create", "a", "--kernel", f"{work}/count", "--memory", "32M", "--disk", f"{work}/disk")
    kept, cut = [], 0
    for n in range(rounds):
        pid = json.loads(nb("start", "a", "--json").stdout)["pid"]
        p = subprocess.Popen(command("checkpoint", "a", "create", f"c{n}"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(random.random() * 0.15)
        os.kill(pid, signal.SIGKILL)
        if p.wait() == 0:
            kept.append(f"c{n}")
        else:
            cut += 1
        while nb("show", "a", "--json").stdout.find('"crashed"') < 0:
            time.sleep(0.02)
        lost = set(kept) - set(names())
        if lost:
            sys.exit(f"FAIL (seed {seed}): checkpoints {lost} are gone after round {n}")
    for name in random.sample(kept, min(3, len(kept))):
        nb("checkpoint", "a", "apply", name) # off
        nb("start", "a")
        nb("checkpoint", "a", "apply", random.choice(kept)) # running
        nb("checkpoint", "a", "create", f"after-{name}")
        nb("stop", "--force", "a")
    for name in names():
        nb("checkpoint", "a", "delete", name)
    if names():
        sys.exit(f"FAIL: deleted checkpoints are still shown: {names()}")
    nb("start", "a")
    print(f"ok: {rounds} kills, {cut} checkpoints cut off, {len(kept)} kept (seed {seed})")
finally:
    nb("stop", "--force", "a", check=False)
    shutil.rmtree(work, ignore_errors=True)
