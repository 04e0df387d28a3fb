"""Draws a result of gpt.py or bert.py: validation loss against step, and what attention costs against length. Needs matplotlib."""
import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

STYLES = {"cosine": {"color": "#0b5fa5", "marker": "o"}, "softmax": {"color": "#c0392b", "linestyle": "--", "marker": "s"},
          "softmax, scores stored": {"color": "#e08e2b", "linestyle": ":", "marker": "^"}}


def _against_length(axes, rows, key, unit, words):
    for form in dict.fromkeys(row["form"] for row in rows):
        points = [(row["length"], row[key] / unit) for row in rows if row["form"] == form and (row[key] or 0) >= unit]
        if points:  # the system counts memory no finer than to a MiB or so
            axes.plot(*zip(*points), label=form, markersize=4, **STYLES[form])
    lengths = sorted({row["length"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.minorticks_off()
    axes.set_xlabel("characters of a sequence")
    axes.set_title(words, fontsize=10)


def draw(result, path):
    rows = result["attention"]
    costs = [(key, unit, words) for key, unit, words in (("peak_bytes", 2**20, "attention, forward and backward: MiB"),
                                                         ("tokens_per_second", 1, "attention, forward and backward: characters/s"))
             if any(row[key] for row in rows)]
    drawing, axes = plt.subplots(1, 1 + len(costs), figsize=(4.2 * (1 + len(costs)), 3.7))
    for kind, model in result["models"].items():
        axes[0].plot(*zip(*model["validation"]), label=kind, markersize=4, **STYLES[kind])
    axes[0].set_title(f"{result['what']}: validation loss, {result['loss']['unit']}", fontsize=10)
    axes[0].set_xlabel("step")
    for place, cost in zip(axes[1:], costs):
        _against_length(place, rows, *cost)
    for place in axes:
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
        place.legend(frameon=False, fontsize=8)
    drawing.tight_layout()
    drawing.savefig(path)
    plt.close(drawing)
