#!/usr/bin/env python3
"""PyTorch as a peer: what the same attention costs there, in fp32 on the CPU.

    pytorch_peers.py                       time every form at shapes A to C and print a table
    pytorch_peers.py --shapes A,E --forms quadratic,chunked --passes forward
    pytorch_peers.py --check               only compare every form with the definition
    pytorch_peers.py --serve               answer requests, one JSON object a line (bench/cpu/run.py asks)

Forms:
    quadratic      cosine attention as the authors write it for causal models: normalise, Q K^T, mask, times V n^-sigmoid(m)
    bidirectional  as the authors write it for encoders: Q (K^T V)
    recurrent      the authors' inference: token by token, with the state in fp64
    chunked        linear attention in chunks of 64 or 128 tokens, from torch's matrix products
    softmax        torch's own attention (scaled_dot_product_attention where there is one), causal
    step           one decoding step of many sequences

A form with several ways to write it is timed in each, and the fastest one counts. Tensors are contiguous
[batch, heads, seq, dim], which torch likes best, and masks and counts are prepared outside the timed part. No form is
timed before its output, and its gradients where it has any, agree with the definition in fp64.
"""
import argparse
import ctypes
import gc
import json
import math
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from forms import (FORMS, SEEDS, TRAINABLE, check_definition, check_gradient_rows, check_gradients, check_output, make_inputs,
                   random_values, relative_error, variants)

SHAPES = {  # batch, heads, length, dim
    "A": (1, 12, 512, 64),
    "B": (1, 16, 1024, 64),
    "C": (1, 16, 4096, 64),
    "D": (1, 16, 16384, 64),
    "E": (2, 8, 2048, 128),
}
SLOW_SECONDS = 20.0  # a form slower than this is measured once
TOO_SLOW_SECONDS = 30.0  # one that would be slower than this is not begun
ELEMENTS = {"fp32": torch.float32, "bf16": torch.bfloat16}


# Timing.


def available_bytes():
    try:
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf


def train(function, q, k, v, m, dout, form):
    """Forward and backward; heads that are computed one by one are also differentiated one by one."""
    single = getattr(function, "single_head", None)
    pieces = [slice(h, h + 1) for h in range(q.shape[1])] if single else [slice(None)]
    gradients = []
    for piece in pieces:
        leaves = [x[:, piece].detach().requires_grad_() for x in (q, k, v)] + [m[piece].detach().requires_grad_()]
        o = (single or function)(*leaves)
        gradients.append(torch.autograd.grad(o, leaves[:3] if form == "softmax" else leaves, dout[:, piece]))
    return [torch.cat(parts, dim=1) for parts in list(zip(*gradients))[:3]]


def timed(call):
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def measure(calls, repetitions):
    """Times the fastest of {name: call} `repetitions` times; the others once or twice. Returns name, times, trials."""
    trials = {}
    for name, call in calls.items():
        first = timed(call)[0]
        trials[name] = first if first > SLOW_SECONDS / 2 else min(first, timed(call)[0])
    best = min(trials, key=trials.get)
    if trials[best] > SLOW_SECONDS / 2:
        return best, [trials[best]], trials
    repetitions = max(2, min(repetitions, int(SLOW_SECONDS / trials[best])))
    inner = max(1, min(100, int(0.02 / trials[best])))  # so short calls are not timed one by one

    def several():
        for _ in range(inner):
            calls[best]()
    return best, [timed(several)[0] / inner for _ in range(repetitions)], trials


def witness(x):
    """Weighted sum over three positions and the sum of magnitudes, as add_witness() in attention.hpp."""
    seq, dim = x.shape[-2:]
    rows = x[:, :, [0, seq // 2, seq - 1]].double() * (1 + torch.arange(dim, dtype=torch.float64) / dim)
    return {"sum": rows.sum().item(), "magnitude": rows.abs().sum().item()}


def expected_seconds(form, which, shape):
    """About how long a form takes, from below: quadratic ones at a good speed for PyTorch on a few cores, loops by their tokens
    or, where states are large, by moving those."""
    batch, heads, seq, dim = shape
    forward = {"quadratic": 4.0 * batch * heads * seq * seq * dim / 1e11, "softmax": 4.0 * batch * heads * seq * seq * dim / 1e11,
               "recurrent": seq * max(6e-5, batch * heads * dim * dim * 16 / 2e10)}.get(form, 0.0)
    return forward * (1 if which == "forward" else 3)


def time_form(form, which, shape, repetitions, element="fp32"):
    """Times one form at one shape; `which` is 'forward' or 'forward_backward'."""
    expected = expected_seconds(form, which, shape)
    if expected > TOO_SLOW_SECONDS:
        return {"skipped": f"would take {expected:.0f} s or more a call"}
    needs = 3 if which == "forward" else 6  # score matrices alive at the peak, about
    calls, refused, errors = {}, {}, []
    inputs = make_inputs(shape, ELEMENTS[element])
    q, k, v, dout, m = inputs
    small = (shape[0], 2, 256, shape[3])
    checked = variants(form, small)
    for name, (function, scores) in variants(form, shape).items():
        if needs * scores > 0.8 * available_bytes():
            refused[name] = f"needs about {needs * scores / 2**30:.0f} GiB, {available_bytes() / 2**30:.0f} GiB are free"
            continue
        if which == "forward":
            def call(f=function):
                with torch.no_grad():
                    return f(q, k, v, m)
            errors.append(check_output(form, call(), inputs))
        else:
            check_gradients(form, checked[name][0], small)  # m's too
            def call(f=function):
                return train(f, q, k, v, m, dout, form)
            if form != "softmax":
                errors.append(check_gradient_rows(form, call(), inputs))
        calls[name] = call
    if not calls:
        return {"skipped": "; ".join(f"{name}: {why}" for name, why in refused.items()) or f"no variant for length {shape[2]}"}
    best, times, trials = measure(calls, repetitions)
    result = {"variant": best, "seconds": times, "trials": trials, "refused": refused}
    if errors:
        result["error"] = max(errors)
    if form != "softmax" and element == "fp32":
        out = calls[best]()
        named = {"o": out} if which == "forward" else dict(zip(("dq", "dk", "dv"), out))
        result["witness"] = {name: witness(x) for name, x in named.items()}
    return result


def time_step(batch, heads, dim, repetitions):
    """One token for each of `batch` sequences: the authors' update with an fp64 state, and the same in fp32 in place."""
    q, k, v, _, m = make_inputs((batch, heads, 1, dim))
    start = random_values(SEEDS["state"], batch * heads * dim * dim).view(batch, heads, dim, dim)
    n = torch.arange(1001, 1001 + batch, dtype=torch.float32).view(batch, 1, 1, 1)

    def update(state, in_place):
        qn, kn = F.normalize(q, dim=-1).to(state.dtype), F.normalize(k, dim=-1).to(state.dtype)
        vn = (v / n ** torch.sigmoid(m)).to(state.dtype)
        if in_place:
            flat = state.view(-1, dim, dim)
            flat.baddbmm_(vn.view(-1, dim, 1), kn.view(-1, 1, dim))
            return torch.bmm(flat, qn.view(-1, dim, 1)).view(batch, heads, dim)
        state += vn[..., 0, :, None] * kn
        return (state @ qn.transpose(-1, -2))[..., 0].float()

    after = start.double() + (v.double() * n.double() ** -torch.sigmoid(m.double()))[..., 0, :, None] * (
        k.double() / k.double().norm(dim=-1, keepdim=True))
    reference = torch.einsum("bhed,bhd->bhe", after, q.double()[:, :, 0] / q.double().norm(dim=-1)[:, :, :1])
    calls, errors = {}, []
    for name, dtype, in_place in (("fp64 state", torch.float64, False), ("fp32 state in place", torch.float32, True)):
        error = relative_error(update(start.to(dtype, copy=True), in_place), reference)
        if not error < 1e-5:
            raise ArithmeticError(f"step, {name}, is off by {error:.1e} from the definition in fp64")
        errors.append(error)
        state = start.to(dtype, copy=True)

        def call(state=state, in_place=in_place):
            with torch.no_grad():
                return update(state, in_place)
        calls[name] = call
    best, times, trials = measure(calls, repetitions)
    return {"variant": best, "seconds": times, "trials": trials, "refused": {}, "error": max(errors)}


# Memory.


def resident_bytes(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def forward_memory(form, shape):
    """How far resident memory rises during one forward call beside inputs and output, for the variant that needs least."""
    inputs = make_inputs(shape)
    q, k, v, _, m = inputs
    output = q.numel() * q.element_size()
    grown, refused = {}, {}
    with torch.no_grad():
        for name, (function, _) in variants(form, (1, 2, 256, shape[3])).items():
            function(q[:, :2, :256], k[:, :2, :256], v[:, :2, :256], m[:2])  # starts threads and touches the code
        for name, (function, scores) in variants(form, shape).items():
            if 3 * scores > 0.8 * available_bytes() or expected_seconds(form, "forward", shape) > TOO_SLOW_SECONDS:
                refused[name] = "too large or too slow"
                continue
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what others have freed would not count as growth
            with open("/proc/self/clear_refs", "w") as peak:
                peak.write("5")
            before = resident_bytes("VmRSS")
            function(q, k, v, m)
            grown[name] = max(0, resident_bytes("VmHWM") - before - output)
    if not grown:
        return {"skipped": "; ".join(f"{name}: {why}" for name, why in refused.items())}
    best = min(grown, key=grown.get)
    return {"shape": list(shape), "variant": best, "peak_growth_bytes": grown[best], "trials": grown, "refused": refused}


# About this PyTorch.


def blas():
    """The library behind matrix products: (name, core, usable). Debian's torch calls whatever libblas.so.3 is."""
    if torch.backends.mkl.is_available():
        return "MKL", "", True
    with open("/proc/self/maps") as lines:
        paths = sorted({line.split()[-1] for line in lines if "blas" in line and line.split()[-1].startswith("/")})
    called = [p for p in paths if os.path.basename(p).startswith("libblas.")] or paths
    openblas = [p for p in called if "openblas" in p]
    if not openblas:
        tuned = [p for p in called if any(x in p for x in ("blis", "atlas", "flexiblas", "armpl", "nvpl"))]
        return ", ".join(tuned or called) or "built in", "", bool(tuned) or not called
    core = ""
    for path in (p for p in paths if "openblas" in p):
        try:
            query = ctypes.CDLL(path).openblas_get_corename
            query.restype = ctypes.c_char_p
            core = query().decode()
            break
        except (OSError, AttributeError):
            continue
    return "OpenBLAS", core, True


def information():
    name, core, usable = blas()
    found = [line.split(":", 1)[1].strip() for line in torch.__config__.show().splitlines() if "CPU capability" in line]
    return {"torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads(),
            "blas": name, "blas_core": core, "blas_usable": usable, "cpu_capability": found[0] if found else ""}


def probe():
    """Seconds of a short mix, for choosing between settings of the environment."""
    with torch.no_grad():
        inputs = make_inputs(SHAPES["B"])
        q, k, v, _, m = inputs
        times = []
        for form, name in (("quadratic", "all heads at once"), ("chunked", "chunk 64, all at once")):
            function = variants(form, SHAPES["B"])[name][0]
            check_output(form, function(q, k, v, m), inputs)
            times.append(min(timed(lambda: function(q, k, v, m))[0] for _ in range(5)))
    return {**information(), "seconds": math.sqrt(times[0] * times[1])}


def answer(request):
    operation = request["operation"]
    if operation == "step":
        return time_step(request["batch"], request["heads"], request["dim"], request["repetitions"])
    if operation == "time":
        return time_form(request["form"], request["pass"], tuple(request["shape"]), request["repetitions"],
                         request.get("element", "fp32"))
    raise ValueError(f"unknown operation '{operation}'")


def serve():
    """One JSON request a line on standard input, one JSON answer a line on standard output."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print does not mix with the answers
    print(json.dumps(information()), file=out, flush=True)
    for line in sys.stdin:
        gc.collect()
        try:
            reply = answer(json.loads(line))
        except (ArithmeticError, MemoryError, RuntimeError, ValueError) as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=out, flush=True)


def check_all():
    for form in FORMS:
        for shape in ((1, 3, 256, 64), (2, 2, 384, 128)):
            inputs = make_inputs(shape)
            q, k, v, _, m = inputs
            for name, (function, _) in variants(form, shape).items():
                error = check_output(form, function(q, k, v, m), inputs)
                print(f"{form:14} {name:30} {shape}  output {error:.1e}", end="")
                print(f"  gradients {check_gradients(form, function, shape):.1e}" if form in TRAINABLE else "")


def in_words(result):
    """What time_form() found. Gradients of softmax are compared at a small size alone, so they have no error of their own."""
    if "skipped" in result:
        return result["skipped"]
    error = f"error {result['error']:.0e}" if "error" in result else ""
    return f"{1e3 * statistics.median(result['seconds']):10.2f} ms  {result['variant']:32} {error}".rstrip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="A,B,C", help="of A to E")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--passes", default="forward,forward_backward")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--memory", metavar="FORM", help="only tell what a forward call of FORM takes beside inputs and output")
    parser.add_argument("--shape", default="1x16x4096x64", help="for --memory")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check_definition()
    if options.probe:
        return print(json.dumps(probe()))
    if options.memory:
        return print(json.dumps(forward_memory(options.memory, tuple(int(n) for n in options.shape.split("x")))))
    if options.serve:
        return serve()
    if options.check:
        return check_all()
    print(information())
    for shape in options.shapes.split(","):
        for form in options.forms.split(","):
            for which in options.passes.split(","):
                if which != "forward" and form not in TRAINABLE:
                    continue
                result = time_form(form, which, SHAPES[shape], options.repetitions)
                print(f"{shape} {form:14} {which:17} {in_words(result)}", flush=True)


if __name__ == "__main__":
    main()
