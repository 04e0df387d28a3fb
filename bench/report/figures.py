"""What the plots show, as numbers, from committed result files: {figure: {panel: ...}}. plots.py draws it; a check without
matplotlib compares its digest with the one that each drawing carries."""
import hashlib
import json

import gpu_tables
import report
import sources
from files import rounded

PYTORCH = {"softmax": "PyTorch, softmax", "quadratic": "PyTorch, authors' quadratic form", "chunked": "PyTorch, chunked",
           "recurrent": "PyTorch, authors' recurrence"}


def panel(title, x, y, series, x_log=True, y_log=True):
    """series: {label: [(x, y)]}; x and y name the axes."""
    kept = {label: sorted(points) for label, points in series.items() if points}
    return {"title": title, "x": x, "y": y, "x_log": x_log, "y_log": y_log, "series": kept}


def own_rows(results, call, mask, element, keep):
    """[(size, row)] of our rows with all threads at shapes that keep(size) accepts."""
    found = []
    for name, row in results["rows"].items():
        parts = report.split(name)
        if parts is None or name.split("/")[0] != call or parts[2:] != (mask, element, results["threads"]) or "median" not in row:
            continue
        size = report.size_of(parts[1])
        if keep(size):
            found.append((size, row))
    return found


def peer_rows(results, form, call, keep, element="fp32"):
    """[(size, result)] of a peer's results."""
    suffix = "" if element == "fp32" else f"/{element}"
    found = []
    for name, peer in results["peers"].items():
        parts = name.removesuffix(suffix).split("/")
        if name.endswith(suffix) and parts[:2] == [form, call] and len(parts) == 3 and "median" in peer:
            size = report.size_of(parts[2])
            if keep(size):
                found.append((size, peer))
    return found


def sixteen_heads(size):
    return size[:2] == (1, 16) and size[3] == 64


def time_of_length(results):
    series = {"cottention, fp32": own_rows(results, "forward", "causal", "fp32", sixteen_heads),
              "cottention, bf16": own_rows(results, "forward", "causal", "bf16", sixteen_heads)}
    for form in ("softmax", "quadratic", "chunked"):
        series[PYTORCH[form]] = peer_rows(results, form, "forward", sixteen_heads)
    return panel("forward, causal, 16 heads of 64", "tokens", "milliseconds",
                 {label: [(size[2], 1e3 * row["median"]) for size, row in rows] for label, rows in series.items()})


def memory_of_length(results):
    series = {"cottention, fp32": []}
    for name, row in results["rows"].items():
        parts = name.split("/")
        if parts[:3] == ["memory", "forward", "heads:16"] and row["passes"]:
            taken = row["counters"]["workspace_bytes"] + row["counters"]["peak_growth_bytes"]
            series["cottention, fp32"].append((int(parts[3].split(":")[1]), taken / 2**20))
    for form in ("softmax", "quadratic", "chunked"):
        series[PYTORCH[form]] = [(peer["shape"][2], peer["peak_growth_bytes"] / 2**20) for name, peer in results["peers"].items()
                                 if name.startswith(f"memory/{form}/forward/heads:16/") and "peak_growth_bytes" in peer]
    return panel("memory beside inputs and outputs", "tokens", "MiB", series)


def fractions(results, call, mask, element, keep, position):
    return [(size[position], 100 * row["fraction_of_floor"]) for size, row in own_rows(results, call, mask, element, keep)
            if row.get("fraction_of_floor")]


def floor_of_shape(length, shapes):
    of_length = {element: fractions(length, "forward", "causal", element, sixteen_heads, 2) for element in ("fp32", "bf16")}
    swept = {element: fractions(shapes, "forward", "causal", element, lambda size: size[:3] == (2, 8, 2048), 3)
             for element in ("fp64", "fp32", "fp16", "bf16")}
    heads = [(size[0] * size[1], 100 * row["fraction_of_floor"]) for size, row in own_rows(
        shapes, "forward", "causal", "fp32", lambda size: size[3] == 64 and size[0] * size[1] * size[2] == 65536)
        if row.get("fraction_of_floor")]
    axis = "% of the floor"
    return [panel("16 heads of 64", "tokens", axis, of_length, y_log=False),
            panel("16 heads in 2 x 2,048 tokens", "head dimension", axis, swept, y_log=False),
            panel("65,536 rows of 64, fp32", "batch x heads", axis, {"fp32": heads}, y_log=False)]


def decoding(results):
    series = {f"cottention, {element}": [(int(report.split(name)[1]), row["counters"]["tokens"] / row["median"])
                                         for name, row in results["rows"].items()
                                         if report.split(name) and report.split(name)[0] == "step" and "median" in row
                                         and report.split(name)[3:] == (element, results["threads"])]
              for element in ("fp32", "bf16")}
    series["PyTorch"] = [(int(name.split("/")[1]), int(name.split("/")[1]) / peer["median"])
                                           for name, peer in results["peers"].items()
                                           if name.startswith("step/") and "median" in peer]
    return panel("decoding, 16 heads of 64", "sequences at once", "tokens per second", series, y_log=False)


def error_of_length(results):
    series = {f"cottention, {element}": [(size[2], row["counters"]["error"]) for size, row in own_rows(
        results, "forward", "causal", element, sixteen_heads)] for element in ("fp32", "bf16")}
    for form in ("quadratic", "chunked", "recurrent"):
        series[PYTORCH[form]] = [(size[2], peer["error"]) for size, peer in peer_rows(results, form, "forward", sixteen_heads)]
    series["PyTorch, chunked, bf16"] = [(size[2], peer["error"]) for size, peer in peer_rows(
        results, "chunked", "forward", sixteen_heads, "bf16")]
    return panel("relative RMS error of o against fp64", "tokens", "error", series)


def trainings(gpt, bert):
    """Held-out loss of the trainings of examples/python, and what causal attention alone takes by length, from 1 MiB on: the
    system's count is no finer."""
    labels = {"cosine": "cottention, fp32", "softmax": PYTORCH["softmax"], "softmax, scores stored": "PyTorch, softmax, scores stored"}
    panels = [panel(f"{result['what']}.py: validation loss", "step", result["loss"]["unit"],
                    {labels[kind]: model["validation"] for kind, model in result["models"].items()}, x_log=False, y_log=False)
              for result in (gpt, bert)]
    memory = {label: [(row["length"], row["peak_bytes"] / 2**20) for row in gpt["attention"]
                      if row["form"] == form and row["peak_bytes"] >= 2**20]
              for form, label in labels.items()}
    return [*panels, panel("causal attention, forward + backward", "characters", "MiB", memory)]


def gpu_fractions(results):
    """Of every row that was measured on a GPU: what of the floor we reach, and the fastest of each family of peers."""
    bars = {label: [] for label in ("cottention", *gpu_tables.FAMILIES)}
    rows = [(row, variants) for row, variants in gpu_tables.rows_of(results).items() if "default" in variants]
    for at, (_, variants) in enumerate(rows):
        bars["cottention"].append((at, 100 * variants["default"]["fraction_of_floor"]))
        for family in gpu_tables.FAMILIES:
            found = gpu_tables.best(variants, family)
            # Softmax computes something else: its bar is the time of the same call over the floor of ours.
            if found:
                bars[family].append((at, 100 * variants["default"]["floor"] / found[1]["microseconds"]))
    return {"title": results["machine"]["name"], "x": "% of the floor", "rows": [row for row, _ in rows], "bars": bars}


def figures():
    """{name of the drawing: {"panels": [...], "sources": [result files]}}"""
    length, shapes = sources.load(sources.LENGTH), sources.load(sources.SHAPES)
    gpu = {} if sources.GPU is None else {
        "gpu": {"panels": [gpu_fractions(sources.load(sources.GPU))], "sources": [sources.GPU]}}
    return {
        "length": {"panels": [time_of_length(length), memory_of_length(shapes)], "sources": [sources.LENGTH, sources.SHAPES]},
        "floor": {"panels": floor_of_shape(length, shapes), "sources": [sources.LENGTH, sources.SHAPES]},
        "decoding": {"panels": [decoding(shapes)], "sources": [sources.SHAPES]},
        "trainings": {"panels": trainings(sources.load(sources.GPT), sources.load(sources.BERT)),
                      "sources": [sources.GPT, sources.BERT]},
        "error": {"panels": [error_of_length(length)], "sources": [sources.LENGTH]},
        **gpu,
    }


def digest(figure):
    return hashlib.sha256(json.dumps(rounded(figure), sort_keys=True).encode()).hexdigest()
