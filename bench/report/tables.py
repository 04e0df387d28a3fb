#!/usr/bin/env python3
"""Writes the tables and figures of speech of README.md and docs/ from committed result files.

    bench/report/tables.py            rewrites what stands between <!-- NAME --> and <!-- /NAME --> in the pages
    bench/report/tables.py --check    only says where a page differs from that; exit status 1 if one does

NAME is one of BLOCKS below. A page that names another is refused.
"""
import argparse
import pathlib
import re
import sys

import files
import gpu_tables
import peer_tables
import report
import sources
import training_tables
from gpu_tables import table
from peer_tables import two_digits
from report import count_text, time_text

PAGES = ("README.md", "docs/performance.md", *(f"docs/{page.name}" for page in sorted((sources.ROOT / "docs").glob("python*.md"))))


def own(results, name):
    return results["rows"][f"{name}/threads:{results['threads']}"]


def percent(value):
    return "" if value is None else f"{100 * value:.0f}%"


def source(name):
    return lambda page: sources.link(getattr(sources, name), page)


def cpu_machine(page):
    """The machine, and what it was measured to reach, of each run."""
    lines = []
    for name in (sources.QUICK, sources.LENGTH, sources.SHAPES, sources.AUTHORS):
        results = sources.load(name)
        threads = results["threads"]
        fma = report.peak(results, f"machine/fma/fp32/threads:{threads}", "flop")
        triad = report.peak(results, f"machine/triad/threads:{threads}", "bytes")
        update = report.peak(results, f"machine/update/threads:{threads}", "bytes")
        lines.append([sources.link(name, page), f"{fma / 1e9:.0f}", f"{triad / 1e9:.0f}", f"{update / 1e9:.0f}",
                      percent(results["busy"]), f"{len(results['rows'])}"])
    results = sources.load(sources.QUICK)
    vectors = "AVX-512" if "avx512f" in results["cpu"]["flags"].split() else "AVX2"
    said = (f"\n{results['cpu']['name']}, family {results['cpu']['family']}, {results['cpu']['cores']} cores with {vectors}; "
            f"{results['build']['compiler']}.\n")
    return said + table(["result file", "FMA, fp32, GFLOP/s", "triad, GB/s", "update in place, GB/s", "waited for other processes",
                         "rows"], lines)


def authors(page):
    """Rows of the authors' sizes, with the peers' times over ours where the file has any."""
    results = sources.load(sources.AUTHORS)
    forms = [form for form in ("chunked", "quadratic", "recurrent", "softmax")
             if any(name.startswith(f"{form}/") for name in results["peers"])]
    lines = []
    for name, row in results["rows"].items():
        if report.split(name) is None:
            continue
        call, shape, _, element, _ = report.split(name)
        ratios = {form: peer["median"] / row["median"] for form, peer in report.peers_of(results, name).items()}
        lines.append([f"`{call}/{shape}/{element}`", f"{two_digits(1e3 * row['median'])}", percent(row["fraction_of_floor"])]
                     + [f"{ratios[form]:.1f}x" if form in ratios else "" for form in forms])
    return table(["row", "cottention, ms", "of the floor", *forms], lines)


def row_cells(name, row):
    work, seconds = row["counters"], row["median"]
    return [name, time_text(seconds), count_text(work["tokens"] / seconds), f"{work['useful_flop'] / seconds / 1e9:.0f}",
            f"{work['bytes'] / seconds / 1e9:.1f}", time_text(row["floor_seconds"]) if row["floor_seconds"] else "in the cache",
            f"{percent(row['fraction_of_floor'])} {row['bound'] or ''}".strip(), f"{work['error']:.1e}" if "error" in work else ""]


def rows_table(pattern):
    def block(page):
        results = sources.load(sources.SHAPES)
        lines = [row_cells(f"`{name.rsplit('/', 1)[0]}`", row) for name, row in results["rows"].items()
                 if re.fullmatch(pattern + f"/threads:{results['threads']}", name)]
        if not lines:
            raise SystemExit(f"tables: no row of {sources.SHAPES} matches {pattern}")
        return table(["row", "time", "tokens/s", "useful GFLOP/s", "GB/s", "floor", "of the floor", "error"], lines)
    return block


def memory(page):
    results = sources.load(sources.SHAPES)
    forms = [form for form in ("chunked", "quadratic", "softmax")
             if any(name.startswith(f"memory/{form}/") for name in results["peers"])]
    lines = []
    for name, row in results["rows"].items():
        parts = name.split("/")
        if parts[:3] != ["memory", "forward", "heads:16"]:
            continue
        tokens = int(parts[3].split(":")[1])
        line = [f"{tokens:,}", f"{row['counters']['workspace_bytes'] / 2**20:.1f}"]
        for form in forms:
            peer = results["peers"].get(f"memory/{form}/forward/heads:16/tokens:{tokens}", {})
            line.append(f"{peer['peak_growth_bytes'] / 2**20:,.0f}" if "peak_growth_bytes" in peer else "does not fit, or too slow")
        lines.append(line)
    return table(["tokens", "cottention's workspace, MiB"] + [f"PyTorch, {form}" for form in forms], lines)


def scaling(page):
    row = sources.load(sources.LENGTH)["rows"]
    ends = [row[f"forward/1x16x{tokens}x64/causal/fp32/threads:2"]["median"] / tokens for tokens in (1024, 131072)]
    return f"{ends[1] / ends[0]:.2f}"


def value(source_name, function, text):
    """A number within a sentence."""
    return lambda page: text.format(function(sources.load(getattr(sources, source_name))))


def fraction_of(name):
    return lambda results: 100 * own(results, name)["fraction_of_floor"]


def ratio(above, below):
    return lambda results: own(results, above)["median"] / own(results, below)["median"]


BLOCKS = {
    "readme-peers": peer_tables.readme,
    "source-quick": source("QUICK"),
    "source-length": source("LENGTH"),
    "source-shapes": source("SHAPES"),
    "shortest-fraction": value("LENGTH", fraction_of("forward/1x16x128x64/causal/fp32"), "{:.0f}%"),
    "longest-fraction": value("LENGTH", fraction_of("forward/1x16x131072x64/causal/fp32"), "{:.0f}%"),
    "longest-fraction-bf16": value("LENGTH", fraction_of("forward/1x16x131072x64/causal/bf16"), "{:.0f}%"),
    "heads-first-fraction": value("QUICK", fraction_of("forward_bhsd/C/causal/fp32"), "{:.0f}%"),
    "tokens-first-fraction": value("QUICK", fraction_of("forward/C/causal/fp32"), "{:.0f}%"),
    "both-in-forwards": value("QUICK", ratio("forward_backward/C/causal/fp32", "forward/C/causal/fp32"), "{:.1f}"),
    "step-fraction": value("SHAPES", fraction_of("step/256/fp32"), "{:.0f}%"),
    "time-per-token": scaling,
    "cpu-machine": cpu_machine,
    "cpu-peers": peer_tables.side_by_side,
    "source-authors": source("AUTHORS"),
    "cpu-authors": authors,
    "cpu-dims": rows_table(r"forward/2x8x2048x\d+/\w+/\w+"),
    "cpu-heads": rows_table(r"forward/(1x1x65536|1x4x16384|4x4x4096|16x4x1024|16x16x256|256x16x16)x64/causal/fp32"),
    "cpu-others": rows_table(r"(forward_packed|forward_backward_packed|prefill_\d+)/.*"),
    "cpu-steps": rows_table(r"step/.*"),
    "cpu-memory": memory,
    "faster-peers": peer_tables.faster,
    "gpu-floors": gpu_tables.floors,
    "gpu-limits": gpu_tables.limits,
    "gpu-budget": gpu_tables.budget_shares,
    "source-budget": source("BUDGET"),
    "gpu-occupancy": gpu_tables.occupancy,
    "gpu-measured": gpu_tables.measured,
    "gpu-sweep": gpu_tables.swept,
    "gpu-authors": gpu_tables.authors,
    "python-trainings": training_tables.trainings,
    "python-calls": training_tables.calls,
}


def rewritten(text, page):
    """The page with every block as it should be."""
    for name in re.findall(r"<!-- /([\w-]+) -->", text):
        if name not in BLOCKS:
            raise SystemExit(f"{page}: no block is called {name}")
        pattern = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{page}: {name} ends where none began")
        text = pattern.sub(lambda match: match[1] + BLOCKS[name](page) + match[2], text)
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for page in PAGES:
        path = pathlib.Path(sources.ROOT, page)
        text = path.read_text(encoding="utf-8")
        right = rewritten(text, page)
        if right != text:
            stale.append(page)
            if not options.check:
                path.write_text(right, encoding="utf-8")
    for page in stale:
        print(f"{page}: {'differs from the result files; ./run plots writes it anew' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
