#!/usr/bin/env python3
"""Measures the cost of a shared store compared with the embedded one, with one, two and three gateways: see README.md. Standard library only."""

import argparse
import contextlib
import datetime
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import CONNECTIONS, DELIVERED_WITHIN, Load, add_options, bench, machine, say, stop_on_signals
from peers import HERE, hookstile, places
from processes import Failed, Group, await_listener, free_port, started
from report import machine_line, number

SHARED = "store: {postgres: {url: {env: DATABASE_URL}}}"
QUEUE = "    delivery: queue\n"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
# Paced, to measure the response time of an unloaded system.
PACE = 1000

# The round trip between a gateway and a database in another place.
DISTANT_MS = 10

FIGURES = {
    "rps": "requests/s",
    "delivered": "delivered/s",
    "cpu_us": "CPU µs per request, all gateways",
    "engine_us": "CPU µs per request, PostgreSQL",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
}


class Server(Group):
    """PostgreSQL: its processes are groups of their own."""

    def _stats(self):
        own = str(self.popen.pid)
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError, ValueError):
                    stat = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                    if entry == own or stat[1] == own:
                        yield entry, stat


@contextlib.contextmanager
def postgres(options):
    """Yields an empty server on the gateways' core, with the installed settings except its port."""
    folder = options.scratch / "postgres"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    programs, port = PROGRAMS[-1], free_port()
    as_user = []
    if os.getuid() == 0:
        # PostgreSQL refuses to run as root.
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    data = folder / "data"
    made = [*as_user, str(programs / "initdb"), "-A", "trust", "-U", "hookstile", "-E", "UTF8", "--locale=C", "-D", str(data)]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, cwd="/")
    command = [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    log = folder.parent / "postgres.log"
    try:
        with log.open("wb") as output, started(command, options.proxy_core, {}, output) as group:
            await_listener(group, port, log)
            url = f"postgres://hookstile@127.0.0.1:{port}/postgres?sslmode=disable"
            ready = [str(programs / "pg_isready"), "-q", "-d", url]
            while subprocess.run(ready).returncode != 0:
                time.sleep(0.05)
            yield Server(group.popen), url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def distant(options, url, milliseconds):
    """Yields a URL behind which the server is as far away."""
    near, far = int(re.search(r":(\d+)/", url)[1]), free_port()
    log = options.scratch / "round-trip.log"
    command = [sys.executable, str(HERE / "round_trip.py"), str(far), str(near), str(milliseconds)]
    with log.open("wb") as output, started(command, options.load_core, {}, output) as group:
        await_listener(group, far, log)
        yield url.replace(f":{near}/", f":{far}/")


def measured(desk, case, load):
    """Measures one stretch of load on new processes, with the connections spread over the gateways."""
    gateways, queue, shared = case.gateways, case.queue, case.shared
    with contextlib.ExitStack() as stack:
        engine, environment = None, {}
        if shared:
            engine, url = stack.enter_context(postgres(desk.options))
            if case.round_trip_ms:
                url = stack.enter_context(distant(desk.options, url, case.round_trip_ms))
            environment = {"DATABASE_URL": url}
        variant = (QUEUE if queue else "") + (SHARED if shared else "")
        peers = [hookstile(f"gateway-{index}", "", variant, environment=environment) for index in range(gateways)]
        processes = [stack.enter_context(desk.running(peer)) for peer in peers]
        time.sleep(0.5)
        figures = loaded(desk, processes, engine, load, case)
        if desk.options.end_each:
            for process in processes:
                process.group.end()
        return figures


def loaded(desk, processes, engine, load, case):
    many, options = len(processes), desk.options
    of_each = (desk.tags(load.kib).stat().st_size // 32) // many
    before = desk.application_count()
    with contextlib.ExitStack() as stack:
        loaders = []
        for index, process in enumerate(processes):
            arguments = ["run", "--to", f"127.0.0.1:{process.port}", "--size", load.kib << 10]
            arguments += ["--connections", max(case.connections // many, 1), "--seconds", options.seconds, "--warm-up", options.warm_up]
            arguments += ["--first", index * of_each, "--last", (index + 1) * of_each]
            arguments += ["--rate", load.rate / many] if load.rate else []
            loaders.append(stack.enter_context(desk.loading([*arguments, desk.tags(load.kib)])))
        for loader in loaders:
            loader.stdout.readline()
        await_delivered(desk)
        ours = lambda: sum(process.group.cpu_seconds() for process in processes)
        theirs = lambda: engine.cpu_seconds() if engine else 0
        cpu, began = (ours(), theirs()), time.monotonic()
        for loader in loaders:
            with contextlib.suppress(BrokenPipeError):
                loader.stdin.write("\n")
                loader.stdin.flush()
        results = []
        for loader in loaders:
            if loader.wait(options.seconds + 60) != 0:
                raise Failed(loader.stderr.read().strip())
            results.append(json.loads(loader.stdout.read()))
        requests = sum(result["requests"] for result in results)
        if case.queue:
            everything = requests + sum(result["warm_up_requests"] for result in results)
            desk.await_count(before + everything, DELIVERED_WITHIN)
        cpu, took = (ours() - cpu[0], theirs() - cpu[1]), time.monotonic() - began
    return {
        "rps": sum(result["requests"] / result["seconds"] for result in results),
        "delivered": requests / took if case.queue else None,
        "cpu_us": cpu[0] / requests * 1e6,
        "engine_us": cpu[1] / requests * 1e6 if engine else None,
        "p50_us": median(result["p50_us"] for result in results),
        "p99_us": max(result["p99_us"] for result in results),
    }


def await_delivered(desk):
    """Waits until what was accepted during the warm-up is delivered."""
    last, count = None, desk.application_count()
    while count != last:
        time.sleep(0.2)
        last, count = count, desk.application_count()


@dataclass(frozen=True)
class Case:
    queue: bool
    shared: bool = True
    gateways: int = 1
    connections: int = CONNECTIONS
    round_trip_ms: int = 0

    @property
    def title(self):
        title = f"{'queue' if self.queue else 'proxy'}, {'PostgreSQL' if self.shared else 'embedded'}"
        if self.shared and self.round_trip_ms:
            return f"{title}, {self.round_trip_ms} ms away, {self.connections} connections"
        many = f", {self.gateways} gateway{'s' if self.gateways > 1 else ''}"
        return title + (many if self.shared else "")


def cases():
    for queue in (False, True):
        yield Case(queue, shared=False)
        for gateways in (1, 2, 3):
            yield Case(queue, gateways=gateways)
        yield Case(queue, connections=2 * CONNECTIONS, round_trip_ms=DISTANT_MS)


def markdown(results):
    parts = [
        f"# hookstile on a shared store, {results['date']}",
        machine_line(results["machine"]),
        f"All gateways and {results['postgres']} (as installed: it flushes each commit) on one core, the load on the other; 1 KiB;"
        f" medians of {results['rounds']} rounds. Requests/s and CPU time as fast as the responses arrive over {CONNECTIONS} connections,"
        f" p50 and p99 at {PACE} a second. With `queue` the CPU time includes the deliveries, and `delivered/s` counts from the first request until"
        " the application has every event.",
    ]
    lines = [f"| | {' | '.join(FIGURES.values())} |", f"| --- |{' ---: |' * len(FIGURES)}"]
    for title, row in results["rows"].items():
        cells = ["–" if row.get(figure) is None else number(row[figure]) for figure in FIGURES]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description="the cost of a shared store compared with the embedded one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="measures the cases whose titles contain it")
    parser.add_argument("--fast", action="store_true", help="leaves out the load of a paced sender, whose latency is that of the fast one then")
    options = add_options(parser)
    stop_on_signals()
    if not PROGRAMS:
        sys.exit("PostgreSQL is not installed: scripts/install test")
    server = subprocess.run([str(PROGRAMS[-1] / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    results = {"date": datetime.date.today().isoformat(), "machine": machine(), "rounds": options.rounds}
    results["postgres"] = " ".join(server.split()[0:3:2])
    runs = {}
    with bench(options, places(options.hookstile, options.tools)) as desk:
        desk.sign_for([Load(1)])
        for _ in range(options.rounds):
            for case in cases():
                if options.only not in case.title:
                    continue
                row = measured(desk, case, Load(1))
                if not options.fast:
                    paced = measured(desk, case, Load(1, PACE))
                    row |= {"p50_us": paced["p50_us"], "p99_us": paced["p99_us"]}
                runs.setdefault(case.title, []).append(row)
                say(f"{case.title:48} " + "  ".join(f"{name} {row[name]:,.1f}" for name in FIGURES if row[name] is not None))
    results["rows"] = {
        title: {name: median(row[name] for row in rows) if rows[0][name] is not None else None for name in FIGURES}
        for title, rows in runs.items()
    }
    results["runs"] = runs
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "replicas.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "replicas.md").write_text(markdown(results))
    say(f"\n{markdown(results)}\nwritten to {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
