"""Loads one process at a time: the loader and the application on one core, the measured process on the other."""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from peers import HERE, REPOSITORY
from processes import Failed, await_listener, free_port, running, started

CONNECTIONS = 32
RATE = 2000
WARM_UP = 0.6
DELIVERED_WITHIN = 120


@dataclass(frozen=True)
class Load:
    kib: int
    # Events per second; None is as fast as the responses arrive.
    rate: int | None = None

    @property
    def name(self):
        return f"{self.kib}KiB" + (f"@{self.rate}" if self.rate else "")


@contextlib.contextmanager
def bench(options, places):
    """Yields a bench with its application running, and cleans up both at the end."""
    # The loader inherits this core; peers are put on theirs.
    os.sched_setaffinity(0, {options.load_core})
    options.scratch.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), options.scratch / "upstream.log"
    application = [str(options.tools / "upstream"), f"127.0.0.1:{port}"]
    try:
        with log.open("wb") as output, started(application, options.load_core, {}, output) as group:
            await_listener(group, port, log)
            yield Bench(options, places, f"127.0.0.1:{port}")
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)


class Bench:
    def __init__(self, options, places, upstream):
        self.options, self.places, self.upstream = options, places, upstream
        self.loader = f"{places['tools']}/load"

    def application_count(self):
        """Returns the number of events that have reached the application so far."""
        with urllib.request.urlopen(f"http://{self.upstream}/") as response:
            return int(response.read())

    def running(self, peer):
        return running(peer, self.places, self.upstream, self.options.scratch / "run", self.options.proxy_core)

    def tags(self, kib):
        return self.options.scratch / f"tags-{kib}"

    def sign(self, kib, count=None):
        # No gateway exceeds this rate on one core. A faster one would run out of events and end
        # early, which loses nothing.
        a_second = 1e6 / (14 + kib / 2)
        count = count or int(a_second * (self.options.seconds + WARM_UP)) + RATE
        arguments = ["sign", "--size", str(kib << 10), "--count", str(count), str(self.tags(kib))]
        subprocess.run([self.loader, *arguments], check=True)

    def verify(self, peer):
        """Checks that the peer does what it claims, at every size; otherwise its speed means nothing."""
        with self.running(peer) as process:
            for kib in self.options.sizes:
                before = self.application_count()
                command = [self.loader, "probe", "--to", f"127.0.0.1:{process.port}", "--size", str(kib << 10)]
                probe = subprocess.run(command, capture_output=True, text=True)
                if probe.returncode != 0:
                    raise Failed(f"{kib} KiB: {probe.stderr.strip()}")
                statuses = json.loads(probe.stdout)
                passed = {case: 200 <= status < 300 for case, status in statuses.items()}
                expected = {"valid": True, "tampered": not peer.verifies, "replayed": not peer.stops_replays}
                if passed != expected:
                    raise Failed(f"{kib} KiB: {statuses}, where these should pass: {expected}")
                self.await_count(before + (sum(passed.values()) if peer.forwards else 0), 10)

    def await_count(self, wanted, seconds):
        deadline = time.monotonic() + seconds
        while (count := self.application_count()) != wanted:
            if time.monotonic() > deadline:
                raise Failed(f"the application has seen {count} events, not {wanted}")
            time.sleep(0.05)

    def measure(self, peer, load):
        """Measures one stretch of load on a new process."""
        with self.running(peer) as process:
            time.sleep(0.3)
            idle = process.group.rss_bytes()
            measured = self.load(process, load, delivers_later=peer.delivers_later)
            return {**measured, "rss_idle_mib": idle / 2**20}

    def load(self, process, load, seconds=None, first=0, last=None, delivers_later=False):
        """Sends events from number `first` on, for `seconds` or up to number `last`."""
        group, cpu_start, count = process.group, process.group.cpu_seconds(), self.application_count()
        arguments = ["run", "--to", f"127.0.0.1:{process.port}", "--size", load.kib << 10, "--connections", CONNECTIONS]
        arguments += ["--seconds", seconds or self.options.seconds, "--warm-up", WARM_UP, "--first", first]
        arguments += ["--rate", load.rate] if load.rate else []
        arguments += ["--last", last] if last else []
        with self.loading([*arguments, self.tags(load.kib)]) as loader:
            loader.stdout.readline()
            cpu_warm = group.cpu_seconds()
            with contextlib.suppress(BrokenPipeError):
                loader.stdin.write("\n")
                loader.stdin.flush()
            busy = 0
            while loader.poll() is None:
                busy = max(busy, group.rss_bytes())
                time.sleep(0.1)
            if loader.returncode != 0:
                raise Failed(loader.stderr.read().strip())
            result = json.loads(loader.stdout.read())
        cpu, requests = group.cpu_seconds() - cpu_warm, result["requests"]
        all_requests = requests + result["warm_up_requests"]
        if delivers_later:
            requests = all_requests
            self.await_count(count + requests, DELIVERED_WITHIN)
            cpu = group.cpu_seconds() - cpu_start
        return {
            "requests": result["requests"],
            "all_requests": all_requests,
            "rps": result["requests"] / result["seconds"],
            "cpu_us": cpu / requests * 1e6,
            "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
            "rss_busy_mib": busy / 2**20,
        }

    @contextlib.contextmanager
    def loading(self, arguments):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        loader = subprocess.Popen([self.loader, *map(str, arguments)], text=True, **pipes)
        try:
            yield loader
        finally:
            loader.kill()
            loader.wait()


def add_options(parser):
    """Adds the options that both commands share, and parses."""
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measured stretch of load")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--hookstile", type=Path, default=REPOSITORY / "target/release/hookstile")
    parser.add_argument("--tools", type=Path, default=HERE / "target/release", help="folder of the programs built here")
    parser.add_argument("--scratch", type=Path, default=HERE / "target/scratch", help="on the disk that holds the store")
    parser.add_argument("--proxy-core", type=int, default=cores[-1])
    parser.add_argument("--load-core", type=int, default=cores[0])
    options = parser.parse_args()
    if options.proxy_core == options.load_core:
        parser.error("the peer and the loader need a core each")
    return options


def stop_on_signals():
    """Exits on signals, so that nothing is left running."""
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit(1))


def machine():
    cpu = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].replace("\t", "").splitlines())
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / 2**20
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True)
    return {
        "cpu": cpu.get("model name", platform.machine()).strip(),
        "cores": os.cpu_count(),
        "sha_ni": "sha_ni" in cpu.get("flags", "").split(),
        "memory_gib": round(memory),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "load_average_before": os.getloadavg()[0],
        "revision": revision.stdout.strip(),
    }


def say(text):
    print(text, file=sys.stderr, flush=True)
