#!/usr/bin/env python3
"""Commands and VM processes that are killed at random times leave registry, folders and disks consistent.

usage: kills.py NESTBOX ROUNDS [SEED] [--guest]      --guest: also a Debian guest that writes to its disk (needs the guest images; exit status 77 without them)

Each round runs one command and kills it, or the VM's process, after a random time, or neither. What a command has acknowledged (exit status 0) must hold
afterwards; what it has not may have happened or not, whole. Afterwards every VM must start and stop again, and nothing may be left behind.
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

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
IMAGES = os.path.join(os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache")), "images")
NAMES = ["a", "b", "c", "d", "e"]
WRITER = """
load virtio_pci; load virtio_blk
n=0; while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
i=1; while true; do printf "block %08d" $i | dd of=/dev/vda bs=512 seek=$((i % 2048)) conv=sync,fsync 2>/dev/null && echo "ack $i"; i=$((i+1)); done
"""


class World:
    def __init__(self, nestbox, rng):
        self.nestbox, self.rng = nestbox, rng
        self.work = tempfile.mkdtemp(prefix="nestbox-kills-")
        self.state = self.work + "/state"
        self.kernel = self.work + "/wait"
        with open(self.kernel, "wb") as f:
            f.write(tinykernel.kernel("wait"))
        for name in NAMES:
            with open(self.disk(name), "wb") as f:
                f.write(bytes(range(256)) * 4096)
        self.seen, self.running = [], []    # names, as last seen
        self.known = {}      # name -> set of possible "memory" values; None among them: it may be gone
        self.points = {}     # name -> checkpoints that were acknowledged
        self.labels = self.made = 0
        self.failures = []
        self.kills = 0

    def disk(self, name):
        return f"{self.work}/disk-{name}.img"

    def argv(self, *words):
        return [self.nestbox, "--state", self.state, *words]

    def run(self, *words, timeout=60):
        return subprocess.run(self.argv(*words), capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout)

    def fail(self, text):
        self.failures.append(text)
        print("FAIL", text, flush=True)

    def list(self):
        r = self.run("list", "--json")
        if r.returncode:
            self.fail(f"list: status {r.returncode}: {r.stderr.decode()}")
            return {}
        return {vm["name"]: vm for vm in json.loads(r.stdout)["vms"]}

    def pid_of(self, name):
        r = self.run("show", name, "--json")
        return json.loads(r.stdout).get("pid", 0) if not r.returncode else 0

    def command(self):
        """A random command: its words, and what it does to self.known when it is acknowledged."""
        rng, name, other = self.rng, self.rng.choice(NAMES), self.rng.choice(NAMES)
        memory = rng.choice(["16M", "24M", "32M"])
        size = int(memory[:-1]) << 20
        create = (["create", name, "--kernel", self.kernel, "--memory", memory, "--disk", self.disk(name)], name, lambda k: {size})
        if rng.random() < 0.7:   # something that makes sense now; else anything
            if name not in self.seen:
                return create
            if name not in self.running:
                return ["start", name], name, None
            words = rng.choice([["create", self.label()], ["create", self.label()], ["create", self.label()], ["apply", self.a_point(name)], ["save"]])
            return (["save", name] if words == ["save"] else ["checkpoint", name, *words]), name, None
        return rng.choice([
            create, (["clone", other, name], name, lambda k: self.known.get(other, {None}) - {None}),
            (["delete", name, "--force"], name, lambda k: {None}),
            (["set", name, "memory=" + memory], name, lambda k: {size}),
            (["start", name], name, None), (["start", name], name, None), (["start", name], name, None),
            (["stop", name, "--force"], name, None), (["stop", name, "--timeout", "20"], name, None),
            (["pause", name], name, None), (["resume", name], name, None), (["reset", name], name, None), (["list"], name, None),
        ])

    def label(self):
        self.labels += 1
        return f"p{self.labels}"

    def a_point(self, name):
        return self.rng.choice(sorted(self.points.get(name) or {"none"}))

    def check_points(self, name, words):
        r = self.run("checkpoint", name, "list", "--json")
        if r.returncode:
            self.fail(f"after {words}: checkpoint {name} list: {r.stderr.decode()}")
            return
        lost = self.points.get(name, set()) - {c["name"] for c in json.loads(r.stdout)["checkpoints"]}
        if lost:
            self.fail(f"after {words}: {name} has lost {lost}")
            self.points[name] -= lost

    def step(self):
        words, name, effect = self.command()
        victim = self.rng.choice(["command", "command", "vm", "nobody"])
        pid = self.pid_of(name) if victim == "vm" else 0
        p = subprocess.Popen(self.argv(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        if victim != "nobody":
            time.sleep(self.rng.random() ** 2 * 0.08)
            if victim == "command":
                p.kill()
                self.kills += 1
            elif pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    pass
        try:
            out, err = p.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            p.kill()
            self.fail(f"{words} hangs")
            return
        if p.returncode not in (0, 2, -9):
            self.fail(f"{words}: status {p.returncode}: {err.decode()}")
        self.account(name, effect, p.returncode)
        if words[0] == "checkpoint" and words[2] == "create" and p.returncode == 0:
            self.points.setdefault(name, set()).add(words[3])
            self.made += 1
        self.compare(words, p.returncode)

    def account(self, name, effect, status):
        before = self.known.get(name, {None})
        if not effect:
            return
        if status == 0:
            self.known[name] = effect(before)
        elif status == -9:
            self.known[name] = before | effect(before)

    def compare(self, words, status):
        there = self.list()
        self.seen = list(there)
        self.running = [name for name in NAMES if name in there and there[name]["state"] == "running"]
        for name in NAMES:
            possible = self.known.get(name, {None})
            seen = there[name]["memory"] if name in there and there[name]["state"] in ("off", "crashed", "saved") else None
            if name in there and seen is None:
                seen = next(iter(possible - {None}), -1)   # it runs: list tells the memory that it was started with
            if seen not in possible:
                self.fail(f"after {words} (status {status}): {name} is {seen}, must be one of {possible}")
            if name not in there or there[name]["state"] in ("off", "crashed", "saved"):
                self.known[name] = {seen}
        for name in NAMES:
            if name not in there:
                self.points[name] = set()
            elif self.points.get(name):
                self.check_points(name, words)
        for name in there:
            if name not in NAMES:
                self.fail(f"{name} came from nowhere")

    def two_starts(self):
        """Of two starts at once exactly one succeeds."""
        self.run("delete", "twice", "--force")
        self.run("create", "twice", "--kernel", self.kernel, "--memory", "16M")
        both = [subprocess.Popen(self.argv("start", "twice"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
        ends = [(p.communicate()[1].decode(), p.returncode) for p in both]
        if sorted(s for _, s in ends) != [0, 2] or not any("running already" in e for e, _ in ends):
            self.fail(f"two starts at once: {ends}")
        if self.run("stop", "twice").returncode or self.run("delete", "twice").returncode:
            self.fail("the VM that was started twice does not stop or cannot be deleted")

    def finish(self):
        """Every VM starts and stops; then all are deleted and nothing is left."""
        for name in list(self.list()):
            self.run("stop", name, "--force")   # a clone of a clone may still have another's disk
        for name in list(self.list()):
            for words in (["start", name], ["stop", name], ["delete", name, "--force"]):
                r = self.run(*words)
                if r.returncode:
                    self.fail(f"at the end {words}: {r.stderr.decode()}")
        self.run("create", "last", "--kernel", self.kernel)   # the next command that changes something tidies up
        self.run("delete", "last")
        deadline = time.time() + 70   # folders of commands that were killed early are left alone for a minute
        while os.listdir(self.state + "/vms") and time.time() < deadline:
            time.sleep(5)
            self.run("create", "last", "--kernel", self.kernel)
            self.run("delete", "last")
        if os.listdir(self.state + "/vms"):
            self.fail(f"left behind: {os.listdir(self.state + '/vms')}")
        for name in NAMES:
            with open(self.disk(name), "rb") as f:
                if f.read() != bytes(range(256)) * 4096:
                    self.fail(f"the disk of {name} has changed")

    def writer_round(self):
        """kill -9 while a guest writes: each write that it has acknowledged is in the image."""
        image = self.work + "/written.img"
        r = self.run("start", "writer")
        if r.returncode:
            self.fail(f"the writer does not start: {r.stderr.decode()}")
            return
        pid, acked = self.pid_of("writer"), 0
        deadline = time.time() + 120
        while acked < 3 and time.time() < deadline:
            time.sleep(0.2)
            acked = self.last_ack()
        time.sleep(self.rng.random() * 0.5)
        acked = self.last_ack()
        os.kill(pid, signal.SIGKILL)
        self.kills += 1
        if acked < 3:
            self.fail("the guest wrote nothing in two minutes")
        with open(image, "rb") as f:
            for i in range(max(1, acked - 2000), acked + 1):
                f.seek(i % 2048 * 512)
                text = f.read(14)
                if text != b"block %08d" % i:
                    self.fail(f"acknowledged write {i} of {acked} is lost: {text}")
                    break
        while self.list()["writer"]["state"] != "crashed" and time.time() < deadline:
            time.sleep(0.05)

    def last_ack(self):
        out = self.run("console", "writer", "--dump").stdout.decode("utf-8", "replace").replace("\r", "")
        acks = [line[4:] for line in out.split("\n")[:-1] if line.startswith("ack ")]
        return int(acks[-1]) if acks and acks[-1].isdigit() else 0

    def make_writer(self):
        import base64
        image = self.work + "/written.img"
        with open(image, "wb") as f:
            f.truncate(1 << 20)
        append = "console=ttyS0 quiet nb.mode=poweroff nb.cmd64=" + base64.b64encode(WRITER.encode()).decode()
        r = self.run("create", "writer", "--kernel", IMAGES + "/vmlinuz", "--initrd", IMAGES + "/small.cpio", "--append", append, "--disk", image,
                     "--memory", "256M")
        if r.returncode:
            self.fail(r.stderr.decode())

    def close(self):
        for name in self.list():
            self.run("stop", name, "--force")
        shutil.rmtree(self.work, ignore_errors=True)


def main():
    guest = "--guest" in sys.argv
    words = [w for w in sys.argv[1:] if w != "--guest"]
    rounds, seed = int(words[1]), int(words[2]) if len(words) > 2 else random.SystemRandom().randrange(1 << 30)
    if guest and not os.path.exists(IMAGES + "/small.cpio"):
        print("skipped: no guest images; tools/guest-images makes them")
        sys.exit(77)
    print(f"seed {seed}")
    w = World(os.path.abspath(words[0]), random.Random(seed))
    try:
        if guest:
            w.make_writer()
            NAMES.append("writer")
            w.known["writer"] = {256 << 20}
            for _ in range(rounds):
                w.writer_round()
        else:
            w.two_starts()
            for _ in range(rounds):
                w.step()
            w.finish()
    finally:
        w.close()
    print(f"{rounds} rounds, {w.kills} kills, {w.made} checkpoints, {len(w.failures)} failures")
    sys.exit(bool(w.failures))


main()
