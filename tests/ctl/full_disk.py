#!/usr/bin/env python3
"""A full disk: commands say so in one line with status 2, change nothing, and work again once there is room.

usage: full_disk.py NESTBOX      Exit status 77: no user or mount namespace to be had for a small file system.
"""
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tinykernel

nestbox = os.path.abspath(sys.argv[1])
if len(sys.argv) == 2:
    work = tempfile.mkdtemp(prefix="nestbox-full-")
    try:
        r = subprocess.run(["unshare", "-Urm", "true"], capture_output=True)
        if r.returncode:
            print(f"skipped: unshare: {r.stderr.decode().strip()}")
            sys.exit(77)
        sys.exit(subprocess.run(["unshare", "-Urm", sys.executable, __file__, nestbox, work]).returncode)
    finally:
        shutil.rmtree(work, ignore_errors=True)

work = sys.argv[2]
small = work + "/small"
os.mkdir(small)
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small]).returncode:
    print("skipped: no small file system")
    sys.exit(77)
kernel, disk = work + "/wait", work + "/disk.img"
with open(kernel, "wb") as f:
    f.write(tinykernel.kernel("wait"))
with open(disk, "wb") as f:
    f.write(b"x" * (3 << 20))
failures = 0


def run(*words):
    r = subprocess.run([nestbox, "--state", small + "/state", *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    return r.returncode, r.stdout.decode(), r.stderr.decode()


def check(sentence, good, seen):
    global failures
    print("ok  " if good else "FAIL", sentence, "" if good else seen)
    failures += not good


def fill():
    with open(small + "/ballast", "wb", buffering=0) as f:
        try:
            while f.write(b"x" * 512):
                pass
        except OSError:
            pass


def names():
    return [line.split()[0] for line in run("list")[1].splitlines()[1:]]


run("create", "a", "--kernel", kernel, "--memory", "16M")
r = run("create", "b", "--kernel", kernel, "--disk", disk)
check("a VM is made while there is room", r[0] == 0, r)
r = run("clone", "b", "c")
check("a clone that does not fit is refused in one line", r[0] == 2 and "No space left" in r[2] and len(r[2].splitlines()) == 1, r)
check("and leaves nothing", names() == ["a", "b"] and len(os.listdir(small + "/state/vms")) == 2, (names(), os.listdir(small + "/state/vms")))
fill()
for words in (["create", "d", "--kernel", kernel], ["set", "a", "append=" + "y" * 20000], ["import", work + "/a.json"]):
    with open(work + "/a.json", "w") as f:
        f.write('{"nestbox":1,"name":"e","options":[["kernel","%s"],["append","%s"]]}' % (kernel, "z" * 20000))
    r = run(*words)
    check(f"{words[0]} on a full disk: one line, status 2", r[0] == 2 and len(r[2].splitlines()) == 1 and ("full" in r[2] or "space" in r[2]), r)
check("the registry is as it was", names() == ["a", "b"] and "append" not in run("show", "a")[1], names())
r = run("start", "a")
check("start on a full disk works or says in one line why not", r[0] == 0 or (r[0] == 2 and len(r[2].splitlines()) == 1), r)
if r[0] == 0:
    run("stop", "a")
os.remove(small + "/ballast")
for words in (["create", "d", "--kernel", kernel, "--memory", "16M"], ["set", "a", "memory=17M"], ["start", "a"], ["stop", "a"], ["delete", "d"]):
    r = run(*words)
    check(f"{words[0]} works again once there is room", r[0] == 0, r)
check("and nothing is lost", names() == ["a", "b"], names())
sys.exit(bool(failures))
