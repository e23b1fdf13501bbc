#!/usr/bin/env python3
"""Loads hookstile and its peers in turn and writes the results: see README.md. Standard library only."""

import argparse
import datetime
import shlex
import subprocess
import sys
import tomllib

import report
from bench import CONNECTIONS, RATE, Load, add_options, bench, machine, say, stop_on_signals
from peers import HERE, PEERS, fill, places
from processes import Failed
from tables import tables

# A peer below this unpaced rate would only show its queue at the fixed rate.
FAST_ENOUGH = RATE * 1.25
IDS, QUICK_IDS = 1_000_000, 10_000
# The figures that are said during the run.
SAID = {
    "rps": "req/s",
    "delivered_per_s": "delivered/s",
    "cpu_us": "CPU µs",
    "p50_us": "p50",
    "p99_us": "p99",
    "flush_us": "flush",
    "start_empty_ms": "start ms, empty",
    "start_full_ms": "full",
    "bytes_an_id": "bytes an ID",
}


def plan(shown, peers):
    """Returns load → the peers that it is for, the paced loads last."""
    wanted = {}
    for table in shown:
        for column in table.columns:
            wanted.setdefault(column.load, set()).update(table.peers)
    for load in [load for load in wanted if load.rate]:
        # Whether a peer is fast enough for the rate must be known.
        wanted.setdefault(Load(load.kib), set()).update(wanted[load])
    ordered = sorted(wanted, key=lambda load: load.rate is not None)
    return {load: [peer for peer in peers if peer.name in wanted[load]] for load in ordered}


def rounds(side_by_side, planned, count, failed):
    """Runs all peers in turn at one load, then at the next; every other round in reverse order, so that
    a machine that gets slower or faster favours no peer."""
    records = []
    too_slow = set()
    for number in range(count):
        for load, peers in planned.items():
            for peer in peers if number % 2 == 0 else reversed(peers):
                if peer.name in failed or (load.rate and (peer.name, load.kib) in too_slow):
                    continue
                try:
                    measured = side_by_side.measure(peer, load)
                except Failed as failure:
                    failed[peer.name] = f"{load.name}: {failure}"
                    say(f"!! {peer.name} FAILED at {load.name}: {failure}")
                    continue
                if load == Load(load.kib) and measured["rps"] < FAST_ENOUGH:
                    too_slow.add((peer.name, load.kib))
                records.append({"round": number + 1, "load": load.name, "peer": peer.name, **measured})
                shown = "  ".join(f"{SAID[name]} {value:,.1f}" for name, value in measured.items() if name in SAID)
                say(f"round {number + 1}/{count}  {load.name:18}  {peer.name:22} {shown}")
    return records


def versions(peers, places):
    lock = tomllib.loads((HERE / "Cargo.lock").read_text())
    locked = {package["name"]: package["version"] for package in lock["package"]}
    found = {}
    for peer in peers:
        if peer.crate:
            found[peer.name] = f"{peer.crate} {locked[peer.crate]}"
        elif peer.version:
            output = subprocess.run(shlex.split(fill(peer.version, places)), capture_output=True, text=True)
            found[peer.name] = (output.stdout or output.stderr).split("\n")[0].strip()
    return found


def parse():
    names, of_tables = [peer.name for peer in PEERS], [table.name for table in tables((1,), IDS)]
    parser = argparse.ArgumentParser(description="hookstile side by side with its peers")
    parser.add_argument("--peers", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument("--tables", default=",".join(of_tables), help=f"of {', '.join(of_tables)}")
    parser.add_argument("--sizes", default="1,16,256,1024", help="of the bodies of the first tables, in KiB; 1 to 1024")
    parser.add_argument("--ids", type=int, default=IDS, help="to start with, for the table `start`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round at 1 and 256 KiB, into target/quick: does it work?")
    options = add_options(parser)
    if options.quick:
        options.sizes, options.rounds, options.ids, options.out = "1,256", 1, QUICK_IDS, HERE / "target/quick"
        options.seconds, options.warm_up = 0.4, 0.1
    elif options.tables != parser.get_default("tables") and options.out == parser.get_default("out"):
        # Part of the tables does not replace the results of all.
        options.out = HERE / "target/tables"
    options.sizes = [int(size) for size in options.sizes.split(",")]
    options.peers, options.tables = options.peers.split(","), options.tables.split(",")
    for what, chosen, known in (("peer", options.peers, names), ("table", options.tables, of_tables)):
        if unknown := set(chosen) - set(known):
            parser.error(f"no such {what}: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if not all(1 <= size <= 1024 for size in options.sizes):
        parser.error("sizes are 1 to 1024 KiB")
    if options.ids < 1:
        parser.error("a start needs at least 1 ID")
    return options


def main():
    options = parse()
    stop_on_signals()
    known = places(options.hookstile, options.tools)
    shown = [table for table in tables(options.sizes, options.ids) if table.name in options.tables]
    named = {name for table in shown for name in table.peers} & set(options.peers)
    chosen = [peer for peer in PEERS if peer.name in named]
    skipped = {peer.name: f"not installed: {', '.join(lacks)}" for peer in chosen if (lacks := peer.missing(known))}
    peers = [peer for peer in chosen if peer.name not in skipped]
    planned = plan(shown, peers)
    about, failed = machine(), {}
    with bench(options, known) as side_by_side:
        for peer in peers:
            try:
                side_by_side.verify(peer)
                say(f"{peer.name:22} does what it claims")
            except Failed as failure:
                failed[peer.name] = f"does not do what it claims: {failure}"
                say(f"!! {peer.name} {failed[peer.name]}")
        side_by_side.sign_for(planned)
        records = rounds(side_by_side, planned, options.rounds, failed)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": about,
        "settings": {
            "connections": CONNECTIONS,
            "rate": RATE,
            "rounds": options.rounds,
            "seconds": options.seconds,
            "ids": options.ids,
        },
        "versions": versions(peers, known),
        "skipped": skipped,
        "failed": failed,
        "records": records,
    }
    report.write(results, shown, options.out)
    say(f"\n{(options.out / 'compare.md').read_text()}\nwritten to {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
