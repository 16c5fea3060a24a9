#!/usr/bin/env python3
"""tree, exits, explain and trace on a machine whose guest runs a guest: Debian's kernel and QEMU.

usage: nest.py NESTBOX       Exit status: 0 passed, 1 failed, 77 skipped (no guest images; make them with tools/guest-images).
"""
import base64
import collections
import json
import os
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LEAF = base64.b64encode(b"while :; do sleep 0.05; done").decode()  # the guest's guest stays until we are done
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")


def main():
    nestbox = sys.argv[1]
    if not os.path.exists(os.path.join(IMAGES, "l1.cpio")):
        print("no guest images")
        sys.exit(77)
    with tempfile.TemporaryDirectory(prefix="nb") as folder:
        def run(*args):
            return subprocess.run([nestbox, "--state", folder, *args], capture_output=True, text=True, timeout=120)

        def ask(*args):
            r = run(*args, "--json")
            return json.loads(r.stdout) if r.returncode == 0 else {}

        vm = subprocess.Popen([nestbox, "--state", folder, "run", "--name", "t", "--kernel", f"{IMAGES}/vmlinuz", "--initrd", f"{IMAGES}/l1.cpio", "--append",
                               "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=auto nb.depth=2 "
                               f"nb.cpus=2 nb.leaf64={LEAF}", "--memory", "1024M", "--cpus", "2",
                               "--nested", "on", "--serial", "null", "--no-reboot", "--timeout", "300"], stdin=subprocess.DEVNULL)
        try:
            def ran():
                names = {e["name"] for e in ask("exits", "t").get("exits", []) if e["level"] == 2 and e["exits"]}
                return names >= {"CPUID", "EPT_VIOLATION", "HLT"} and any(g["level"] == 2 and g["vcpus"] for g in ask("tree", "t").get("guests", []))
            while not ran():
                assert vm.poll() is None, "the machine ended before its guest ran"
                time.sleep(0.2)
            tree = ask("tree", "t")
            guest = tree["guests"][0]
            assert guest["parent"] is None and guest["level"] == 2 and guest["looks"] == "Linux" and int(guest["eptp"], 16) and guest["vcpus"], guest
            assert guest["entries"] >= guest["exits"] - len(guest["vcpus"]), guest
            drawn = run("tree", "t").stdout
            assert drawn.startswith("L1  t: 2 vCPUs, VT-x on\n└─ L2  Linux, EPT pointer 0x"), drawn
            assert run("tree").stdout.startswith("L1  t: 2 vCPUs, VT-x on\n└─ L2  Linux"), "all VMs"
            assert [vm["name"] for vm in ask("tree")["vms"]] == ["t"]
            exits = ask("exits", "t")["exits"]
            names = {e["name"]: e for e in exits}
            assert names["CPUID"]["exits"] > 0 and names["CPUID"]["instructions"] > 0 and names["CPUID"]["handling_s"] > 0, names["CPUID"]
            assert "EPT_VIOLATION" in run("exits", "t").stdout
            vcpu = guest["vcpus"][0]
            walk = ask("explain", "t", vcpu["rip"], "--level", "2", "--cpu", str(vcpu["cpu"]))["walk"]
            assert any("EPT PML4 entry" in s for s in walk["steps"]) or not walk["mapped"], walk
            out = os.path.join(folder, "trace.json")
            r = run("trace", "t", "--out", out)
            assert r.returncode == 0, r.stderr
            with open(out) as f:
                slices = [e for e in json.load(f)["traceEvents"] if e["ph"] == "X"]
            by = collections.Counter(e["pid"] for e in slices)
            assert by[1] and by[2] and all(e["dur"] >= 0 for e in slices), by
            assert abs(by[1] - by[2]) <= 2, "runs and exits take turns"
            for tid in {e["tid"] for e in slices}: # all are of one guest here
                mine = [e for e in slices if e["tid"] == tid]
                assert all(abs(a["ts"] + a["dur"] - b["ts"]) < 0.01 for a, b in zip(mine, mine[1:])), "a slice begins where the one before it ends"
            print(drawn, "trace:", dict(by))
        finally:
            vm.kill()
            vm.wait()


if __name__ == "__main__":
    main()
