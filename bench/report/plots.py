#!/usr/bin/env python3
"""Draws the plots of the documentation, docs/figures/*.svg, from committed result files. The same files give the same bytes."""
import sys

import matplotlib

import figures
from sources import ROOT

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

matplotlib.rcParams.update({
    "svg.hashsalt": "cottention",  # identifiers within the file are random otherwise
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",  # matplotlib brings it
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.facecolor": "white",  # pages may be dark
})
OURS = {"fp32": "#0b5fa5", "bf16": "#2ca4c8", "fp16": "#57b894", "fp64": "#1b2f5c"}
PEERS = {"softmax": "#c0392b", "quadratic": "#e08e2b", "chunked, bf16": "#b7a5d6", "chunked": "#7d5ba6", "recurrence": "#8c8c8c"}


def style_of(label):
    """Ours are full lines, peers dashed ones; a peer has the same colour everywhere."""
    if label.endswith("scores stored"):
        return {"color": "#e08e2b", "linestyle": ":", "marker": "^", "markersize": 4}
    for key, colour in PEERS.items():
        if label.startswith("PyTorch") and key in label:
            return {"color": colour, "linestyle": "--", "marker": "s", "markersize": 3}
    if label.startswith("PyTorch"):
        return {"color": "#7d5ba6", "linestyle": "--", "marker": "s", "markersize": 3}
    return {"color": OURS[label.split()[-1]], "linestyle": "-", "marker": "o", "markersize": 4}


def number_text(value, _):
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:g}"


def draw(axes, panel):
    for label, points in panel["series"].items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, linewidth=1.5, **style_of(label))
    axes.set_title(panel["title"], fontsize=10)
    axes.set_xlabel(panel["x"])
    axes.set_ylabel(panel["y"])
    if panel["x_log"]:
        xs = sorted({x for points in panel["series"].values() for x, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(xs if len(xs) < 7 else xs[::2])
        axes.xaxis.set_major_formatter(FuncFormatter(number_text))
        axes.minorticks_off()
    if panel["y_log"]:
        axes.set_yscale("log")
        if panel["y"] != "error":
            axes.yaxis.set_major_formatter(FuncFormatter(number_text))
    elif panel["y"].startswith("nats"):
        axes.yaxis.set_major_formatter(FuncFormatter(number_text))
    else:
        axes.set_ylim(0, 100 if panel["y"].startswith("%") else None)
        axes.yaxis.set_major_formatter(FuncFormatter(number_text))
    axes.tick_params(axis="x", labelrotation=30)


GPU_FAMILIES = ("#0b5fa5", "#7d5ba6", "#c0392b", "#e08e2b")


def draw_bars(axes, panel):
    """A group of bars for each row, from above to below."""
    height = 0.8 / len(panel["bars"])
    for place, (label, points) in enumerate(panel["bars"].items()):
        axes.barh([at + height * place for at, _ in points], [share for _, share in points], height, label=label,
                  color=GPU_FAMILIES[place])
    axes.set_yticks([at + 0.4 - height / 2 for at in range(len(panel["rows"]))], panel["rows"], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title(panel["title"], fontsize=10)
    axes.set_xlabel(panel["x"])


def draw_gpu(figure):
    panel = figure["panels"][0]
    drawing, axes = plt.subplots(figsize=(9.5, 1 + 0.5 * len(panel["rows"])))
    draw_bars(axes, panel)
    drawing.tight_layout(rect=(0, 0.4 / drawing.get_figheight(), 1, 1))
    drawing.legend(loc="lower center", ncol=4, fontsize=8)
    return drawing


def draw_lines(figure):
    panels = figure["panels"]
    drawing, axes = plt.subplots(1, len(panels), figsize=({1: 5.9, 2: 9.5, 3: 11.5}[len(panels)], 3.7), squeeze=False)
    for place, panel in zip(axes[0], panels):
        draw(place, panel)
    lines = {line.get_label(): line for place in axes[0] for line in place.get_lines()}
    columns = 3 if len(panels) == 1 else 6
    rows = -(-len(lines) // columns)
    drawing.tight_layout(rect=(0, 0.07 * rows, 1, 1))
    drawing.legend(lines.values(), lines.keys(), loc="lower center", ncol=columns, fontsize=8)
    return drawing


def main():
    folder = ROOT / "docs" / "figures"
    folder.mkdir(exist_ok=True)
    for name, figure in figures.figures().items():
        drawing = draw_gpu(figure) if name == "gpu" else draw_lines(figure)
        drawing.savefig(folder / f"{name}.svg", metadata={
            "Date": None, "Creator": None, "Description": f"{' '.join(figure['sources'])} {figures.digest(figure)}"})
        plt.close(drawing)
        print(f"docs/figures/{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
