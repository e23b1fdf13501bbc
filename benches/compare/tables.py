"""The tables of the comparison, as data: who is loaded with what, and what of it is shown."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench import CONNECTIONS, RATE, Load
from peers import PEERS
from report import alone, in_flushes, plain, with_spread

EVERYBODY = tuple(peer.name for peer in PEERS if not peer.of_one_table)
# Of each kind the one that comes closest to hookstile.
CLOSEST = ("hookstile", "haproxy-replay", "hyper-replay", "floor-durable")

PACED = Load(1, RATE)
# The number of events that are sent again and again.
KNOWN = 4096
DUPLICATES = Load(1, what="duplicate", status=409, repeats=KNOWN, delivered_before=True)
BAD_SIGNATURE = Load(1, what="bad signature", kind="bad-signature", status=401, repeats=KNOWN)
NO_SIGNATURE = replace(BAD_SIGNATURE, what="no signature", kind="no-signature")
UNKNOWN_PATH = replace(BAD_SIGNATURE, what="unknown path", kind="unknown-path", status=404)
# Over TLS: what a load is called, and how it is sent. 32 events at a time in all of them.
SENT = (
    ("HTTP/1.1", {}),
    ("a handshake each", {"kept": False}),
    ("HTTP/2, 1 stream", {"streams": 1}),
    (f"HTTP/2, {CONNECTIONS} streams", {"streams": CONNECTIONS, "connections": 1}),
)
TO_THE_END = Load(1, what="until idle", stretch=4, until_idle=True)


@dataclass(frozen=True)
class Column:
    heading: str
    load: Load
    # Of those that `Bench.measure` returns.
    figure: str
    write: Callable = plain


@dataclass(frozen=True)
class Table:
    name: str
    title: str
    text: str
    columns: tuple[Column, ...]
    peers: tuple[str, ...] = EVERYBODY
    # The peer that × is the ratio to.
    baseline: str = "hookstile"


def over_tls(load):
    return tuple(Column(sent, replace(load, what=f"{load.what}, {sent}", **how), "cpu_us", with_spread) for sent, how in SENT)


def tables(sizes, ids):
    """Returns all tables. `sizes` are those of the bodies, in KiB, and `ids` the number of IDs to start with."""
    loads = [Load(kib) for kib in sizes]
    # Memory is compared where bodies are big, but of a usual size.
    big = Load(256) if 256 in sizes else loads[-1]
    start = Load(1, what="start", ids=ids)
    stores = (("empty", "empty"), ("few", f"{ids // 10:,} IDs"), ("full", f"{ids:,} IDs"))
    return [
        Table(
            "cost",
            "CPU µs per request, least–most",
            "",
            tuple(Column(load.size, load, "cpu_us", with_spread) for load in loads),
        ),
        Table("throughput", "Requests per second", "", tuple(Column(load.size, load, "rps") for load in loads)),
        Table(
            "latency",
            "Latency and memory",
            f"Latency at {RATE:,} events/s of 1 KiB, in µs, from the time at which each was due. Memory is RSS in MiB, of all"
            f" processes: before the first request, and the most under load at {big.size}.",
            (
                Column("p50", PACED, "p50_us"),
                Column("p99", PACED, "p99_us", with_spread),
                Column("RSS idle", big, "rss_idle_mib"),
                Column("RSS busy", big, "rss_busy_mib"),
            ),
        ),
        Table(
            "replay",
            "A duplicate",
            f"CPU µs per request, least–most, if every request is a duplicate with a genuine signature, of {KNOWN:,} events that have"
            " been delivered. The answer is 409. The ratio to HAProxy's must be at most 0.8; the goal is 0.6.",
            tuple(Column(load.size, load, "cpu_us", with_spread) for load in (DUPLICATES, replace(DUPLICATES, kib=16))),
            CLOSEST,
            "haproxy-replay",
        ),
        Table(
            "hostile",
            "What is not genuine",
            "CPU µs per request, least–most, if no request is genuine. The answers are 401, 401 and 404. If a peer closes the"
            " connection, opening the next one is part of its cost.",
            tuple(
                Column(f"{load.what}, {load.size}", load, "cpu_us", with_spread)
                for kib in (1, 16)
                for load in (replace(kind, kib=kib) for kind in (BAD_SIGNATURE, NO_SIGNATURE, UNKNOWN_PATH))
            ),
            CLOSEST,
            "haproxy-replay",
        ),
        Table(
            "tls",
            "TLS and HTTP/2",
            f"CPU µs per request of 1 KiB over TLS 1.3, least–most, if the path is unknown: the answer is 404. HTTP/1.1 over {CONNECTIONS}"
            f" kept connections, and with a whole handshake for each request; HTTP/2 over {CONNECTIONS} connections with one stream at a"
            f" time, and over one connection with {CONNECTIONS}. The ratio to bare HAProxy's is to be at most 1.0, and 1.5 in the last case.",
            over_tls(UNKNOWN_PATH),
            ("hookstile-tls", "haproxy-replay-tls", "haproxy-tls", "nginx-tls"),
            "haproxy-tls",
        ),
        Table(
            "tls-events",
            "Events over TLS and HTTP/2",
            "CPU µs per new event of 1 KiB, sent in the same ways.",
            over_tls(Load(1, what="event")),
            ("hookstile-tls", "haproxy-replay-tls", "nginx-lua-replay-tls"),
            "haproxy-replay-tls",
        ),
        Table(
            "queue",
            "The queue, end to end",
            "Events per second that are accepted, and that are delivered between the first request and the last delivery. The CPU"
            " time of an event is that of all its work, until the application has every event. × is the ratio to the proxied case.",
            tuple(
                Column(f"{heading}, {load.size}", load, figure, write)
                for load in (Load(1), Load(16))
                for heading, figure, write in (
                    ("accepted/s", "rps", plain),
                    ("delivered/s", "delivered_per_s", plain),
                    ("CPU µs", "cpu_us", with_spread),
                )
            ),
            ("hookstile", "hookstile-queue"),
        ),
        Table(
            "few",
            "A few at once",
            f"{RATE:,} events of 1 KiB a second: CPU µs per request, and latency in µs from the time at which each was due. A flush is"
            " one direct and synchronous write of 4 KiB to the store's disk (median of 200), before each stretch of load. The last"
            " column is what a peer's p50 has over HAProxy's, in flushes.",
            (
                Column("CPU µs", PACED, "cpu_us", with_spread),
                Column("p50", PACED, "p50_us", with_spread),
                Column("p99", PACED, "p99_us", with_spread),
                Column("flush µs", PACED, "flush_us", alone),
                Column("p50 over HAProxy's, in flushes", PACED, "p50_us", in_flushes),
            ),
            CLOSEST,
            "haproxy-replay",
        ),
        Table(
            "steady",
            "Records that expire as fast as they come",
            "CPU µs per event of 1 KiB, all work from the first event until the gateway is idle again: with `replay.window` and"
            " `retain.for` of 1 s every record is deleted within the run, and with the defaults none. Rows of IDs are not deleted.",
            (Column("CPU µs", TO_THE_END, "cpu_us", with_spread), Column("requests/s", TO_THE_END, "rps")),
            ("hookstile", "hookstile-expiring"),
        ),
        Table(
            "start",
            "Starting with IDs",
            f"The time from the start of the process until it listens, and its RSS in MiB then: with an empty store, and with stores"
            f" that remember {ids // 10:,} and {ids:,} IDs and were closed. The memory of an ID, in bytes, is the difference of these two"
            " divided by that of their numbers.",
            (
                *(Column(f"start ms, {count}", start, f"start_{which}_ms", with_spread) for which, count in stores),
                *(Column(f"RSS, {count}", start, f"rss_{which}_mib") for which, count in stores),
                Column("bytes an ID", start, "bytes_an_id", with_spread),
            ),
            ("hookstile-kept",),
        ),
    ]
