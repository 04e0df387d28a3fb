"""What this PyTorch is made of: its version, the libraries behind its products and attention, what of the processor it uses."""
import ctypes
import os
import re
import sys

import torch

# Of torch.__config__.show(): the name in results, what its line begins with, and the version.
VERSIONS = {"MKL": r"oneAPI Math Kernel Library Version (\S+)", "oneDNN": r"(?:MKL-DNN|oneDNN) v(\S+)", "OpenMP": r"OpenMP (\d+)"}


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


def versions_in(text):
    """{library: version} of what torch.__config__.show() says."""
    found = {name: re.search(pattern, text) for name, pattern in VERSIONS.items()}
    return {name: match[1].removesuffix("-Product") for name, match in found.items() if match}


def information():
    name, core, usable = blas()
    shown = torch.__config__.show()
    capability = re.search(r"CPU capability usage: (.+)", shown)
    return {"torch": torch.__version__, "python": sys.version.split()[0], "threads": torch.get_num_threads(),
            "libraries": versions_in(shown), "blas": name, "blas_core": core, "blas_usable": usable,
            "cpu_capability": capability[1].strip() if capability else "",
            "attention": hasattr(torch.nn.functional, "scaled_dot_product_attention")}
