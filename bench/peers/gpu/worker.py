#!/usr/bin/env python3
"""Answers peers.py: one JSON request a line on standard input, one JSON answer a line on standard output.

    worker.py                  on the GPU
    worker.py --device cpu     on the CPU, at any size that fits: to try it where there is no GPU; times mean little
"""
import argparse
import json
import os
import statistics
import sys
import time

import torch

import variants
from variants import forms

ELEMENTS = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def on_gpu():
    return forms.DEVICE.type == "cuda"


def synchronise():
    if on_gpu():
        torch.cuda.synchronize()


class Watch:
    """Microseconds of work: by events on the GPU, by the clock elsewhere."""

    def __enter__(self):
        if on_gpu():
            self.events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self.events[0].record()
        else:
            self.begin = time.perf_counter()
        return self

    def __exit__(self, *_):
        if on_gpu():
            self.events[1].record()
        else:
            self.end = time.perf_counter()

    def microseconds(self):
        if not on_gpu():
            return 1e6 * (self.end - self.begin)
        self.events[1].synchronize()
        return 1e3 * self.events[0].elapsed_time(self.events[1])


def samples(enqueue, seconds, fewest=5, most=200):
    taken = []
    while len(taken) < fewest or (len(taken) < most and sum(taken) < 1e6 * seconds):
        with Watch() as watch:
            enqueue()
        taken.append(watch.microseconds())
        if sum(taken) > 20e6:  # a call of many seconds is not repeated
            break
    return taken


def captured(enqueue):
    """The work as a CUDA graph; None where it cannot be one."""
    if not on_gpu():
        return None
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            enqueue()
        torch.cuda.synchronize()
        return graph
    except Exception:  # whatever a library does on the way that a graph cannot hold
        torch.cuda.synchronize()
        return None


def time_calls(call, sets, seconds):
    """Times call(i) as cottention_bench_gpu does: calls take turns through sets of buffers, many of them in a CUDA graph."""
    def rounds(count):
        for _ in range(count):
            for i in range(sets):
                call(i)
    side = torch.cuda.Stream() if on_gpu() else None
    if side:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # where a graph is captured, all must have run once beside the stream that captures it
            rounds(2)
        torch.cuda.current_stream().wait_stream(side)
    rounds(1)
    once = samples(lambda: rounds(1), seconds / 8, fewest=1)[-1]
    count = max(1, min(1000 // sets, int(2e3 / once) + 1))
    graph = captured(lambda: rounds(count))
    singly = [t / (count * sets) for t in samples(lambda: rounds(count), seconds / 4)]
    taken = [t / (count * sets) for t in samples(graph.replay, seconds / 2)] if graph else singly
    return {"microseconds": statistics.median(taken), "fastest": min(taken), "slowest": max(taken),
            "launched_singly": statistics.median(singly), "timed": "graph" if graph else "singly", "samples": len(taken),
            "calls_in_a_sample": count * sets, "buffer_sets": sets}


def copy_bandwidth():
    count = 1 << 30 if on_gpu() else 1 << 26
    source, target = (torch.empty(count, dtype=torch.uint8, device=forms.DEVICE) for _ in range(2))
    return 2e6 * count / time_calls(lambda _: target.copy_(source), 1, 0.1)["microseconds"]


def sets_of(bytes_of_a_set):
    """As many sets of buffers as keep each out of the cache until its turn comes again, in half of the memory at most."""
    if not on_gpu():
        return 1
    properties = torch.cuda.get_device_properties(0)
    cache = getattr(properties, "L2_cache_size", 50 << 20)
    room = properties.total_memory // 2 // bytes_of_a_set
    return int(max(1, min(max(2, 4 * cache // bytes_of_a_set), room)))


def peak_bytes(call):
    """Memory taken during one call beside what was there before, its outputs included."""
    if not on_gpu():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(0)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def free_bytes():
    return torch.cuda.mem_get_info()[0] if on_gpu() else 8 << 30


def time_row(row, variant, seconds):
    call, element = row["call"], row["element"]
    peer = variants.find(variant, row)
    refused = peer.refusal(call, row["shape"], free_bytes())
    if refused:
        return {"skipped": refused}
    dtype = ELEMENTS[element]
    batch, heads, seq, dim = row["shape"]
    elements = (1 if row["packed"] else batch) * heads * seq * dim
    sets = sets_of(elements * dtype.itemsize * 4 if hasattr(dtype, "itemsize") else elements * 8)
    if call == "step":
        sets = min(sets, 4)
    work = variants.Work(peer, row, dtype, sets)
    error = work.error()
    if error is not None and not error < 0.1:
        return {"failed": f"is off by {error:.1e} from the definition: it computes something else"}
    answer = {"peak_bytes": peak_bytes(work.call), "error": error, "error_of": work.error_of, "definition": peer.definition}
    return {**answer, **time_calls(work.call, sets, seconds)}


def answer(request):
    if request["operation"] == "copy":
        return {"copy_bytes_per_second": copy_bandwidth()}
    return time_row(request["row"], request["variant"], request["seconds"])


def information():
    found = {"python": sys.version.split()[0], "torch": torch.__version__, "cuda": torch.version.cuda,
             "triton": variants.version_of("triton"), "fla": variants.version_of("fla-core")}
    found["device"] = torch.cuda.get_device_name(0) if on_gpu() else "cpu"
    return {"versions": found}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print does not mix with the answers
    if options.device == "cuda" and not torch.cuda.is_available():
        print(json.dumps({"failed": "PyTorch finds no GPU"}), file=out)
        return 1
    forms.DEVICE = torch.device(options.device)
    print(json.dumps(information()), file=out)
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line))
        except ModuleNotFoundError as error:
            reply = {"skipped": str(error)}
        except Exception as error:  # any reason is an answer
            reply = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            if "CUDA error" in reply["failed"]:
                print(json.dumps(reply), file=out)
                return 1  # the device can do nothing more for this process
        synchronise()
        if on_gpu():
            torch.cuda.empty_cache()
        print(json.dumps(reply), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
