"""PyTorch as a peer on the CPU: finding one, its fastest settings, and what it is asked."""
import json
import os
import subprocess
import sys

from processes import PEERS, ROOT, Child, Peers
from report import FORMS, size_of  # found by what processes adds to the path

STEP_HEADS, STEP_DIM = 16, 64
TRAINABLE = ("quadratic", "chunked", "softmax", "bidirectional", "bidirectional_softmax")
ELEMENTS = {"fp32": "", "bf16": "/bf16"}  # and how results in them end
ENVIRONMENT = ROOT / "build" / "torch" / "bin" / "python"  # tests/run/pypi.py makes it
PEER_PACKAGES = "./run bench installs PyPI's; Debian and Ubuntu have python3-torch and libopenblas0-openmp"


def find_torch(wanted):
    """A Python that imports torch, or None."""
    for python in [wanted] if wanted else [str(ENVIRONMENT), sys.executable, "/usr/bin/python3"]:
        try:
            if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0:
                return python
        except OSError:
            continue
    return None


def peer_environment(python, threads, flags):
    """The environment in which PyTorch is fastest here. OpenBLAS picks its kernels by the processor's model, and older
    ones take new processors for old; its own variable corrects that. PyTorch uses AVX-512 only when asked. The C
    library gives large blocks back to the system, so that every call would pay for fresh pages: told to keep them, it
    makes the forms with large scores up to three times as fast."""
    # Kernels that torch.compile has made stay for the next run, and are compiled by this process, not by others that stay.
    base = {**os.environ, "OMP_NUM_THREADS": str(threads), "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(ROOT / "build" / "torch-compiled")}
    keep = {**{key: value for key, value in base.items() if key not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")},
            "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1000000000000:glibc.malloc.arena_max=1"}
    candidates = {"as it is": base, "blocks kept": keep}
    wide = [core for core, flag in (("SkylakeX", "avx512vl"), ("Cooperlake", "avx512_bf16")) if flag in flags.split()]
    for core in wide:
        candidates[f"blocks kept, OPENBLAS_CORETYPE={core}"] = {**keep, "OPENBLAS_CORETYPE": core}
    if wide:
        candidates[f"blocks kept, OPENBLAS_CORETYPE={wide[-1]} ATEN_CPU_CAPABILITY=avx512"] = {
            **keep, "OPENBLAS_CORETYPE": wide[-1], "ATEN_CPU_CAPABILITY": "avx512"}
    trials = {}
    for name, environment in candidates.items():
        text = Child([python, str(PEERS), "--probe", "--threads", str(threads)], env=environment,
                     stderr=subprocess.DEVNULL).output()
        try:
            trials[name] = json.loads(text)
        except json.JSONDecodeError:
            trials[name] = {"failed": "crashed or computed wrong results"}  # as some kernels do on some processors
            continue
        if not trials[name]["blas_usable"]:
            return None, trials
        if trials[name]["blas"] != "OpenBLAS" and environment is keep:
            break  # the other settings are OpenBLAS's
    right = {name: trial["seconds"] for name, trial in trials.items() if "seconds" in trial}
    return (candidates[min(right, key=right.get)] if right else None), trials


def start_peers(options, results):
    """The peers' process; None, with the reason in results, where there is none to be had."""
    python = find_torch(options.python)
    if python is None:
        results["torch"] = {"missing": f"no PyTorch found. {PEER_PACKAGES}"}
    else:
        sys.stderr.write("bench: starting PyTorch in each of the settings that may be the fastest\n")
        environment, trials = peer_environment(python, options.main_threads, results["cpu"]["flags"])
        if environment is None:
            names = sorted({trial["blas"] for trial in trials.values() if "blas" in trial})
            results["torch"] = {"missing": "PyTorch multiplies matrices here with an untuned BLAS "
                                f"({', '.join(names)}), so ratios to it would mean nothing. {PEER_PACKAGES}",
                                "trials": trials}
        else:
            peers = Peers(python, environment, options.main_threads, options.compile)
            changed = {key: environment.get(key) for key in ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "GLIBC_TUNABLES",
                                                             "OMP_NUM_THREADS")}
            results["torch"] = {**peers.information, "environment": changed, "trials": trials}
            return peers
    sys.stderr.write(f"bench: no peers: {results['torch']['missing']}\n")
    return None


def peer_requests(shape, names, repetitions, main_threads):
    """What to ask of the peers at a shape, or at `step`: (name of the result, request). Only what our rows `names` do too."""
    wanted = []
    if shape == "step":
        for batch in sorted({int(name.split("/")[1]) for name in names}):
            wanted.append((f"step/{batch}", {"operation": "step", "batch": batch, "heads": STEP_HEADS, "dim": STEP_DIM,
                                             "repetitions": repetitions}))
        return wanted
    base = {"operation": "time", "shape": size_of(shape), "repetitions": repetitions}
    for mask, forms in FORMS.items():
        for which in ("forward", "forward_backward"):
            for element, end in ELEMENTS.items():
                if f"{which}/{shape}/{mask}/{element}/threads:{main_threads}" in names:
                    wanted += [(f"{form}/{which}/{shape}{end}", {**base, "form": form, "pass": which, "element": element})
                               for form in forms if (which == "forward" or form in TRAINABLE)
                               and (element == "fp32" or form != "recurrent")]  # whose state is in fp64 anyway
    return wanted


def memory_requests(names):
    """[(name, form, pass, shape)] of what peers take beside inputs and outputs, where our rows `names` tell what we take."""
    wanted = []
    for name in names:
        _, which, heads, tokens, _ = name.split("/")
        heads, tokens = heads.split(":")[1], tokens.split(":")[1]
        if which == "forward":
            wanted += [(f"memory/{form}/{which}/heads:{heads}/tokens:{tokens}", form, (1, int(heads), int(tokens), 64))
                       for form in ("quadratic", "chunked", "softmax")]
    return wanted


def measure_memory(python, threads, form, shape):
    """In a process of its own, with the C library's allocator as it comes: memory that others have freed would count for less."""
    text = Child([python, str(PEERS), "--memory", form, "--shape", "x".join(map(str, shape)), "--threads", str(threads)],
                 stderr=subprocess.DEVNULL).output()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"failed": "the process ended without an answer"}
