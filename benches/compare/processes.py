"""The measured processes: started on a core of their own, observed in /proc, and always ended at the end."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from peers import fill

READY_WITHIN = 60
ENDED_WITHIN = 60
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Failed(Exception):
    """A peer failed; the message explains how."""


@dataclass(frozen=True)
class Running:
    group: "Group"
    port: int
    # The address of hookstile's admin listener, and its configuration, which a reload reads.
    admin: str
    configuration: Path | None


class Group:
    """A process and all its children: the process group of that ID."""

    def __init__(self, popen):
        self.popen = popen

    def _stats(self):
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    # The name, in brackets, may contain anything.
                    stat = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    if int(stat[2]) == self.popen.pid:
                        yield entry, stat

    def cpu_seconds(self):
        """Returns the user and system time so far, including that of ended children."""
        return sum(sum(map(int, stat[11:15])) for _, stat in self._stats()) / TICKS

    def end(self):
        """Asks the process to end, as an operator does, and waits for that."""
        self.popen.terminate()
        try:
            self.popen.wait(ENDED_WITHIN)
        except subprocess.TimeoutExpired:
            raise Failed(f"it has not ended {ENDED_WITHIN} s after SIGTERM") from None

    def rss_bytes(self):
        total = 0
        for process, _ in self._stats():
            with contextlib.suppress(OSError):
                total += int(Path("/proc", process, "statm").read_text().split()[1]) * PAGE
        return total


@contextlib.contextmanager
def started(command, cores, environment, output):
    """Starts `command` on `cores`, as `taskset` takes them; its group is killed at the end. Its remaining output is discarded."""
    popen = subprocess.Popen(
        ["taskset", "-c", str(cores), *command],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield Group(popen)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_listener(group, port, log):
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if group.popen.poll() is not None:
            raise Failed(f"it exited at once: {tail(log)}")
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.002)
    raise Failed(f"it does not listen after {READY_WITHIN} s: {tail(log)}")


def tail(log):
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:]) or "(it said nothing)"


@contextlib.contextmanager
def running(peer, places, upstream, scratch, cores, store=None):
    """Yields a new, listening process of `peer`, with an empty store or, if the peer has a place for it, with this one."""
    run, ram = scratch / peer.name, Path("/dev/shm") / f"hookstile-compare-{os.getpid()}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    port = free_port()
    values = {**places, "run": run, "ram": ram, "port": port, "listen": f"127.0.0.1:{port}", "upstream": upstream}
    values |= {"admin": f"127.0.0.1:{free_port()}", "store": store or run / "store"}
    values |= {name: fill(value, values) for name, value in peer.values.items()}
    if peer.configuration:
        template = places["peers"] / peer.configuration
        values["configuration"] = run / template.name
        values["configuration"].write_text(fill(template.read_text(), values))
    command = shlex.split(fill(peer.command, values))
    environment = {"WEBHOOK_SECRET": places["secret"], "PORT": str(port), **peer.environment}
    log = run / "output.log"
    try:
        with log.open("wb") as output, started(command, cores, environment, output) as group:
            await_listener(group, port, log)
            yield Running(group, port, values["admin"], values.get("configuration"))
    finally:
        shutil.rmtree(run, ignore_errors=True)
        shutil.rmtree(ram, ignore_errors=True)
