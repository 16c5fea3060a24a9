"""Runs one machine and reads its console; the host's clock stamps every line. Also what the host's other programs did meanwhile."""
import os
import re
import select
import signal
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")
MARK = re.compile(r"@([SEXD]) (\d+) (\w+) ?([^@\r]*)")
EVENT = re.compile(r"NESTBOX: level=(\d+) event=(\w+) ?(.*)")


def task_ns(pid):
    """CPU time of a process's threads and of its children, dead and alive, in nanoseconds."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat") as f:
                total += int(f.read().split()[0])
            with open(f"/proc/{pid}/task/{task}/children") as f:
                total += sum(task_ns(int(child)) for child in f.read().split())
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += (int(fields[13]) + int(fields[14])) * 1_000_000_000 // TICKS # waited-for children, in ticks
    except (OSError, IndexError):
        pass # it ended meanwhile
    return total


def rss_mib(pid):
    try:
        with open(f"/proc/{pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1)) / 1024
    except (OSError, AttributeError):
        return None


def machine_ticks():
    """(busy, stolen, total) ticks of all CPUs since the machine was switched on."""
    with open("/proc/stat") as f:
        v = [int(x) for x in f.readline().split()[1:9]] # user nice system idle iowait irq softirq steal
    return sum(v) - v[3] - v[4] - v[7], v[7], sum(v)


class Result:
    """What a run left behind: lines [(seconds, cpu_seconds or None, text)], both since power-on."""
    def __init__(self):
        self.lines, self.rss, self.failure = [], {}, None
        self.wall_s = self.cpu_s = self.peak_mib = self.status = None
        self.others = self.stolen = 0.0 # share of the machine's CPU time that went to other programs, to other virtual machines


class Machine:
    """command's console is console_fd's read side or, when that is None, its output."""
    def __init__(self, command, timeout_s, log, say, console=None, ends_with=0):
        self.command, self.timeout_s, self.log, self.say, self.console = command, timeout_s, log, say, console
        self.ends_with = ends_with
        self.result, self.part, self.stage, self.done = Result(), b"", "starts", False

    def run(self):
        busy, stolen, total = machine_ticks()
        self.start = time.monotonic_ns()
        with open(self.log, "wb", buffering=0) as self.logfile:
            if self.console:
                read_fd, write_fd = self.console
                self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.logfile, stderr=self.logfile,
                                              pass_fds=[write_fd], start_new_session=True)
                os.close(write_fd)
            else:
                self.child = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                              start_new_session=True)
                read_fd = self.child.stdout.fileno()
            try:
                self.read(read_fd)
            finally:
                self.end()
        r, (busy2, stolen2, total2) = self.result, machine_ticks()
        share = max(total2 - total, 1)
        r.others = max(0.0, (busy2 - busy - r.cpu_s * TICKS) / share)
        r.stolen = (stolen2 - stolen) / share
        return r

    def seconds(self):
        return (time.monotonic_ns() - self.start) / 1e9

    def read(self, fd):
        told = 0
        while True:
            ready, _, _ = select.select([fd], [], [], 0.5)
            now = self.seconds()
            if ready:
                data = os.read(fd, 65536)
                if not data:
                    return
                self.logfile.write(data)
                self.take(data, now)
            if now - told >= (2 if told == 0 else 5):
                told = now
                self.say(f"{now:.0f} s: {self.stage}")
            if now > self.timeout_s:
                self.result.failure = f"no end after {self.timeout_s:.0f} s ({self.stage})"
                return
            if not ready and os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT): # children of it may hold the console open
                return

    def take(self, data, now):
        *lines, self.part = (self.part + data).split(b"\n")
        for raw in lines:
            text = raw.decode(errors="replace").rstrip("\r")
            interesting = "@" in text or "NESTBOX:" in text or text.endswith(("?", "!"))
            self.result.lines.append((now, task_ns(self.child.pid) / 1e9 if interesting else None, text))
            if interesting:
                self.follow(text)

    def follow(self, text):
        mark, event = MARK.search(text), EVENT.search(text)
        if mark and mark[1] == "S":
            self.stage = f"L{mark[2]} {mark[3]}" if mark[2] != "0" else mark[3]
        elif event:
            self.stage = f"L{event[1]} {event[2]}"
            if event[2] == "userland":
                self.result.rss[int(event[1])] = rss_mib(self.child.pid)

    def end(self):
        """Waits two seconds for the process, then ends its session."""
        r = self.result
        for _ in range(40):
            pid, status, usage = os.wait4(self.child.pid, os.WNOHANG)
            if pid:
                break
            if r.failure:
                os.killpg(self.child.pid, signal.SIGKILL)
            time.sleep(0.05)
        else:
            os.killpg(self.child.pid, signal.SIGKILL)
            pid, status, usage = os.wait4(self.child.pid, 0)
        self.child.returncode = r.status = os.waitstatus_to_exitcode(status)
        if self.child.stdout:
            self.child.stdout.close()
        r.wall_s = self.seconds()
        r.cpu_s = usage.ru_utime + usage.ru_stime
        r.peak_mib = usage.ru_maxrss / 1024
        if r.status != self.ends_with and not r.failure:
            r.failure = f"ended with status {r.status} ({self.stage})"
