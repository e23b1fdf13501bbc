"""Summarises a run: medians, spreads and ratios, as JSON, as tables and as a chart."""

import json
from html import escape
from statistics import median

from bench import Load
from peers import PEERS

BASELINE = "hookstile"
# On the chart a bar ends at this multiple of hookstile's own: slower peers would leave no room for
# the rest.
LONGEST = 4
CHARTED = (1, 16, 256)
CLAIMED = {True: "yes", False: "–"}


def write(results, tables, folder):
    folder.mkdir(parents=True, exist_ok=True)
    results["summary"] = summary(results["records"])
    (folder / "compare.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "compare.md").write_text(markdown(results, tables))
    if charted(results):
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


def markdown(results, tables):
    settings = results["settings"]
    parts = [
        f"# hookstile side by side, {results['date']}",
        machine_line(results["machine"]),
        f"{settings['connections']} connections, one core for the peer; medians of {settings['rounds']} rounds of"
        f" {settings['seconds']} s. × is the ratio to hookstile in its default configuration, or to the peer that a table names, in the"
        " same run.",
    ]
    for table in tables:
        if rows := measured(results, table):
            parts += [f"## {table.title}", *([table.text] if table.text else []), written(results, table, rows)]
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


def written(results, table, peers):
    """Returns a table as Markdown, with a row per peer. What the peers claim is there if they differ in it."""
    ratio = "" if table.baseline == BASELINE else f", × of `{table.baseline}`"
    claims = {peer.name: [CLAIMED[peer.verifies], CLAIMED[peer.stops_replays]] for peer in peers}
    differ = len(set(map(tuple, claims.values()))) > 1
    headings = ["verifies", "stops replays"] if differ else []
    rows = [[f"peer{ratio}", *headings, *(column.heading for column in table.columns)]]
    rows.append(["---", *("---" for _ in headings), *("---:" for _ in table.columns)])
    for peer in peers:
        cells = []
        for column in table.columns:
            figures = results["summary"].get(column.load.name, {})
            own, base = figures.get(peer.name, {}), figures.get(table.baseline, {})
            cells.append(column.write(own, base, column.figure) if column.figure in own else "–")
        rows.append([peer.title, *(claims[peer.name] if differ else []), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measured(results, table):
    """Returns the table's peers of which at least one figure was measured."""
    loads = [results["summary"].get(column.load.name, {}) for column in table.columns]
    return [peer for peer in PEERS if peer.name in table.peers and any(peer.name in peers for peers in loads)]


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


# A cell is written from the peer's figures at a load, and from those of the table's baseline.


def alone(own, _, figure):
    return number(own[figure]["median"])


def plain(own, base, figure):
    of = base.get(figure, {}).get("median")
    return alone(own, base, figure) + (f" ({own[figure]['median'] / of:.2f}×)" if of else "")


def with_spread(own, base, figure):
    least, most = own[figure]["min"], own[figure]["max"]
    return plain(own, base, figure) + (f", {number(least)}–{number(most)}" if least < most else "")


def in_flushes(own, base, figure):
    """Writes what the peer has over the baseline, as a multiple of a flush of the disk."""
    if figure not in base:
        return "–"
    return f"{(own[figure]['median'] - base[figure]['median']) / own['flush_us']['median']:.2f}"


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


def charted(results):
    return [load for load in map(Load, CHARTED) if load.name in results["summary"]]


def chart(results):
    """Draws horizontal bars: CPU time per request, a panel for each size, each to its own scale."""
    loads = charted(results)
    shown = {peer for load in loads for peer in results["summary"][load.name]}
    peers = [peer for peer in PEERS if peer.name in shown]
    width, height = NAMES + PANEL * len(loads), TOP + ROW * len(peers) + 34
    parts = ['<text class="head" x="0" y="18">CPU µs per request, one core, 32 connections: less is better</text>']
    for row, peer in enumerate(peers):
        style = ' class="head"' if peer.name == BASELINE else ""
        title = peer.title.replace("*", "").replace("`", "")
        parts.append(f'<text{style} x="0" y="{TOP + ROW * row + 12}">{escape(title)}</text>')
    for panel, load in enumerate(loads):
        parts += bars(results["summary"][load.name], peers, NAMES + PANEL * panel, load.size)
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
