#!/usr/bin/env python3
"""Measures how hookstile's cost grows: CPU µs per 1 KiB request and memory, while one parameter grows at a time. See README.md."""

import argparse
import contextlib
import datetime
import json
import resource
import socket
import sys
import time
import urllib.request
from dataclasses import replace
from html import escape
from statistics import median

from bench import Load, add_options, bench, machine, say, stop_on_signals
from peers import PEERS, places
from report import bar, machine_line, number, svg

BASE = PEERS[0]
KIB = Load(1)
SIZES = (1, 4, 16, 64, 256, 1024)
ROUTES = (1, 100, 1_000, 10_000)
SECRETS = (1, 2, 4, 8, 16)
REMEMBERED = (0, 100_000, 1_000_000)
IDLE = (0, 1_000, 10_000)
WAITING = (0, 10_000, 100_000)
# Idle connections of one loopback address; the next address has as many again.
AN_ADDRESS = 1_000
WEBHOOK = "/webhooks/wh_webhooks-vpn-enterprise"
DELIVERED_WITHIN = 600


def with_values(**values):
    return replace(BASE, values={**BASE.values, **values})


def more_routes(count):
    return "\n".join(
        f"  - {{path: /other/{number}, provider: vpn-enterprise, secrets: [{{env: WEBHOOK_SECRET}}], upstream: 'http://{{{{upstream}}}}'}}"
        for number in range(1, count)
    )


def by_size(desk):
    for kib in SIZES:
        yield f"{kib} KiB", desk.measure(BASE, Load(kib))


def by_cores(desk):
    """The second core is the loader's, so rates say little here."""
    options = desk.options
    for title, cores in (("1 core", f"{options.proxy_core}"), ("2 cores", f"{options.proxy_core},{options.load_core}")):
        with desk.running(BASE, cores=cores) as process:
            yield title, desk.load(process, KIB)


def by_routes(desk):
    """Also measures the start and a reload, as an operator sees them."""
    for count in ROUTES:
        start = time.monotonic()
        with desk.running(with_values(variant=more_routes(count))) as process:
            started = time.monotonic() - start
            measured = desk.load(process, KIB)
            process.configuration.write_text(process.configuration.read_text() + "\n")
            start = time.monotonic()
            ask(process, "/reload")
            reloaded = time.monotonic() - start
            rss = process.group.rss_bytes() / 2**20
        yield f"{count:,} routes", {**measured, "rss_mib": rss, "start_ms": started * 1e3, "reload_ms": reloaded * 1e3}


def by_secrets(desk):
    """The matching secret is the last, so every other one is tried first."""
    for count in SECRETS:
        others = "".join(f"{{value: whsec_another_{number:02}}}, " for number in range(1, count))
        yield f"{count} secrets", desk.measure(with_values(secrets=others + "{env: WEBHOOK_SECRET}"), KIB)


def by_remembered(desk):
    with desk.running(BASE) as process:
        following = 0
        for count in REMEMBERED:
            following = desk.fill(process, 1, following, count)
            measured = desk.load(process, KIB, first=following)
            following += measured["all_requests"]
            yield f"{count:,} IDs remembered", {**measured, "rss_mib": process.group.rss_bytes() / 2**20}


def by_idle_connections(desk):
    limits = f"limits: {{connections: {2 * IDLE[-1]}, idle_timeout: 10m, header_timeout: 10m}}"
    for count in IDLE:
        with desk.running(with_values(variant=limits)) as process, contextlib.ExitStack() as connections:
            before = process.group.rss_bytes()
            for number in range(count):
                sender = (f"127.0.1.{1 + number // AN_ADDRESS}", 0)
                connections.enter_context(socket.create_connection(("127.0.0.1", process.port), source_address=sender))
            time.sleep(0.5)
            each = (process.group.rss_bytes() - before) / count / 1024 if count else None
            yield f"{count:,} idle connections", {**desk.load(process, KIB), "kib_each": each}


def by_waiting(desk):
    """Measures accepting events while others wait on disk with delivery paused, and then how fast all are delivered."""
    for count in WAITING:
        with desk.running(with_values(variant="    delivery: queue")) as process:
            ask(process, f"{WEBHOOK}/pause")
            before = desk.application_count()
            waiting = desk.fill(process, 1, 0, count)
            measured = desk.load(process, KIB, first=waiting)
            waiting += measured["all_requests"]
            start = time.monotonic()
            ask(process, f"{WEBHOOK}/resume")
            desk.await_count(before + waiting, DELIVERED_WITHIN)
            yield f"{count:,} waiting", {**measured, "delivered_per_s": waiting / (time.monotonic() - start)}


def ask(process, path):
    url = f"http://{process.admin}{path}"
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


GROWTHS = {
    "size": by_size,
    "cores": by_cores,
    "routes": by_routes,
    "secrets": by_secrets,
    "remembered": by_remembered,
    "idle": by_idle_connections,
    "waiting": by_waiting,
}

# The figures that a row shows, if it has them.
FIGURES = {
    "cpu_us": "CPU µs per request",
    "rps": "req/s",
    "rss_mib": "RSS MiB",
    "kib_each": "KiB each",
    "start_ms": "start ms",
    "reload_ms": "reload ms",
    "delivered_per_s": "delivered/s",
}


PANEL, NAMES, BAR, ROW = 430, 180, 170, 20


def medians(runs):
    """Returns the rows of several runs: title → figure → median."""
    return {
        title: {figure: median(run[title][figure] for run in runs) if value is not None else None for figure, value in row.items()}
        for title, row in runs[0].items()
    }


def markdown(results):
    parts = [
        f"# What hookstile's cost grows with, {results['date']}",
        machine_line(results["machine"]),
        f"One core and 1 KiB unless stated otherwise; medians of {results['rounds']} runs.",
    ]
    for name, rows in results["growths"].items():
        shown = [figure for figure in FIGURES if any(row.get(figure) is not None for row in rows.values())]
        lines = [f"| {name} | {' | '.join(FIGURES[figure] for figure in shown)} |", f"| --- |{' ---: |' * len(shown)}"]
        for title, row in rows.items():
            cells = ["–" if row.get(figure) is None else number(row[figure]) for figure in shown]
            lines.append(f"| {title} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def chart(results):
    """Draws one panel for each growth, to its own scale: CPU time per request."""
    panels = list(results["growths"].items())
    tallest = max(len(rows) for _, rows in panels)
    deep, high = -(-len(panels) // 2), ROW * tallest + 44
    parts = []
    for place, (name, rows) in enumerate(panels):
        left, top = PANEL * (place % 2), high * (place // 2)
        parts.append(f'<text class="head" x="{left}" y="{top + 16}">CPU µs per request, by {escape(name)}</text>')
        longest = max(row["cpu_us"] for row in rows.values())
        for line, (title, row) in enumerate(rows.items()):
            y = top + 26 + ROW * line
            parts.append(f'<text x="{left}" y="{y + 12}">{escape(title)}</text>')
            parts += bar("ours", left + NAMES, y, BAR * row["cpu_us"] / longest, number(row["cpu_us"]))
    return svg("CPU time per request, in µs, as one thing grows", 2 * PANEL, deep * high, parts)


def main():
    parser = argparse.ArgumentParser(description="what hookstile's cost grows with")
    parser.add_argument("--of", default=",".join(GROWTHS), help=f"of {', '.join(GROWTHS)}")
    parser.add_argument("--rounds", type=int, default=3)
    options = add_options(parser)
    stop_on_signals()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = {"date": datetime.date.today().isoformat(), "machine": machine(), "rounds": options.rounds, "growths": {}}
    with bench(options, places(options.hookstile, options.tools)) as desk:
        desk.sign_for([Load(kib) for kib in SIZES])
        # Filling a store, and measuring with that store.
        desk.sign(1, 2 * REMEMBERED[-1])
        runs = {name: [] for name in options.of.split(",")}
        for _ in range(options.rounds):
            for name, before in runs.items():
                rows = {}
                for title, row in GROWTHS[name](desk):
                    rows[title] = row
                    say(f"{title:28} {row['cpu_us']:9.1f} CPU µs {row['rps']:9,.0f} req/s")
                before.append(rows)
        results["growths"] = {name: medians(rows) for name, rows in runs.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.json").write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "growth.md").write_text(markdown(results))
    (options.out / "growth.svg").write_text(chart(results))
    say(f"\n{markdown(results)}\nwritten to {options.out}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
