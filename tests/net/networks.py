#!/usr/bin/env python3
"""Boots Debian's cloud kernel with network cards and checks what gets through, to the byte.

usage: networks.py NESTBOX BLAST CASE|--list      BLAST: bench/net/blast.c, built statically. NESTBOX_TEST_ENGINE chooses the engine (default auto).
Exit status: 0 passed, 1 failed, 77 skipped. The guests are those of tools/guest-images with some more files in their initrd: modules for bridges and
TAP devices, and blast. A guest's script says what it saw in lines "NESTBOX: level=N event=NAME key=value ..." (tools/guest/init).
"""
import base64
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("NESTBOX_CACHE", os.path.join(ROOT, ".cache"))
IMAGES = os.path.join(CACHE, "images")
SKIP = 77
BAD = re.compile(r"WARNING:|BUG:|Oops|soft lockup|rcu.*stall|Call Trace:|Kernel panic|event=badlog", re.I)
MEGA = 1 << 20
RUN_SCRIPT = base64.b64encode(b". /extra/script").decode()

# What every guest script may use. lease: DHCP on an interface, then event dhcp.
PRELUDE = r"""
lease()
{
	cat >/tmp/lease.sh <<'EOS'
#!/bin/sh
[ "$1" = bound ] || exit 0
busybox ip addr add $ip/24 dev $interface
[ -z "$router" ] || busybox ip route add default via $router
echo "ip=$ip router=$router dns=$dns" >/tmp/lease
EOS
	chmod +x /tmp/lease.sh
	rm -f /tmp/lease
	busybox udhcpc -i $1 -n -q -t ${2:-8} -T 2 -s /tmp/lease.sh >/dev/null 2>&1
	mark dhcp "$(cat /tmp/lease 2>/dev/null || echo ip=none)"
}
pings()
{
	busybox ping -c 2 -W 5 $1 >/dev/null 2>&1 && mark ping "to=$1 answered=yes" || mark ping "to=$1 answered=no"
}
blasts()
{
	mark blast "$(/bin/blast "$@" 2>&1 | sed -n 's/^blast: \([a-z]*\) bytes/kind=\1 bytes/p')"
}
waits_for()
{
	n=0
	until busybox ping -c 1 -W 1 $1 >/dev/null 2>&1 || [ $n -ge 200 ]; do n=$((n + 1)); done
}
queues() { mark queues "tx=$(ls -d /sys/class/net/eth0/queues/tx-* | wc -l)"; }
six()
{
	n=0
	until busybox ping -6 -c 1 -W 2 fec0::2 >/dev/null 2>&1 || [ $n -ge 60 ]; do sleep 0.5; n=$((n + 1)); done
	[ $n -lt 60 ] && mark six answered=yes || mark six answered=no
}
card() { load virtio_pci; load virtio_net; busybox ip link set eth0 up; }
extra() { for m in $1; do [ -d /sys/module/$m ] || insmod /extra/$m.ko; done; }
"""


def newc(files):
    """A cpio archive of {name: bytes}, as the kernel unpacks it; folders are made."""
    out, ino = bytearray(), 1

    def entry(name, mode, data):
        nonlocal ino
        raw = name.encode() + b"\0"
        fields = [ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        ino += 1
        out.extend(b"070701" + b"".join(b"%08X" % f for f in fields) + raw)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    for folder in sorted({os.path.dirname(n) for n in files} - {""}):
        entry(folder, 0o040755, b"")
    for name in sorted(files):
        entry(name, 0o100755, files[name])
    entry("TRAILER!!!", 0, b"")
    out.extend(b"\0" * (-len(out) % 512))
    return bytes(out)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def module(name):
    found = glob.glob(f"{CACHE}/unpacked/linux-image-*/lib/modules/*/kernel/**/{name}.ko", recursive=True)
    if not found:
        print(f"skipped: no module {name} in {CACHE}/unpacked; run tools/guest-images")
        sys.exit(SKIP)
    return read(found[0])


class Lab:
    """One test: its folder, its machines, what they said."""

    def __init__(self, nestbox, blast):
        self.nestbox, self.blast = nestbox, blast
        self.work = tempfile.mkdtemp(prefix="nestbox-net-")
        self.problems = []
        self.machines = []

    def check(self, ok, sentence):
        print(f"{'ok  ' if ok else 'FAIL'} {sentence}", flush=True)
        if not ok:
            self.problems.append(sentence)

    def initrd(self, image, script, more):
        path = os.path.join(self.work, f"initrd{len(self.machines)}")
        with open(path, "wb") as f:
            f.write(read(f"{IMAGES}/{image}"))
            f.write(newc({"bin/blast": read(self.blast), "extra/script": (PRELUDE + script).encode(), **(more or {})}))
        return path

    def options(self, script, image, memory, more):
        """What starts a guest with this script, by run or create."""
        return ["--kernel", f"{IMAGES}/vmlinuz", "--initrd", self.initrd(image, script, more), "--memory", memory, "--engine",
                os.environ.get("NESTBOX_TEST_ENGINE", "auto"), "--append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on cryptomgr.notests nb.mode=poweroff "
                "nb.cmd64=" + RUN_SCRIPT]

    def start(self, script, *args, image="small.cpio", memory="256M", more=None, timeout=240, prefix=(), state=None):
        m = Machine(self, [*prefix, self.nestbox, *(["--state", state] if state else []), "run", *self.options(script, image, memory, more),
                           "--serial", "stdio", "--stats", "--timeout", str(timeout), *args])
        self.machines.append(m)
        return m


class Machine:
    def __init__(self, lab, command):
        self.lab, self.number = lab, len(lab.machines)
        self.events, self.lines = [], []
        self.cond = threading.Condition()
        self.err = tempfile.TemporaryFile()
        self.p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.err)
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()

    def follow(self):
        for raw in self.p.stdout:
            text = raw.decode("utf-8", "replace").rstrip()
            print(f"vm{self.number}: {text}", flush=True)
            m = re.search(r"NESTBOX: level=(\d+) event=(\w+) ?(.*)", text)
            with self.cond:
                self.lines.append(text)
                if m:
                    self.events.append((int(m[1]), m[2], m[3]))
                self.cond.notify_all()

    def wait_event(self, event, level=1, seconds=200):
        """The text after the event's name, or None."""
        end = time.monotonic() + seconds
        with self.cond:
            while True:
                for l, e, text in self.events:
                    if (l, e) == (level, event):
                        return text
                if self.p.poll() is not None and not self.reader.is_alive() or not self.cond.wait(max(0, min(1, end - time.monotonic()))) and time.monotonic() > end:
                    return None

    def said(self, event, words, level=1):
        return any(l == level and e == event and words in text for l, e, text in self.events)

    def end(self):
        status = self.p.wait()
        self.reader.join()
        self.err.seek(0)
        self.stderr = self.err.read().decode("utf-8", "replace")
        print("\n".join(f"vm{self.number}! {l}" for l in self.stderr.splitlines() if "stats: vcpu" not in l and "stats: jit" not in l))
        self.lab.check(status == 0, f"vm{self.number} powered off (status {status})")
        for line in self.lines:
            if BAD.search(line):
                self.lab.check(False, f"healthy line: {line}")

    def stat(self, key, card=0):
        m = re.search(rf"stats: net={card} .*?\b{key}=(\d+)", self.stderr)
        return int(m[1]) if m else -1


# ---- a peer on the host ----
def weighted_sum(chunks):
    """blast's sum."""
    value = place = 0
    rest = b""
    for data in chunks:
        data = rest + data
        n = len(data) // 8
        for w in memoryview(data)[:8 * n].cast("Q"):
            value += (w ^ place) * 0x9e3779b97f4a7c15
            place += 1
        value &= (1 << 64) - 1
        rest = data[8 * n:]
    value += (int.from_bytes(rest, "little") ^ place) * 0x9e3779b97f4a7c15
    return f"{value & ((1 << 64) - 1):016x}"


class Sink(threading.Thread):
    """Accepts one connection and takes all of it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.s = socket.create_server(("127.0.0.1", 0))
        self.port = self.s.getsockname()[1]
        self.chunks = []
        self.start()

    def run(self):
        c, _ = self.s.accept()
        while data := c.recv(MEGA):
            self.chunks.append(data)
        c.close()

    def result(self):
        self.join(10)
        return f"bytes={sum(map(len, self.chunks))} sum={weighted_sum(self.chunks)}"


class Source(threading.Thread):
    def __init__(self, size):
        super().__init__(daemon=True)
        self.data = os.urandom(size)
        self.s = socket.create_server(("127.0.0.1", 0))
        self.port = self.s.getsockname()[1]
        self.start()

    def run(self):
        c, _ = self.s.accept()
        c.sendall(self.data)
        c.shutdown(socket.SHUT_WR)
        c.recv(1)

    def result(self):
        return f"bytes={len(self.data)} sum={weighted_sum([self.data])}"


def dial(port, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=20)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


# ---- the cases ----
def user(lab):
    """user mode: a lease by DHCP, the gateway answers, TCP both ways and through a host forward, every byte right"""
    sink, source, port = Sink(), Source(24 * MEGA + 5), free_port()
    vm = lab.start(f"card; lease eth0; pings 10.0.2.2; queues; six; blasts send 10.0.2.2 {sink.port} 20000003 9; blasts recv 10.0.2.2 {source.port}; blasts serve 7\n",
                   "--net", f"user,hostfwd=tcp::{port}-:7", "--cpus", "2")
    lab.check(vm.wait_event("ping") is not None, "the guest came as far as ping")
    while len([e for e in vm.events if e[1] == "blast"]) < 2 and vm.p.poll() is None:
        time.sleep(0.2)
    forwarded = os.urandom(3 * MEGA + 1)
    time.sleep(1)  # a forward accepts at once, whether the guest listens or not
    for _ in range(200):
        try:
            c = dial(port, 30)
            c.sendall(forwarded)
            c.shutdown(socket.SHUT_WR)
            c.settimeout(60)
            c.recv(1)
            break
        except OSError:
            time.sleep(0.5)
    vm.end()
    lab.check(vm.said("dhcp", "ip=10.0.2.15 router=10.0.2.2 dns=10.0.2.3"), "DHCP gave address, router and name server")
    lab.check(vm.said("ping", "to=10.0.2.2 answered=yes"), "the gateway answers pings")
    lab.check(vm.said("queues", "tx=2"), "the driver uses a pair of queues per CPU")
    lab.check(vm.said("six", "answered=yes"), "the gateway answers by IPv6, too")
    lab.check(vm.said("blast", "kind=sent " + sink.result()), "what the guest sent is what the host got")
    lab.check(vm.said("blast", "kind=received " + source.result()), "what the host sent is what the guest got")
    lab.check(vm.said("blast", f"kind=received bytes={len(forwarded)} sum={weighted_sum([forwarded])}"), "what went through the forward is what the guest got")
    lab.check(0 < vm.stat("out_frames") < 20000003 / 1448 and vm.stat("spoofed_dropped") == 0, "frames left larger than packets, none dropped")


def udp(lab):
    """user mode: datagrams come in through a UDP forward and go back, the large ones in fragments, every byte right"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    vm = lab.start("card; lease eth0; mark ready now=1; /bin/blast echo 7 >/dev/null 2>&1 && mark echoed all=1\n", "--net", f"user,hostfwd=udp::{port}-:7")
    lab.check(vm.wait_event("ready") is not None, "the guest came as far as its server")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("127.0.0.1", port))
        s.settimeout(2)
        answered, sizes = 0, [1, 2, 100, 1000, 1400, 1472, 4000, 9000] * 8
        for size in sizes:
            data = os.urandom(size)
            answered += exchanged(s, data, bytes(b ^ 255 for b in data))
        lab.check(answered == len(sizes), f"{answered} of {len(sizes)} datagrams came back complemented")
        while vm.p.poll() is None and not vm.said("echoed", ""):
            try:
                s.send(b"end")
            except OSError:
                pass
            time.sleep(0.2)
    vm.end()


def exchanged(s, data, answer):
    """Whether the answer comes: a datagram may get lost, and its sender then sends it again."""
    for _ in range(30):
        try:
            s.send(data)
            while True:
                if s.recv(65536) == answer:
                    return True
        except TimeoutError:
            pass
        except OSError:  # nobody listens yet
            time.sleep(0.2)
    return False


def cable(lab):
    """user mode: a cable pulled out by nestbox net is seen by the guest and put back; a back-end that dies takes the link down and nothing else"""
    state = os.path.join(lab.work, "state")
    ask = lambda *a: subprocess.run([lab.nestbox, "--state", state, "net", "vm", *a], capture_output=True, text=True, timeout=120)
    vm = lab.start("""card; lease eth0
link() { n=0; until [ "$(cat /sys/class/net/eth0/carrier)" = $1 ] || [ $n -ge 1200 ]; do sleep 0.1; n=$((n + 1)); done; mark "$2" "carrier=$(cat /sys/class/net/eth0/carrier)"; }
link 0 out; link 1 in; pings 10.0.2.2; link 0 dead
""", "--net", "user", "--name", "vm", state=state)
    lab.check(vm.wait_event("dhcp") is not None, "the guest came as far as DHCP")
    lab.check(ask("0", "out").returncode == 0 and "carrier=0" in (vm.wait_event("out") or ""), "the guest sees the cable pulled out")
    lab.check("pulled out" in ask().stdout, "the list says so")
    lab.check(ask("7", "out").returncode == 2, "a card that is not there is an error")
    lab.check(ask("0", "in").returncode == 0 and "carrier=1" in (vm.wait_event("in") or ""), "and put back in")
    lab.check("to=10.0.2.2 answered=yes" in (vm.wait_event("ping") or ""), "the network works again")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = read(f"/proc/{pid}/cmdline").split(b"\0")
            parent = re.search(rb"\nPPid:\t(\d+)", read(f"/proc/{pid}/status"))[1]
        except (OSError, TypeError):
            continue
        if command[1:2] == [b"net-user"] and int(parent) == vm.p.pid:
            os.kill(int(pid), 9)
    lab.check("carrier=0" in (vm.wait_event("dead") or ""), "the guest sees that the back-end died")
    vm.end()
    lab.check("user-mode network has gone" in vm.stderr, "the log says it")


def pair(lab, net_a, net_b, check=None, args_b=()):
    """Two machines, traffic both ways between them."""
    address = "busybox ip addr add 10.9.0.{}/24 dev eth0;"
    a = lab.start(f"card; {address.format(1)} blasts serve 7; waits_for 10.9.0.2; blasts send 10.9.0.2 8 16000007 4\n", "--net", net_a)
    time.sleep(0.5)
    b = lab.start(f"card; {address.format(2)} waits_for 10.9.0.1; pings 10.9.0.1; blasts send 10.9.0.1 7 16000001 3; blasts serve 8\n",
                  "--net", net_b, *args_b)
    a.end()
    b.end()
    lab.check(b.said("ping", "to=10.9.0.1 answered=yes"), "one pings the other")
    for sender, receiver, way in ((b, a, "there"), (a, b, "back")):
        sent = [t.split("kind=sent ")[1] for _, e, t in sender.events if e == "blast" and "kind=sent bytes=1600000" in t]
        lab.check(len(sent) == 1 and receiver.said("blast", "kind=received " + sent[0]), f"what was sent {way} is what was received")
    return a, b


def switch(lab):
    """switch: two machines reach each other, every byte right, and the switch goes with the last of them"""
    path = os.path.join(lab.work, "switch")
    a, b = pair(lab, f"switch,path={path},mac=02:00:00:00:09:01", f"switch,path={path}", args_b=("--cpus", "2"))
    lab.check(a.stat("in_frames") < 16000001 / 1448, "large frames cross the switch whole")
    lab.check(soon(lambda: not os.path.exists(path)), "the switch has ended and its socket is gone")


def saved(lab):
    """switch: a transfer goes on, every byte right, across a checkpoint, a save and a start of the machine that sends"""
    path, state, size = os.path.join(lab.work, "switch"), os.path.join(lab.work, "state"), 1000 * MEGA + 1
    nestbox = lambda *a, **k: subprocess.run([lab.nestbox, "--state", state, *a], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120, **k)
    done = lambda r: r.returncode == 0 or print(r.args, r.stdout, r.stderr)
    b = lab.start("card; busybox ip addr add 10.9.0.2/24 dev eth0; blasts serve 7\n", "--net", f"switch,path={path}")
    b.wait_event("kvm")
    options = lab.options(f"card; busybox ip addr add 10.9.0.1/24 dev eth0; waits_for 10.9.0.2; blasts send 10.9.0.2 7 {size} 3; sleep 100\n", "small.cpio", "256M", None)
    lab.check(done(nestbox("create", "a", *options, "--net", f"switch,path={path}")) and done(nestbox("start", "a")), "a machine that stays is created and started")
    sent = lambda: json.loads(nestbox("net", "a", "--json").stdout or "{}").get("nets", [{}])[0].get("out_bytes", 0)
    soon(lambda: sent() > 30 * MEGA)
    lab.check(done(nestbox("checkpoint", "a", "create", "c")), "a checkpoint is made in mid-transfer")
    before = sent()
    lab.check(done(nestbox("save", "a")), f"the machine is saved after {before} bytes")
    lab.check(30 * MEGA < before < size, "in mid-transfer")
    lab.check(done(nestbox("start", "a")), "and goes on")
    b.end()
    got = [t.split("kind=received ")[1] for _, e, t in b.events if e == "blast" and f"kind=received bytes={size} " in t]
    console = ""
    for _ in range(600):
        console = nestbox("console", "a", "--dump").stdout or console
        if "event=blast" in console:
            break
        time.sleep(0.2)
    lab.check(len(got) == 1 and f"kind=sent {got[0]}" in console, f"what was sent is what was received: {got}")
    nestbox("ctl", "a", "quit")


def restored(lab):
    """user mode: a restored machine's connections are reset, and new ones work"""
    state, again = os.path.join(lab.work, "state"), Sink()
    nestbox = lambda *a: subprocess.run([lab.nestbox, "--state", state, *a], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    done = lambda r: r.returncode == 0 or print(r.args, r.stdout, r.stderr)
    console = lambda: nestbox("console", "a", "--dump").stdout
    first = Sink()
    script = (f'card; lease eth0; mark first "$(/bin/blast send 10.0.2.2 {first.port} 100000000000 3 2>&1 | tr " " _)"\n'
              f"pings 10.0.2.2; blasts send 10.0.2.2 {again.port} 3000001 4; sleep 1000\n")
    lab.check(done(nestbox("create", "a", *lab.options(script, "small.cpio", "256M", None), "--net", "user")) and done(nestbox("start", "a")), "created and started")
    lab.check(soon(lambda: sum(map(len, first.chunks)) > MEGA), "a transfer is under way")
    lab.check(done(nestbox("save", "a")), "saved in mid-transfer")
    lab.check(done(nestbox("start", "a")), "and started again")
    lab.check(soon(lambda: "event=blast" in console()), "the guest has gone on")
    text = console()
    print(text)
    lab.check(re.search(r"event=first .*blast:_write:_Connection_reset_by_peer", text), "the old connection was reset")
    lab.check("to=10.0.2.2 answered=yes" in text and f"kind=sent {again.result()}" in text, "a new one carries every byte")
    nestbox("ctl", "a", "quit")


def soon(condition, seconds=150):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def wire(lab):
    """socket: two machines on one stream socket, where only plain packets travel"""
    path = os.path.join(lab.work, "wire")
    pair(lab, f"socket,path={path},server=on", f"socket,path={path}")


def passt(lab):
    """passt on a socket: DHCP, TCP both ways with frames of 64 KiB, none lost; skipped where passt is not installed or cannot run"""
    path, log = os.path.join(lab.work, "passt"), open(os.path.join(lab.work, "log"), "w+")
    if not shutil.which("passt"):
        print("skipped: passt is not installed")
        sys.exit(SKIP)
    os.chmod(lab.work, 0o777)
    p = subprocess.Popen(["passt", "-f", "-e", "-1", "--runas", str(os.getuid()), "-s", path, "-a", "10.5.0.15", "-n", "24", "-g", "10.5.0.1", "-D", "none"],
                         stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(50):
        if os.path.exists(path) or p.poll() is not None:
            break
        time.sleep(0.1)
    if p.poll() is not None:
        log.seek(0)
        print("skipped: passt does not run here:", log.read()[-300:])
        sys.exit(SKIP)
    sink, source = Sink(), Source(16 * MEGA + 3)
    vm = lab.start(f"card; lease eth0; busybox ip link set eth0 mtu 65520; blasts send 10.5.0.1 {sink.port} 16000003 9; blasts recv 10.5.0.1 {source.port}\n",
                   "--net", f"socket,path={path}")
    vm.end()
    p.kill()
    lab.check(vm.said("dhcp", "ip=10.5.0.15 router=10.5.0.1"), "DHCP gave address and router")
    lab.check(vm.said("blast", "kind=sent " + sink.result()), "what the guest sent is what the host got")
    lab.check(vm.said("blast", "kind=received " + source.result()), "what the host sent is what the guest got")
    lab.check(vm.stat("in_lost") == 0 and vm.stat("in_bytes") < 20 * MEGA, "nothing was lost and sent again")


def same_mac(lab):
    """switch: a second machine with the same MAC is refused in one line, status 2"""
    path = os.path.join(lab.work, "switch")
    net = f"switch,path={path},mac=02:00:00:00:09:09"
    a = lab.start("card; mark plugged in=1; sleep 1000\n", "--net", net)
    lab.check(a.wait_event("plugged") is not None, "the first machine is there")
    r = subprocess.run([lab.nestbox, "run", "--kernel", f"{IMAGES}/vmlinuz", "--serial", "null", "--net", net], capture_output=True, text=True, timeout=120)
    lab.check(r.returncode == 2 and len(r.stderr.splitlines()) == 1 and "02:00:00:00:09:09" in r.stderr and "mac=" in r.stderr, f"refused: {r.stderr!r}")


L1 = r"""
cat /images/child.cpio /extra/l2.cpio >/tmp/initrd
qemu-system-x86_64 -nodefaults -no-user-config -display none -accel kvm -M microvm,pit=off,pic=off,rtc=on,isa-serial=on,acpi=on,auto-kernel-cmdline=off \
	-cpu host,migratable=off -m 160 -kernel /images/vmlinuz -initrd /tmp/initrd -serial stdio -no-reboot -append "pci=off console=ttyS0,115200 8250.nr_uarts=1 \
	reboot=t panic=-1 quiet loglevel=3 random.trust_cpu=on cryptomgr.notests nb.level=2 nb.depth=2 nb.mode=poweroff nb.cmd64=RUN_SCRIPT" \
	$NETDEV -device virtio-net-device,netdev=n0,mac=52:54:00:00:00:02 </dev/null 2>&1
""".replace("RUN_SCRIPT", RUN_SCRIPT)
BRIDGE = """
card; extra "llc stp bridge tun"
busybox brctl addbr br0; busybox brctl addif br0 eth0; busybox tunctl -t tap0 >/dev/null; busybox brctl addif br0 tap0
for i in eth0 tap0 br0; do busybox ip link set $i up; done
NETDEV="-netdev tap,id=n0,ifname=tap0,script=no,downscript=no"
"""
L2 = "extra 'virtio_ring virtio virtio_mmio failover net_failover virtio_net'; busybox ip link set eth0 up; lease eth0 {tries}; pings 10.0.2.2; blasts send 10.0.2.2 {port} 3000001 5\n"


def nested(lab, net, prepare, tries=8, script=L2, more=()):
    """A machine whose guest has a network card of its own, wired by L1 as `prepare` says."""
    sink = Sink()
    inner = (PRELUDE + script.format(port=sink.port, tries=tries)).encode()
    modules = {f"extra/{m}.ko": module(m) for m in ("virtio", "virtio_ring", "virtio_mmio", "failover", "net_failover", "virtio_net")}
    more = dict(more) or {f"extra/{m}.ko": module(m) for m in ("llc", "stp", "bridge", "tun")}
    more["extra/l2.cpio"] = newc({"bin/blast": read(lab.blast), "extra/script": inner, **modules})
    vm = lab.start(prepare + L1, "--net", net, "--nested", "on", image="l1.cpio", memory="768M", more=more, timeout=400)
    vm.end()
    lab.check(vm.said("userland", "", level=2), "L2 booted")
    return vm, sink


def bridge_spoofing_on(lab):
    """nested: L2 behind a bridge in L1 has the network with mac-spoofing=on"""
    vm, sink = nested(lab, "user,mac-spoofing=on", BRIDGE)
    lab.check(vm.said("dhcp", "ip=10.0.2.", level=2), "L2 has a lease of its own from L0's network")
    lab.check(vm.said("ping", "answered=yes", level=2), "L2 pings L0's gateway")
    lab.check(vm.said("blast", "kind=sent " + sink.result(), level=2), "what L2 sent is what the host got")
    lab.check(vm.stat("spoofed_dropped") == 0 and "dropping frames" not in vm.stderr, "nothing was dropped")


def bridge_spoofing_off(lab):
    """nested: L2 behind a bridge in L1 has no network without mac-spoofing; the drops are counted and the log says what would allow it"""
    vm, _ = nested(lab, "user,mtu=1500", BRIDGE, tries=2)
    lab.check(vm.said("dhcp", "ip=none", level=2), "L2 gets no lease")
    lab.check(vm.said("ping", "answered=no", level=2), "L2 reaches nobody")
    lab.check(vm.stat("spoofed_dropped") > 0, f"drops are counted: {vm.stat('spoofed_dropped')}")
    lines = [l for l in vm.stderr.splitlines() if "dropping frames" in l]
    lab.check(len(lines) == 1 and "52:54:00:00:00:02" in lines[0] and "--net user,mtu=1500,mac-spoofing=on" in lines[0], f"the log says it once: {lines}")


NFT = """table ip nat {
	chain out {
		type nat hook postrouting priority 100
		oifname "eth0" masquerade
	}
}
"""
# nft and its libraries lie beside each other, so that it needs none of the guest's.
MASQUERADE = r"""
card; lease eth0
extra "libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nf_nat nfnetlink nf_tables nft_chain_nat nft_masq tun"
busybox tunctl -t tap0 >/dev/null; busybox ip addr add 10.7.0.1/24 dev tap0; busybox ip link set tap0 up
echo 1 >/proc/sys/net/ipv4/ip_forward
/extra/nft/ld-linux-x86-64.so.2 --library-path /extra/nft /extra/nft/nft -f /extra/masquerade && mark nat rules=loaded
NETDEV="-netdev tap,id=n0,ifname=tap0,script=no,downscript=no"
"""
L2_STATIC = """extra 'virtio_ring virtio virtio_mmio failover net_failover virtio_net'; busybox ip link set eth0 up
busybox ip addr add 10.7.0.2/24 dev eth0; busybox ip route add default via 10.7.0.1
pings 10.0.2.2; blasts send 10.0.2.2 {port} 3000001 5
"""


def program(path):
    """The files of a dynamically linked program: itself, its libraries and their loader."""
    out = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    return [path] + re.findall(r"(/\S+) \(0x", out)


def nat_masquerade(lab):
    """nested: L2 behind L1's own nftables masquerading has the network without mac-spoofing"""
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not nft:
        print("skipped: nftables is not installed")
        sys.exit(SKIP)
    more = {"extra/masquerade": NFT.encode(), **{f"extra/nft/{os.path.basename(f)}": read(f) for f in program(nft)}}
    for m in "libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nf_nat nfnetlink nf_tables nft_chain_nat nft_masq tun".split():
        more[f"extra/{m}.ko"] = module(m)
    vm, sink = nested(lab, "user", MASQUERADE, script=L2_STATIC, more=more)
    lab.check(vm.said("nat", "rules=loaded"), "L1's nft has loaded the rules")
    lab.check(vm.said("ping", "answered=yes", level=2), "L2 pings L0's gateway through L1")
    lab.check(vm.said("blast", "kind=sent " + sink.result(), level=2), "what L2 sent is what the host got")
    lab.check(vm.stat("spoofed_dropped") == 0 and "dropping frames" not in vm.stderr, "nothing was dropped: all frames bear L1's address")


def nat_spoofing_off(lab):
    """nested: L2 behind NAT in L1 (its QEMU's user network) has the network without mac-spoofing"""
    vm, sink = nested(lab, "user", "card; lease eth0\nNETDEV='-netdev user,id=n0,net=10.7.0.0/24'\n")
    lab.check(vm.said("dhcp", "ip=10.7.0.", level=2), "L2 has a lease from L1")
    lab.check(vm.said("blast", "kind=sent " + sink.result(), level=2), "what L2 sent is what the host got")
    lab.check(vm.stat("spoofed_dropped") == 0, "nothing was dropped")


def tap(lab):
    """tap: a TAP device in a network namespace of its own; skipped without root or /dev/net/tun"""
    if os.getuid() or not os.path.exists("/dev/net/tun") or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        print("skipped: needs root, /dev/net/tun and network namespaces")
        sys.exit(SKIP)
    host = os.path.join(lab.work, "host.sh")
    with open(host, "w") as f:
        f.write(f"""ip link set lo up; ip tuntap add dev nbtap0 mode tap; ip addr add 10.8.0.1/24 dev nbtap0; ip link set nbtap0 up
{lab.blast} serve 7 >{lab.work}/host.out & {lab.blast} serve 8 >>{lab.work}/host.out2 & exec "$@"\n""")
    vm = lab.start("card; busybox ip addr add 10.8.0.2/24 dev eth0; waits_for 10.8.0.1; pings 10.8.0.1; blasts send 10.8.0.1 7 16000005 3; blasts send 10.8.0.1 8 1003 3\n",
                   "--net", "tap,ifname=nbtap0", prefix=("unshare", "-n", "sh", host))
    vm.end()
    out = open(f"{lab.work}/host.out").read() + open(f"{lab.work}/host.out2").read()
    lab.check(vm.said("ping", "answered=yes"), "the host answers pings")
    for size in ("16000005", "1003"):
        sent = [t.split("kind=sent ")[1] for _, e, t in vm.events if e == "blast" and f"bytes={size} " in t]
        lab.check(len(sent) == 1 and f"received {sent[0]}" in out, f"what was sent is what the host got ({size} bytes)")
    lab.check(vm.stat("out_frames") < 16000005 / 1448, "frames left larger than packets")


CASES = {f.__name__.replace("_", "-"): f for f in (user, udp, cable, switch, saved, restored, wire, passt, same_mac, bridge_spoofing_on, bridge_spoofing_off, nat_spoofing_off, nat_masquerade, tap)}


def main():
    if len(sys.argv) == 2 and sys.argv[1] == "--list" or len(sys.argv) == 4 and sys.argv[3] == "--list":
        for name, f in CASES.items():
            print(f"{name:22} {f.__doc__}")
        return 0
    if len(sys.argv) != 4 or sys.argv[3] not in CASES:
        print(__doc__)
        return 2
    nestbox, blast, name = sys.argv[1:]
    if not os.path.exists(f"{IMAGES}/l1.cpio"):
        print(f"skipped: no {IMAGES}/l1.cpio; run tools/guest-images")
        return SKIP
    lab = Lab(os.path.abspath(nestbox), os.path.abspath(blast))
    try:
        CASES[name](lab)
    finally:
        for m in lab.machines:
            if m.p.poll() is None:
                m.p.kill()
        subprocess.run(["rm", "-rf", lab.work])
    print(f"{'FAIL' if lab.problems else 'ok  '} {CASES[name].__doc__}")
    return 1 if lab.problems else 0


sys.exit(main())
