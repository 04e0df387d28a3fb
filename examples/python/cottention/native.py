"""Calls of the compiled library: shapes, strides and addresses in, an exception with the library's own words where it refuses.

Tensors are torch's, [batch, heads, seq, dim] or, packed, [heads, tokens, dim], of any strides whose last one is 1.
"""
import ctypes
import os
import struct

import torch

from . import compile as compiler

ELEMENTS = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
CUDA_ERROR = 9  # StatusCode::cuda_error

# The fields of Call in binding.cpp, eight bytes each: seven extents, eight tensors of an address and three strides, and these.
FIELDS = ("scale_logit", "dscale_logit", "query_mask", "key_mask", "cu_seqlens_q", "cu_seqlens_k", "offsets_are_int64",
          "initial_h", "initial_count", "final_h", "final_count", "dfinal_state", "dinitial_state", "pool_slots", "slot", "accepted",
          "batch_invariant", "threads", "stream", "workspace", "workspace_bytes")
TENSORS = ("q", "k", "v", "o", "dout", "dq", "dk", "dv")
_EXTENTS = 7
PLACE = {**{name: _EXTENTS + 4 * i for i, name in enumerate(TENSORS)},
          **{name: _EXTENTS + 4 * len(TENSORS) + i for i, name in enumerate(FIELDS)}}
_COUNT = _EXTENTS + 4 * len(TENSORS) + len(FIELDS)
_pack = struct.Struct(f"{_COUNT}q").pack

# OpenMP's threads do not come along when a process forks: a child stays on the thread that calls.
_forked = False


def _after_fork():
    global _forked
    _forked = True
    compiler.forget_locks()


os.register_at_fork(after_in_child=_after_fork)


def sums_dtype(dtype):
    """What states, scale_logit and their gradients are held in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _strides(x):
    """A tensor's strides along batch, seq and heads."""
    if x is None:
        return 0, 0, 0
    strides = x.stride()
    return (strides[0], strides[2], strides[1]) if len(strides) == 4 else (0, strides[1], strides[0])


def extents(q, k, v, offsets=None):
    """Shape of arguments.hpp."""
    if offsets is None:
        batch, heads_q, seq_q, dim_qk = q.shape
        _, heads_kv, seq_k, dim_v = v.shape
    else:
        batch = offsets.shape[0] - 1
        heads_q, seq_q, dim_qk = q.shape
        heads_kv, seq_k, dim_v = v.shape
    return batch, seq_q, seq_k, heads_q, heads_kv, dim_qk, dim_v


class Call:
    """A call of the library, on the device of q, of tensors of which all is known but their addresses.

    `tensors` are those of the first call, by their names of TENSORS and FIELDS; every call takes as many, in the same order.
    """

    def __init__(self, call, causal, scale, shape, tensors, pool_slots=0, batch_invariant=False):
        q, offsets = tensors["q"], tensors.get("cu_seqlens_q")
        self.on_cpu = q.device.type == "cpu"
        head_dim = capability = None
        if not self.on_cpu:
            head_dim, capability = shape[5:7], torch.cuda.get_device_capability(q.device)
        self.library = compiler.library(call, ELEMENTS[q.dtype], "causal" if causal else "bidirectional", scale, head_dim, capability)
        self.fields = [*shape, *[0] * (_COUNT - len(shape))]
        for name in TENSORS:
            self.fields[PLACE[name] + 1:PLACE[name] + 4] = _strides(tensors.get(name))
        self.fields[PLACE["offsets_are_int64"]] = offsets is not None and offsets.dtype == torch.int64
        self.fields[PLACE["pool_slots"]] = pool_slots
        self.fields[PLACE["batch_invariant"]] = batch_invariant
        self.places = [PLACE[name] for name in tensors]

    def __call__(self, *tensors):
        fields = self.fields.copy()
        for place, x in zip(self.places, tensors):
            if x is not None:
                fields[place] = x.data_ptr()
        library = self.library
        if self.on_cpu:
            fields[PLACE["threads"]] = 1 if _forked else torch.get_num_threads()
            _check(library, library.cottention_call(_pack(*fields)))
            return
        with torch.cuda.device(tensors[0].device):
            stream = fields[PLACE["stream"]] = torch.cuda.current_stream().cuda_stream
            needed = ctypes.c_size_t()
            _check(library, library.cottention_workspace_bytes(_pack(*fields), ctypes.byref(needed)))
            workspace = torch.empty(needed.value, dtype=torch.uint8, device=tensors[0].device)
            fields[PLACE["workspace"]], fields[PLACE["workspace_bytes"]] = workspace.data_ptr(), needed.value
            _check(library, library.cottention_call(_pack(*fields)))


def _check(library, code):
    if code != 0:
        text = library.cottention_reason().decode()
        raise RuntimeError(text) if code == CUDA_ERROR else ValueError(text)
