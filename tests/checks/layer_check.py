#!/usr/bin/env python3
"""Holds the headers to the layers of docs/architecture.md.

usage: layer_check.py INCLUDE_DIR | --self-test

Every header belongs to a layer and includes only its own layer and those listed for it, always as
<cottention/...>; no includes form a cycle; no macro is left defined but the version and COTTENTION_CPU_* of cpu/target.hpp. Headers
with vector code have a guard that cpu/include_again.inc undefines, in place of #pragma once. Headers named .hpp are plain C++ and
include none named .cuh. Headers outside of folders include requirements.hpp first. The hardware's words stay in device/, and
so do CUB and libcu++. No file is longer than 400 lines.
"""
import pathlib
import re
import sys
import tempfile

VOCABULARY = {"arguments", "choice", "dispatch", "element", "host_only", "overlap", "pool", "problem", "recurrence", "requirements",
              "status", "tensor", "tiling", "validation", "version", "workspace_layout"}
CUDA_CALLS = {"forward", "backward", "step", "cottention"}
OPTIONAL = {"owned_workspace", "sequence_parallel", "mpi", "nccl"}  # included by no other layer: what allocates or communicates
# What each layer may include besides itself.
BELOW = {"vocabulary": set(), "rtc": set(), "reference": {"vocabulary"}, "cpu": {"vocabulary"}, "sequence_parallel": {"vocabulary"}}
CUDA_LAYERS = ["device", "tile", "kernel", "sm80", "sm90"]
for i, layer in enumerate(CUDA_LAYERS):
    BELOW[layer] = {"vocabulary", *CUDA_LAYERS[:i]}
BELOW["sm90"] -= {"sm80"}  # engines know nothing of each other
BELOW["tuning"] = {"vocabulary", *CUDA_LAYERS}
BELOW["host"] = BELOW["tuning"] | {"tuning"}
BELOW["calls"] = {"vocabulary", *CUDA_LAYERS, "tuning", "host"}
BELOW["optional"] = BELOW["calls"] | {"calls", "cpu", "sequence_parallel"}
# What only device/ may write.
HARDWARE = re.compile(r"\b(?:__)?asm(?:__)?\b|__global__|__shared__|\b(?:thread|block|grid)(?:Idx|Dim)\b|__\w+_sync\b|__sync\w+")
# Hints for registers of CPUs, and the words of matrix units.
OF_CPUS = {"__asm__": ("cpu/simd.hpp", "cpu/matrix_unit.hpp")}
TOOLKIT = re.compile(r"\s*#\s*include\s*<((?:cub|cuda|thrust|nv)/[^>]+)>")
REQUIREMENTS = "<cottention/requirements.hpp>"
TARGET, AGAIN = "cpu/target.hpp", "cpu/include_again.inc"
LONG = 400


def layer_of(path):
    """The layer of a path below include/cottention; None if it has none."""
    if len(path.parts) > 1:
        return path.parts[0] if path.parts[0] in BELOW and path.parts[0] not in ("calls", "optional") else None
    if path.stem in OPTIONAL:
        return "optional"
    if path.suffix == ".cuh":
        return "calls" if path.stem in CUDA_CALLS else None
    return "vocabulary" if path.stem in VOCABULARY else path.stem if path.stem in ("cpu", "reference") else None


def find_cycle(graph):
    done = set()

    def walk(node, trail):
        if node in trail:
            return trail[trail.index(node):] + [node]
        if node in done:
            return None
        for target in sorted(graph.get(node, ())):
            cycle = walk(target, trail + [node])
            if cycle:
                return cycle
        done.add(node)
        return None

    for node in sorted(graph):
        cycle = walk(node, [])
        if cycle:
            return cycle
    return None


def check(include_dir):
    """Returns (problems, notes, number of headers)."""
    root = pathlib.Path(include_dir) / "cottention"
    problems, notes, graph = [], [], {}
    again = re.findall(r"#undef (\w+)", (root / AGAIN).read_text(encoding="utf-8")) if (root / AGAIN).is_file() else []
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        path = file.relative_to(root)
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        layer = layer_of(path)
        graph[str(path)] = set()
        if layer is None:
            problems.append(f"{path}: belongs to no layer; name it in tests/checks/layer_check.py")
            continue
        guard = "COTTENTION_" + re.sub(r"\W", "_", str(path)).upper()
        guarded = re.search(rf"^(?://.*\n)*#if !defined\({guard}\)\n#define {guard}\n(?:.*\n)*#endif\n\Z", text, re.MULTILINE)
        if guarded and guard not in again:
            problems.append(f"{path}: {AGAIN} does not undefine {guard}")
        if "#pragma once" not in lines and not guarded and str(path) != AGAIN:
            problems.append(f"{path}: has no #pragma once")
        first = re.search(r"^\s*#\s*include\s*(\S+)", text, re.MULTILINE)
        if len(path.parts) == 1 and path.stem not in ("requirements", "host_only") and first and first.group(1) != REQUIREMENTS:
            problems.append(f"{path}: includes {first.group(1)} before {REQUIREMENTS}")
        if len(lines) > LONG:
            problems.append(f"{path}: {len(lines)} lines, more than {LONG}")
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            if re.match(r'\s*#\s*include\s*"', line):
                problems.append(f'{where}: write #include <cottention/...>, not "..."')
            word = HARDWARE.search(line.partition("//")[0])
            if word and layer != "device" and str(path) not in OF_CPUS.get(word.group(), ()):
                problems.append(f"{where}: {word.group()} belongs in device/")
            toolkit = TOOLKIT.match(line)
            if toolkit and layer not in ("device", "rtc"):
                problems.append(f"{where}: <{toolkit.group(1)}> belongs in device/")
            found = re.match(r"\s*#\s*include\s*<cottention/([^>]+)>", line)
            if not found:
                continue
            target = found.group(1)
            graph[str(path)].add(target)
            if not (root / target).is_file():
                problems.append(f"{where}: <cottention/{target}> does not exist")
                continue
            if path.suffix == ".hpp" and target.endswith(".cuh"):
                problems.append(f"{where}: plain C++ includes <cottention/{target}>")
            target_layer = layer_of(pathlib.Path(target))
            if target_layer is not None and target_layer != layer and target_layer not in BELOW[layer]:
                problems.append(f"{where}: {layer} includes <cottention/{target}>, which is {target_layer}")
        for name in re.findall(r"^\s*#\s*define\s+(\w+)", text, re.MULTILINE):
            if str(path) == "version.hpp" and name.startswith("COTTENTION_VERSION"):
                continue
            if str(path) == TARGET and name.startswith("COTTENTION_CPU_") or guarded and name == guard:
                continue
            if not re.search(rf"^\s*#\s*undef\s+{name}\b", text, re.MULTILINE):
                problems.append(f"{path}: leaves macro {name} defined")
    cycle = find_cycle(graph)
    if cycle:
        problems.append("includes form a cycle: " + " -> ".join(cycle))
    if not graph:
        problems.append(f"no headers under {root}")
    return problems, notes, len(graph)


def self_test():
    """Each fault, alone in a small tree, must be reported, and the tree without a fault must not."""
    sound = {
        "version.hpp": "#pragma once\n#define COTTENTION_VERSION 1\n",
        "problem.hpp": "#pragma once\n",
        "requirements.hpp": "#pragma once\n",
        "tensor.hpp": f"#pragma once\n#include {REQUIREMENTS}\n#include <cottention/problem.hpp>\n",
        "cpu/forward.hpp": "#pragma once\n#define STEP 1\n#undef STEP\n#include <cottention/tensor.hpp>\n",
        "cpu.hpp": f"#pragma once\n#include {REQUIREMENTS}\n#include <cottention/cpu/forward.hpp>\n",
        TARGET: "#pragma once\n#define COTTENTION_CPU_TARGET sse2\n",
        AGAIN: "#undef COTTENTION_CPU_ROWS_HPP\n#include <cottention/cpu/rows.hpp>\n",
        "cpu/rows.hpp": "// Rows.\n#if !defined(COTTENTION_CPU_ROWS_HPP)\n#define COTTENTION_CPU_ROWS_HPP\nint rows;\n#endif\n",
        "reference.hpp": f"#pragma once\n#include {REQUIREMENTS}\n#include <cottention/problem.hpp>\n",
        "device/memory.cuh": "#pragma once\n#include <cottention/tensor.hpp>\n// of threadIdx\nint x = threadIdx.x;\n",
        "device/collective.cuh": "#pragma once\n#include <cub/warp/warp_scan.cuh>\n",
        "tile/weights.cuh": "#pragma once\n#include <cottention/device/memory.cuh>\nint y;  // not threadIdx\n",
        "kernel/head.cuh": "#pragma once\n#include <cottention/tile/weights.cuh>\n",
        "sm80/walk.cuh": "#pragma once\n#include <cottention/kernel/head.cuh>\n",
        "tuning/forward.cuh": "#pragma once\n#include <cottention/sm80/walk.cuh>\n",
        "host/plan.hpp": "#pragma once\n#include <cottention/tensor.hpp>\n",
        "forward.cuh":
            f"#pragma once\n#include {REQUIREMENTS}\n#include <cottention/host/plan.hpp>\n#include <cottention/tuning/forward.cuh>\n",
        "owned_workspace.hpp": f"#pragma once\n#include {REQUIREMENTS}\n#include <cottention/cpu.hpp>\n",
        "owned_workspace.cuh": f"#pragma once\n#include {REQUIREMENTS}\n#include <cottention/forward.cuh>\n",
    }
    faults = {
        "problem.hpp:2: vocabulary includes": {"problem.hpp": "#pragma once\n#include <cottention/cpu.hpp>\n"},
        "reference.hpp:2: reference includes": {"reference.hpp": "#pragma once\n#include <cottention/cpu.hpp>\n"},
        "not \"...\"": {"cpu.hpp": '#pragma once\n#include "cpu/forward.hpp"\n'},
        "does not exist": {"cpu.hpp": "#pragma once\n#include <cottention/cpu/gone.hpp>\n"},
        "form a cycle": {"problem.hpp": "#pragma once\n#include <cottention/tensor.hpp>\n"},
        "belongs to no layer": {"other.hpp": "#pragma once\n"},
        "has no #pragma once": {"problem.hpp": "\n"},
        "cpu/rows.hpp: has no #pragma once": {
            "cpu/rows.hpp": "#if !defined(COTTENTION_CPU_ROWS_HPP)\n#define COTTENTION_CPU_ROWS_HPP\n#endif\nint rows;\n"},
        f"{AGAIN} does not undefine": {AGAIN: "#include <cottention/cpu/rows.hpp>\n"},
        "tile/weights.cuh:2: tile includes": {"tile/weights.cuh": "#pragma once\n#include <cottention/kernel/head.cuh>\n"},
        "kernel/head.cuh:2: kernel includes": {"kernel/head.cuh": "#pragma once\n#include <cottention/sm80/walk.cuh>\n"},
        "device/memory.cuh:2: device includes": {
            "device/memory.cuh": "#pragma once\n#include <cottention/host/plan.hpp>\n"},
        "sm80/state.cuh:2: sm80 includes": {"sm80/state.cuh": "#pragma once\n#include <cottention/tuning/forward.cuh>\n"},
        "tuning/forward.cuh:2: tuning includes": {
            "tuning/forward.cuh": "#pragma once\n#include <cottention/host/plan.hpp>\n"},
        "sm80/walk.cuh:2: sm80 includes": {"sm80/walk.cuh": "#pragma once\n#include <cottention/forward.cuh>\n"},
        "cpu.hpp:2: cpu includes": {"cpu.hpp": "#pragma once\n#include <cottention/host/plan.hpp>\n"},
        "tensor.hpp:2: vocabulary includes <cottention/owned": {
            "tensor.hpp": "#pragma once\n#include <cottention/owned_workspace.hpp>\n"},
        "calls/forward.cuh: belongs to no layer": {"calls/forward.cuh": "#pragma once\n"},
        "scan.cuh: belongs to no layer": {"scan.cuh": "#pragma once\n"},
        "host/plan.hpp:2: plain C++ includes": {
            "host/plan.hpp": "#pragma once\n#include <cottention/device/memory.cuh>\n"},
        "tile/weights.cuh:2: threadIdx belongs in device/": {"tile/weights.cuh": "#pragma once\nint x = threadIdx.x;\n"},
        "sm80/walk.cuh:2: __shfl_xor_sync belongs": {
            "sm80/walk.cuh": "#pragma once\nint x = __shfl_xor_sync(1);\n"},
        "sm80/walk.cuh:2: <cub/warp/warp_scan.cuh> belongs": {
            "sm80/walk.cuh": "#pragma once\n#include <cub/warp/warp_scan.cuh>\n"},
        "tensor.hpp: includes <vector> before": {"tensor.hpp": f"#pragma once\n#include <vector>\n#include {REQUIREMENTS}\n"},
        f"{TARGET}: leaves macro LEFT": {TARGET: "#pragma once\n#define LEFT\n"},
        "leaves macro LEFT defined": {"problem.hpp": "#pragma once\n#define LEFT\n"},
        "leaves macro VERSION defined": {"version.hpp": "#pragma once\n#define VERSION 1\n"},
        "problem.hpp: 401 lines": {"problem.hpp": "#pragma once\n" + 400 * "\n"},
        "problem.hpp: leaves macro COTTENTION_VERSION": {"problem.hpp": "#pragma once\n#define COTTENTION_VERSION 1\n"},
    }
    missed = []
    for expected, change in [("", {}), *faults.items()]:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**sound, **change}.items():
                file = pathlib.Path(folder) / "cottention" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            problems = check(folder)[0]
        if not expected and problems:
            missed.append(f"a sound tree is refused: {problems}")
        if expected and not any(expected in problem for problem in problems):
            missed.append(f"not found: {expected}; reported: {problems}")
    return missed


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--self-test":
        problems, notes, summary = self_test(), [], "every fault is found"
    else:
        problems, notes, count = check(sys.argv[1])
        summary = f"{count} headers keep to their layers"
    print("\n".join(notes + (problems or [summary])))
    sys.exit(1 if problems else 0)


main()
