#!/usr/bin/env python3
"""start from saved state: whoever is killed before the machine runs has the saved state, and afterwards one that has run; nothing in between.

usage: killed_starts.py NESTBOX ROUNDS      Exit status 77: no strace, or it may not trace.
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

nestbox, rounds = os.path.abspath(sys.argv[1]), int(sys.argv[2])
work = tempfile.mkdtemp(prefix="nestbox-starts-")
seed = random.randrange(1 << 32)
random.seed(seed)


def fail(text):
    print(f"FAIL (seed {seed}): {text}")
    sys.exit(1)


def command(*args):
    return [nestbox, "--state", f"{work}/state", *args]


def nb(*args, check=True, under=()):
    r = subprocess.run([*under, *command(*args)], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    if check and r.returncode:
        fail(f"nestbox {' '.join(args)}: status {r.returncode}: {r.stderr}{r.stdout}")
    return r


def show():
    return json.loads(nb("show", "a", "--json").stdout)


def strace(what):
    saved = glob.glob(f"{work}/state/vms/*/saved")[0]
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-P", saved, "-e", "trace=unlink,unlinkat", "-e", f"inject=unlink,unlinkat:{what}"]


def process():
    """Of the VM, as early as it can be known; 0: none."""
    try:
        with open(f"{work}/state/run/a/lock") as f:
            pid = int(f.read() or 0)
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return pid if b"\0_vm\0" in f.read() else 0
    except (OSError, ValueError):
        return 0


def saved_again():
    nb("start", "a")
    nb("save", "a")
    if show()["state"] != "saved":
        fail(f"after save: {show()}")


try:
    if not shutil.which("strace") or subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"]).returncode:
        print("no strace, or it may not trace here")
        sys.exit(77)
    with open(f"{work}/count", "wb") as f:
        f.write(tinykernel.kernel("count"))
    with open(f"{work}/disk", "wb") as f:
        f.truncate(1 << 20)
    nb("create", "a", "--kernel", f"{work}/count", "--memory", "16M", "--disk", f"{work}/disk")
    saved_again()
    # At that very moment: the file is about to go.
    r = nb("start", "a", check=False, under=strace("signal=SIGKILL"))
    if r.returncode != 2 or not glob.glob(f"{work}/state/vms/*/saved"):
        fail(f"killed before the machine has run: start's status {r.returncode}, {glob.glob(work + '/state/vms/*/*')}")
    if show()["state"] != "saved":
        fail(f"killed before the machine has run: {show()}")
    saved_again()
    ran = kept = 0
    for n in range(rounds):
        p = subprocess.Popen(command("start", "a"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + random.random() * 0.12
        pid = 0
        while time.monotonic() < end and not pid:
            pid = process()
        if random.random() < 0.5:
            time.sleep(max(0, end - time.monotonic()))
        if pid:
            os.kill(pid, signal.SIGKILL)
        started = p.wait() == 0
        there = bool(glob.glob(f"{work}/state/vms/*/saved"))
        if pid:
            kept, ran = kept + there, ran + (not there)
            while process():
                time.sleep(0.01)
        if started and there:
            fail(f"round {n}: start said that it runs, and its saved state is still there")
        if not started and not there and not pid:
            fail(f"round {n}: nobody was killed, nothing started, and the saved state is gone")
        nb("stop", "--force", "a", check=False)
        saved_again()
    print(f"ok: {rounds} rounds: {kept} killed before, {ran} after the machine ran (seed {seed})")
finally:
    nb("stop", "--force", "a", check=False)
    shutil.rmtree(work, ignore_errors=True)
