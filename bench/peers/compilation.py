"""Forms as torch.compile makes them: C++ in which what lies between matrix products is fused, for one shape."""
import time

import torch

COMPILED = ", compiled"  # ends the name of a variant


def last_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def why_not():
    """Why nothing can be compiled here, empty where it can: it takes a C++ compiler and Python's headers."""
    if not hasattr(torch, "compile"):
        return "this PyTorch has no torch.compile"
    try:
        with torch.no_grad():
            compiled(lambda x: torch.sin(x) + 1)(torch.ones(64))
    except Exception as error:  # of whatever kind: it comes from the compiler or from any part of PyTorch
        return f"torch.compile fails: {last_line(error)}"
    return ""


def compiled(function):
    # Kernels of other shapes would count against the limit of how often a function is compiled anew.
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def first_call(call):
    """(seconds, result) of a call that compiles what it calls, or (None, reason)."""
    start = time.perf_counter()
    try:
        result = call()
    except Exception as error:
        return None, last_line(error)
    return time.perf_counter() - start, result
