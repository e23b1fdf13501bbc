"""Summarises a run: medians, spreads and ratios to hookstile, as JSON, as tables and as a chart."""

import json
from html import escape
from statistics import median

from peers import PEERS

BASELINE = "hookstile"
# On the chart a bar ends at this multiple of hookstile's own: slower peers would leave no room for
# the rest.
LONGEST = 4
CHARTED = (1, 16, 256)


def write(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    results["summary"] = summary(results["records"])
    (folder / "compare.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "compare.md").write_text(markdown(results))
    (folder / "compare.svg").write_text(chart(results))


def summary(records):
    """Returns load → peer → figure → median, least, most, and the ratio to hookstile at the same load in the same run."""
    found = {}
    for record in records:
        figures = found.setdefault(record["load"], {}).setdefault(record["peer"], {})
        for name, value in record.items():
            if name not in ("round", "load", "peer"):
                figures.setdefault(name, []).append(value)
    for peers in found.values():
        for figures in peers.values():
            for name, values in figures.items():
                figures[name] = {"median": median(values), "min": min(values), "max": max(values)}
        for figures in peers.values():
            for name, figure in figures.items():
                base = peers.get(BASELINE, {}).get(name, {}).get("median")
                figure["ratio"] = figure["median"] / base if base else None
    return found


def markdown(results):
    settings, loads = results["settings"], results["summary"]
    unpaced = [load for load in loads if "@" not in load]
    paced = next((load for load in loads if "@" in load), None)
    # Memory is compared where bodies are big, but of a usual size.
    big = "256KiB" if "256KiB" in unpaced else unpaced[-1] if unpaced else None
    parts = [
        f"# hookstile side by side, {results['date']}",
        machine_line(results["machine"]),
        f"{settings['connections']} connections, one core for the peer; medians of {settings['rounds']} rounds of"
        f" {settings['seconds']} s. × is the ratio to hookstile in its default configuration, in the same run.",
        "## CPU µs per request, least–most",
        table(results, [(load, load, "cpu_us", with_spread) for load in unpaced]),
        "## Requests per second",
        table(results, [(load, load, "rps", plain) for load in unpaced]),
        "## Latency and memory",
        f"Latency at {settings['rate']:,} events/s of 1 KiB, in µs, from the time at which each was due. Memory is RSS in MiB,"
        f" of all processes: before the first request, and the most under load at {label(big)}.",
        table(
            results,
            [
                (paced, "p50", "p50_us", plain),
                (paced, "p99", "p99_us", with_spread),
                (big, "RSS idle", "rss_idle_mib", plain),
                (big, "RSS busy", "rss_busy_mib", plain),
            ],
        ),
    ]
    versions = dict.fromkeys(results["versions"].values())
    parts += ["## Versions", "\n".join(f"* {version}" for version in versions)]
    for kind in ("skipped", "failed"):
        if results[kind]:
            parts += [f"## {kind.capitalize()}", "\n".join(f"* `{name}`: {why}" for name, why in results[kind].items())]
    return "\n\n".join(parts) + "\n"


def machine_line(about):
    extensions = "SHA-NI" if about["sha_ni"] else "no SHA-NI"
    return (
        f"{about['cpu']}, {about['cores']} cores, {extensions}, {about['memory_gib']} GiB; {about['system']}, Linux {about['kernel']};"
        f" load average before {about['load_average_before']:.1f}; hookstile at {about['revision']}."
    )


def table(results, columns):
    """Returns a table with a row per peer. A column is the load, its heading, the figure, and its format."""
    yes = {True: "yes", False: "–"}
    rows = [["peer", "verifies", "stops replays", *(label(heading) for _, heading, _, _ in columns)]]
    rows.append(["---", "---", "---", *("---:" for _ in columns)])
    for peer in measured(results):
        cells = [results["summary"].get(load, {}).get(peer.name, {}).get(name) for load, _, name, _ in columns]
        written = [write(cell) if cell else "–" for cell, (_, _, _, write) in zip(cells, columns, strict=True)]
        rows.append([peer.title, yes[peer.verifies], yes[peer.stops_replays], *written])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measured(results):
    present = {peer for peers in results["summary"].values() for peer in peers}
    return [peer for peer in PEERS if peer.name in present]


def label(load):
    """Returns a size such as `16KiB` as text for people."""
    if load is None:
        return "–"
    number, unit = load.removesuffix("KiB"), "KiB"
    if not number.isdigit():
        return load
    return "1 MiB" if number == "1024" else f"{number} {unit}"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def plain(figure):
    return number(figure["median"]) + ("" if figure["ratio"] is None else f" ({figure['ratio']:.2f}×)")


def with_spread(figure):
    return f"{plain(figure)}, {number(figure['min'])}–{number(figure['max'])}"


STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600 }
  .note { fill: #59636e }
  .ours { fill: #0969da }
  .remembers { fill: #8250df }
  .verifies { fill: #c297ff }
  .bare { fill: #9aa4af }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .note { fill: #9198a1 }
    .ours { fill: #4493f8 }
    .remembers { fill: #ab7df8 }
    .verifies { fill: #6e4fa8 }
    .bare { fill: #656c76 }
  }
"""
NAMES, PANEL, BAR, ROW, TOP = 280, 230, 150, 22, 64


def chart(results):
    """Draws horizontal bars: CPU time per request, a panel for each size, each to its own scale."""
    loads = [f"{kib}KiB" for kib in CHARTED if f"{kib}KiB" in results["summary"]]
    peers = measured(results)
    width, height = NAMES + PANEL * len(loads), TOP + ROW * len(peers) + 34
    parts = ['<text class="head" x="0" y="18">CPU µs per request, one core, 32 connections: less is better</text>']
    for row, peer in enumerate(peers):
        style = ' class="head"' if peer.name == BASELINE else ""
        title = peer.title.replace("*", "").replace("`", "")
        parts.append(f'<text{style} x="0" y="{TOP + ROW * row + 12}">{escape(title)}</text>')
    for panel, load in enumerate(loads):
        parts += bars(results["summary"][load], peers, NAMES + PANEL * panel, label(load))
    legend = [("ours", "hookstile"), ("remembers", "verifies, stops replays"), ("verifies", "verifies"), ("bare", "checks nothing")]
    for place, (kind, text) in enumerate(legend):
        x, y = NAMES + 170 * place, height - 8
        parts.append(f'<rect class="{kind}" x="{x}" y="{y - 10}" width="12" height="12" rx="2"/>')
        parts.append(f'<text class="note" x="{x + 18}" y="{y}">{text}</text>')
    return svg("CPU time per request, in µs: less is better", width, height, parts)


def svg(title, width, height, parts):
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
    return "\n".join([opening, f"<title>{title}</title>", f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def bar(kind, x, y, length, text):
    """Yields a bar with its value behind it."""
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{length:.1f}" height="15" rx="2"/>'
    yield f'<text class="note" x="{x + length + 6:.1f}" y="{y + 12}">{text}</text>'


def kind_of(peer):
    if peer.name.startswith(BASELINE):
        return "ours"
    if peer.stops_replays:
        return "remembers"
    return "verifies" if peer.verifies else "bare"


def bars(figures, peers, left, heading):
    costs = {name: figure["cpu_us"]["median"] for name, figure in figures.items()}
    longest = min(max(costs.values()), LONGEST * costs.get(BASELINE, max(costs.values()))) or 1
    yield f'<text class="head" x="{left}" y="{TOP - 14}">{heading}</text>'
    for row, peer in enumerate(peers):
        if (cost := costs.get(peer.name)) is None:
            continue
        length = max(1, BAR * min(cost, longest) / longest)
        # The bar is cut off where it would continue.
        text = number(cost) + (" »" if cost > longest else "")
        yield from bar(kind_of(peer), left, TOP + ROW * row, length, text)
