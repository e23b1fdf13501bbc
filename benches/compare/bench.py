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
DELIVERED_WITHIN = 120
FLUSHED_WITHIN = 60
ANSWERED_WITHIN = 10
# A process is idle if it has used less CPU time than this, in seconds, in a period that contains the
# gateway's work of each second.
IDLE_CPU, IDLE_PERIOD, IDLE_WITHIN = 0.03, 1.5, 60
# The least rate, in events per second, at which a gateway is filled.
FILLED_A_SECOND = 1000


@dataclass(frozen=True)
class Load:
    kib: int
    # Events per second; None is as fast as the responses arrive.
    rate: int | None = None
    # What is sent, if that is not new events; the loader's name for it; and the status of every response.
    what: str = ""
    kind: str = "genuine"
    status: int | None = None
    # The number of events that are sent again and again, and whether they were delivered before.
    repeats: int | None = None
    delivered_before: bool = False
    # The connections, each of which is opened again for each event if they are not kept; over HTTP/2, the events
    # that each has at a time.
    connections: int = CONNECTIONS
    kept: bool = True
    streams: int | None = None
    # How many times as long as the other stretches.
    stretch: int = 1
    # The CPU time counts from the first event until the process is idle again.
    until_idle: bool = False
    # Nothing is sent: the process is started with a store that remembers as many IDs.
    ids: int | None = None

    @property
    def name(self):
        return f"{self.kib}KiB" + (f"@{self.rate}" if self.rate else "") + (f" {self.what}" if self.what else "")

    @property
    def size(self):
        return "1 MiB" if self.kib == 1024 else f"{self.kib} KiB"


@contextlib.contextmanager
def bench(options, places):
    """Yields a bench with its application running, and cleans up both at the end."""
    # The loader inherits this core; peers are put on theirs.
    os.sched_setaffinity(0, {options.load_core})
    options.scratch.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), options.scratch / "upstream.log"
    application = [str(options.tools / "upstream"), f"127.0.0.1:{port}"]
    try:
        subprocess.run([str(options.tools / "load"), "certify", str(options.scratch)], check=True)
        places = {**places, "certificates": options.scratch}
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
        with urllib.request.urlopen(f"http://{self.upstream}/", timeout=ANSWERED_WITHIN) as response:
            return int(response.read())

    def running(self, peer, store=None, cores=None):
        """`cores` are those of the peer, as `taskset` takes them, if they are not its usual one."""
        cores = cores or self.options.proxy_core
        return running(peer, self.places, self.upstream, self.options.scratch / "run", cores, store)

    def trust(self, peer):
        return ["--trust", f"{self.places['certificates']}/certificate.pem"] if peer.tls else []

    def tags(self, kib):
        return self.options.scratch / f"tags-{kib}"

    def events_needed(self, load):
        if load.repeats or load.ids:
            return load.repeats or load.ids
        # No gateway exceeds this rate on one core. A faster one would run out of events and end
        # early, which loses nothing.
        a_second = 1e6 / (14 + load.kib / 2)
        return int(a_second * (self.options.seconds * load.stretch + self.options.warm_up)) + RATE

    def sign_for(self, loads):
        for kib in {load.kib for load in loads}:
            self.sign(kib, max(self.events_needed(load) for load in loads if load.kib == kib))

    def sign(self, kib, count):
        arguments = ["sign", "--size", str(kib << 10), "--count", str(count), str(self.tags(kib))]
        subprocess.run([self.loader, *arguments], check=True)

    def verify(self, peer):
        """Checks that the peer does what it claims, at every size; otherwise its speed means nothing."""
        with self.running(peer) as process:
            for kib in self.options.sizes:
                before = self.application_count()
                command = [self.loader, "probe", "--to", f"127.0.0.1:{process.port}", "--size", str(kib << 10), *self.trust(peer)]
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
        if load.ids:
            return self.measure_start(peer, load)
        flush = {"flush_us": self.flush_us()} if load.rate else {}
        with self.running(peer) as process:
            idle = self.idle_rss_bytes(process)
            if load.delivered_before:
                self.fill(process, load.kib, 0, load.repeats)
            measured = self.load(process, load, self.trust(peer), delivers_later=peer.delivers_later)
            if self.options.end_each:
                process.group.end()
            return {**measured, **flush, "rss_idle_mib": idle / 2**20}

    def measure_start(self, peer, load):
        """Measures starts: with an empty store, and with stores that are filled once for all rounds."""
        starts, few = {}, load.ids // 10
        for which, ids in (("empty", 0), ("few", few), ("full", load.ids)):
            store = self.options.scratch / f"store-{which}"
            if not store.exists():
                with self.running(peer, store) as process:
                    self.fill(process, load.kib, 0, ids)
                    process.group.end()
            start = time.monotonic()
            with self.running(peer, store) as process:
                starts[f"start_{which}_ms"] = (time.monotonic() - start) * 1e3
                starts[f"rss_{which}_mib"] = self.idle_rss_bytes(process) / 2**20
                process.group.end()
        # From a million IDs on, both have filled the caches with which a store is opened.
        return {**starts, "bytes_an_id": (starts["rss_full_mib"] - starts["rss_few_mib"]) * 2**20 / (load.ids - few)}

    def idle_rss_bytes(self, process):
        time.sleep(0.3)
        return process.group.rss_bytes()

    def flush_us(self):
        """Returns what one durable write of a block takes on the store's disk, with nothing else to do."""
        command = [self.loader, "flush", self.options.scratch]
        flushes = subprocess.run(command, check=True, capture_output=True, timeout=FLUSHED_WITHIN)
        return json.loads(flushes.stdout)["p50_us"]

    def fill(self, process, kib, first, last):
        """Sends events `first` to `last`, and returns the number that follows."""
        if last > first:
            within = 60 + (last - first) / FILLED_A_SECOND
            sent = self.load(process, Load(kib), seconds=within, first=first, last=last)["all_requests"]
            if sent != last - first:
                raise Failed(f"only {sent:,} of {last - first:,} events were sent in {within:.0f} s")
        return max(first, last)

    def load(self, process, load, trust=(), seconds=None, first=0, last=None, delivers_later=False):
        """Sends events from number `first` on, for `seconds` or up to number `last`."""
        group, cpu_start, count = process.group, process.group.cpu_seconds(), self.application_count()
        seconds, last = seconds or self.options.seconds * load.stretch, load.repeats or last
        arguments = ["run", "--to", f"127.0.0.1:{process.port}", "--size", load.kib << 10, "--connections", load.connections]
        arguments += [*trust, *([] if load.kept else ["--reconnect"]), *(["--streams", load.streams] if load.streams else [])]
        arguments += ["--seconds", seconds, "--warm-up", self.options.warm_up, "--kind", load.kind]
        arguments += ["--rate", load.rate] if load.rate else []
        arguments += ["--repeat"] if load.repeats else ["--first", first]
        arguments += ["--last", last] if last else []
        arguments += ["--status", load.status] if load.status else []
        start = time.monotonic()
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
        more = {}
        if load.status:
            # What is rejected does not reach the application.
            self.await_count(count, 1)
        if delivers_later:
            self.await_count(count + all_requests, DELIVERED_WITHIN)
            more = {"delivered_per_s": all_requests / (time.monotonic() - start)}
        if load.until_idle:
            await_idle(group)
        if delivers_later or load.until_idle:
            cpu, requests = group.cpu_seconds() - cpu_start, all_requests
        return {
            "requests": result["requests"],
            "all_requests": all_requests,
            "rps": result["requests"] / result["seconds"],
            "cpu_us": cpu / requests * 1e6,
            "p50_us": result["p50_us"],
            "p99_us": result["p99_us"],
            "rss_busy_mib": busy / 2**20,
            "connections_opened": result["opened"],
            **more,
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


def await_idle(group):
    deadline, before = time.monotonic() + IDLE_WITHIN, group.cpu_seconds()
    while True:
        time.sleep(IDLE_PERIOD)
        now = group.cpu_seconds()
        if now - before < IDLE_CPU:
            return
        if time.monotonic() > deadline:
            raise Failed(f"it is not idle {IDLE_WITHIN} s after the last event")
        before = now


def add_options(parser):
    """Adds the options that both commands share, and parses."""
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--seconds", type=float, default=2.5, help="of each measured stretch of load")
    parser.add_argument("--warm-up", type=float, default=0.6, help="before it, in seconds")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--hookstile", type=Path, default=REPOSITORY / "target/release/hookstile")
    parser.add_argument("--tools", type=Path, default=HERE / "target/release", help="folder of the programs built here")
    parser.add_argument("--scratch", type=Path, default=HERE / "target/scratch", help="on the disk that holds the store")
    parser.add_argument("--proxy-core", type=int, default=cores[-1])
    parser.add_argument("--load-core", type=int, default=cores[0])
    parser.add_argument("--end-each", action="store_true", help="ends each process as an operator does: an instrumented one writes then")
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
