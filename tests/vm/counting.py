#!/usr/bin/env python3
"""Runs the checkpoint test on an L1 -> L2 boot whose L2 counts.

usage: counting.py PROGRAM CPUS ENGINE      Exit status: 0 passed, 1 failed, 77 no guest images (make them with tools/guest-images).
"""
import base64
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
COUNT = 'n=0; while [ $n -lt 24 ]; do n=$((n+1)); mark count "n=$n"; sleep 0.1; done\n'
BAD = r"WARNING:|BUG:|soft lockup|rcu.*stall|Marking clocksource.*|event=badlog.*|Kernel panic"

kernel, initrd = (os.path.join(IMAGES, f) for f in ("vmlinuz", "l1.cpio"))
if not os.path.exists(kernel) or not os.path.exists(initrd):
    print("no guest images")
    sys.exit(77)
program, cpus, engine = sys.argv[1:]
leaf = base64.b64encode(COUNT.encode()).decode()
append = f"console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=auto nb.depth=2 nb.cpus={cpus} nb.leaf64={leaf}"
with tempfile.TemporaryDirectory(prefix="nestbox-counting-") as work:
    r = subprocess.run([program, kernel, initrd, "1024", cpus, engine, append, work], stdin=subprocess.DEVNULL, capture_output=True, timeout=1500)
    out = r.stdout.decode("utf-8", "replace")
    logs = ["".join(open(os.path.join(work, f), errors="replace")) for f in sorted(os.listdir(work)) if f.startswith("console")]
print(out, r.stderr.decode("utf-8", "replace"))
problems = [] if "counted on" in out and r.returncode == 0 else [f"status {r.returncode}"]
for log in logs:
    problems += re.findall(BAD, log)
if len(logs) < 2 or "answered=yes" not in logs[-1]:
    problems.append("the guest of the restored machine did not come to its end")
for problem in problems:
    print("FAIL:", problem)
if problems:
    print("\n".join(log[-3000:] for log in logs))
sys.exit(bool(problems))
