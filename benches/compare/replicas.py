#!/usr/bin/env python3
"""Measures the cost of a shared store compared with the embedded one, with one, two and three gateways: see README.md. Standard library only."""

import argparse
import contextlib
import datetime
import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from bench import CONNECTIONS, DELIVERED_WITHIN, Load, add_options, bench, machine, say, stop_on_signals
from peers import hookstile, places
from processes import Failed, Group, await_listener, free_port, started
from report import machine_line, number

SHARED = "store: {postgres: {url: {env: DATABASE_URL}}}"
QUEUE = "    delivery: queue\n"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
# Paced, to measure the response time of an unloaded system.
PACE = 1000

FIGURES = {
    "rps": "requests/s",
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


def measured(desk, gateways, load, queue, shared):
    """Measures one stretch of load on new processes, with the connections spread over the gateways."""
    with contextlib.ExitStack() as stack:
        engine, environment = None, {}
        if shared:
            engine, url = stack.enter_context(postgres(desk.options))
            environment = {"DATABASE_URL": url}
        variant = (QUEUE if queue else "") + (SHARED if shared else "")
        peers = [hookstile(f"gateway-{index}", "", variant, environment=environment) for index in range(gateways)]
        processes = [stack.enter_context(desk.running(peer)) for peer in peers]
        time.sleep(0.5)
        return loaded(desk, processes, engine, load, queue)


def loaded(desk, processes, engine, load, queue):
    many, options = len(processes), desk.options
    of_each = (desk.tags(load.kib).stat().st_size // 32) // many
    before = desk.application_count()
    with contextlib.ExitStack() as stack:
        loaders = []
        for index, process in enumerate(processes):
            arguments = ["run", "--to", f"127.0.0.1:{process.port}", "--size", load.kib << 10]
            arguments += ["--connections", max(CONNECTIONS // many, 1), "--seconds", options.seconds, "--warm-up", options.warm_up]
            arguments += ["--first", index * of_each, "--last", (index + 1) * of_each]
            arguments += ["--rate", load.rate / many] if load.rate else []
            loaders.append(stack.enter_context(desk.loading([*arguments, desk.tags(load.kib)])))
        for loader in loaders:
            loader.stdout.readline()
        ours = lambda: sum(process.group.cpu_seconds() for process in processes)
        theirs = lambda: engine.cpu_seconds() if engine else 0
        cpu = (ours(), theirs())
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
        if queue:
            everything = requests + sum(result["warm_up_requests"] for result in results)
            desk.await_count(before + everything, DELIVERED_WITHIN)
        cpu = (ours() - cpu[0], theirs() - cpu[1])
    return {
        "rps": sum(result["requests"] / result["seconds"] for result in results),
        "cpu_us": cpu[0] / requests * 1e6,
        "engine_us": cpu[1] / requests * 1e6 if engine else None,
        "p50_us": median(result["p50_us"] for result in results),
        "p99_us": max(result["p99_us"] for result in results),
    }


def cases():
    for delivery, queue in (("proxy", False), ("queue", True)):
        yield f"{delivery}, embedded", 1, queue, False
        for gateways in (1, 2, 3):
            yield f"{delivery}, PostgreSQL, {gateways} gateway{'s' if gateways > 1 else ''}", gateways, queue, True


def markdown(results):
    parts = [
        f"# hookstile on a shared store, {results['date']}",
        machine_line(results["machine"]),
        f"All gateways and {results['postgres']} (as installed: it flushes each commit) on one core, the load on the other; 1 KiB;"
        f" medians of {results['rounds']} rounds. Requests/s and CPU time as fast as the responses arrive over {CONNECTIONS} connections,"
        f" p50 and p99 at {PACE} a second. With `queue` the CPU time includes the deliveries.",
    ]
    lines = [f"| | {' | '.join(FIGURES.values())} |", f"| --- |{' ---: |' * len(FIGURES)}"]
    for title, row in results["rows"].items():
        cells = ["–" if row.get(figure) is None else number(row[figure]) for figure in FIGURES]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"


def main():
    parser = argparse.ArgumentParser(description="the cost of a shared store compared with the embedded one")
    parser.add_argument("--rounds", type=int, default=3)
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
            for title, gateways, queue, shared in cases():
                fast = measured(desk, gateways, Load(1), queue, shared)
                paced = measured(desk, gateways, Load(1, PACE), queue, shared)
                row = {**fast, "p50_us": paced["p50_us"], "p99_us": paced["p99_us"]}
                runs.setdefault(title, []).append(row)
                say(f"{title:36} " + "  ".join(f"{name} {row[name]:,.1f}" for name in FIGURES if row[name] is not None))
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
