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

# A peer below this unpaced rate would only show its queue at the fixed rate.
FAST_ENOUGH = RATE * 1.25


def rounds(side_by_side, peers, loads, count, failed):
    """Runs all peers in turn at one load, then at the next; every other round in reverse order, so that
    a machine that gets slower or faster favours no peer."""
    records = []
    too_slow = set()
    for number in range(count):
        for load in loads:
            for peer in peers if number % 2 == 0 else reversed(peers):
                if peer.name in failed or (load.rate and peer.name in too_slow):
                    continue
                try:
                    measured = side_by_side.measure(peer, load)
                except Failed as failure:
                    failed[peer.name] = f"{load.name}: {failure}"
                    say(f"!! {peer.name} FAILED at {load.name}: {failure}")
                    continue
                if load.kib == 1 and not load.rate and measured["rps"] < FAST_ENOUGH:
                    too_slow.add(peer.name)
                records.append({"round": number + 1, "load": load.name, "peer": peer.name, **measured})
                say(
                    f"round {number + 1}/{count}  {load.name:10}  {peer.name:22} {measured['rps']:9,.0f} req/s"
                    f" {measured['cpu_us']:9.1f} CPU µs  p99 {measured['p99_us']:8,.0f} µs"
                )
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
    names = [peer.name for peer in PEERS]
    parser = argparse.ArgumentParser(description="hookstile side by side with its peers")
    parser.add_argument("--peers", default=",".join(names), help=f"of {', '.join(names)}")
    parser.add_argument("--sizes", default="1,16,256,1024", help="of bodies, in KiB; 1 to 1024")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round at 1 and 256 KiB, into target/quick: does it work?")
    options = add_options(parser)
    if options.quick:
        options.sizes, options.rounds, options.seconds, options.out = "1,256", 1, 0.4, HERE / "target/quick"
    options.sizes = [int(size) for size in options.sizes.split(",")]
    options.peers = options.peers.split(",")
    if unknown := set(options.peers) - set(names):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not all(1 <= size <= 1024 for size in options.sizes):
        parser.error("sizes are 1 to 1024 KiB")
    return options


def main():
    options = parse()
    stop_on_signals()
    known = places(options.hookstile, options.tools)
    chosen = [peer for peer in PEERS if peer.name in options.peers]
    skipped = {peer.name: f"not installed: {', '.join(lacks)}" for peer in chosen if (lacks := peer.missing(known))}
    peers = [peer for peer in chosen if peer.name not in skipped]
    about, failed = machine(), {}
    with bench(options, known) as side_by_side:
        for peer in peers:
            try:
                side_by_side.verify(peer)
                say(f"{peer.name:22} does what it claims")
            except Failed as failure:
                failed[peer.name] = f"does not do what it claims: {failure}"
                say(f"!! {peer.name} {failed[peer.name]}")
        for kib in {1, *options.sizes}:
            side_by_side.sign(kib)
        loads = [*(Load(kib) for kib in options.sizes), Load(1, RATE)]
        records = rounds(side_by_side, peers, loads, options.rounds, failed)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": about,
        "settings": {"connections": CONNECTIONS, "rate": RATE, "rounds": options.rounds, "seconds": options.seconds},
        "versions": versions(peers, known),
        "skipped": skipped,
        "failed": failed,
        "records": records,
    }
    report.write(results, options.out)
    say(f"\n{(options.out / 'compare.md').read_text()}\nwritten to {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
