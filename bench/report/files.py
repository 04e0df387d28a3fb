"""Result files: reading, writing and what must be in them. Of runs on CPUs (bench/cpu/run.py) and on GPUs (bench/gpu/run.sh)."""
import json
import os
import pathlib


def rounded(value):
    """Six digits are more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(inner) for inner in value]
    return value


def text_of(results):
    """A line for each row, so that files are short and differences between them can be read."""
    parts = []
    for key, value in rounded(results).items():
        name = json.dumps(key)
        if isinstance(value, dict) and value and all(isinstance(inner, dict) for inner in value.values()):
            lines = ",\n".join(f"  {json.dumps(inner)}: {json.dumps(value[inner])}" for inner in value)
            parts.append(f" {name}: {{\n{lines}\n }}")
        elif isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value):
            lines = ",\n".join(f"  {json.dumps(inner)}" for inner in value)
            parts.append(f" {name}: [\n{lines}\n ]")
        else:
            parts.append(f" {name}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def save(path, results):
    """In one step: whoever reads the file, or kills this process, finds all of it or what was there before."""
    path = pathlib.Path(path)
    new = path.with_name(path.name + ".new")
    new.write_text(text_of(results), encoding="utf-8")
    os.replace(new, path)


def load(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def unused(path):
    """The path, or path-2, path-3 ... where files have those names."""
    for number in range(1, 1000):
        candidate = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not candidate.exists():
            return candidate
    raise SystemExit(f"{path}: too many files of that name")


NUMBER = (int, float)
# What each kind of file must have: {key: type}, a type being one of Python's, [element], {each value's} or a function that
# returns what is wrong.
GPU_ROW = {"row": str, "variant": str}
GPU_MEASURED = {"microseconds": NUMBER, "fastest": NUMBER, "slowest": NUMBER}
CPU_KEYS = {"complete": bool, "started": str, "threads": int, "cpu": dict, "git": dict, "rows": dict, "peers": dict}
GPU_KEYS = {"date": str, "machine": dict, "driver": str, "tests": list, "sanitizer": list}
PEER_KEYS = {"dry_run": bool, "versions": dict, "rows": list}


BUDGET_KEYS = {"architecture": str, "ptxas": str, "budget": list}
BUDGET_ROW = {"name": str, "chunk": int, "warps": int, "bytes": int, "tokens": int, "instructions": list, "products": dict,
              "wavefronts": int, "conflicts": int}
TRAINING_KEYS = {"options": dict, "machine": dict, "text": dict, "models": dict, "loss": dict, "attention": list}
CALLS_ROW = {"row": str, "microseconds": dict, "us_more": NUMBER, "times": NUMBER}
TRAINING_MODEL = {"parameters": int, "tokens": int, "tokens_per_second": int, "validation": list, "test": float}


def missing(what, value, keys):
    if not isinstance(value, dict):
        return [f"{what} is no object"]
    return [f"{what} has no {key} of the right type" for key, kind in keys.items() if not isinstance(value.get(key), kind)]


def faults_of_gpu_rows(what, rows):
    """Every row is measured, has failed or was left out, and says so."""
    faults = []
    for row in rows:
        faults += missing(what, row, GPU_ROW)
        states = [key for key in ("microseconds", "failed", "skipped") if key in row]
        name = f"{what} {row.get('row')}/{row.get('variant')}"
        if len(states) != 1:
            faults.append(f"{name} is {' and '.join(states) or 'neither measured, failed nor skipped'}")
        elif states[0] == "microseconds":
            faults += missing(name, row, GPU_MEASURED)
        elif not row[states[0]]:
            faults.append(f"{name} was {states[0]} without a reason")
    return faults


def faults_of_peers(peers):
    return missing("peers", peers, PEER_KEYS) or faults_of_gpu_rows("peer", peers["rows"])


def faults_of_cpu(results):
    faults = missing("the file", results, CPU_KEYS)
    for name, row in (results.get("rows") or {}).items():
        if "failed" in row:
            continue
        if not row.get("passes") or not all(isinstance(s, NUMBER) and s > 0 for one in row["passes"] for s in one):
            faults.append(f"{name} has no times")
        if not isinstance(row.get("counters"), dict):
            faults.append(f"{name} has no counters")
    for name, peer in (results.get("peers") or {}).items():
        if not any(key in peer for key in ("seconds", "failed", "skipped", "peak_growth_bytes")):
            faults.append(f"peer {name} is neither measured, failed nor skipped")
    return faults


def faults_of(results):
    """What is wrong with a result file, as sentences."""
    if "benchmarks" in results:  # what Google Benchmark itself writes
        return [f"{row.get('name')} has no time" for row in results["benchmarks"] if not isinstance(row.get("real_time"), NUMBER)]
    if "budget" in results:  # what tests/checks/budget_check.py counted
        return missing("the file", results, BUDGET_KEYS) + [fault for row in results["budget"]
                                                            for fault in missing("a kernel", row, BUDGET_ROW)]
    if results.get("what") == "calls":  # what bench/peers/python_calls.py found
        return missing("the file", results, {"machine": dict, "rounds": int, "calls": list}) + [
            fault for row in results["calls"] for fault in missing("a call", row, CALLS_ROW)]
    if "what" in results:  # what examples/python/gpt.py and bert.py found
        return missing("the file", results, TRAINING_KEYS) + [fault for model in results["models"].values()
                                                              for fault in missing("a model", model, TRAINING_MODEL)]
    if "machine" not in results:
        return faults_of_cpu(results)
    faults = missing("the file", results, GPU_KEYS)
    if results.get("bench"):
        faults += faults_of_gpu_rows("row", results["bench"].get("rows", []))
    if results.get("peers") and "rows" in results["peers"]:
        faults += faults_of_peers(results["peers"])
    return faults
