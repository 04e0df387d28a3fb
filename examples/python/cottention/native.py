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
_pack = struct.Struct(f"{7 + 4 * len(TENSORS) + len(FIELDS)}q").pack

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


def _address(x):
    return 0 if x is None else x.data_ptr()


def _view(x):
    """The address of a tensor and its strides along batch, seq and heads."""
    if x is None:
        return 0, 0, 0, 0
    strides = x.stride()
    if len(strides) == 4:
        return x.data_ptr(), strides[0], strides[2], strides[1]
    return x.data_ptr(), 0, strides[1], strides[0]


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


def run(call, causal, scale, shape, q, k, v, o=None, dout=None, dq=None, dk=None, dv=None, scale_logit=None, dscale_logit=None,
        query_mask=None, key_mask=None, cu_seqlens_q=None, cu_seqlens_k=None, initial_h=None, initial_count=None, final_h=None,
        final_count=None, dfinal_state=None, dinitial_state=None, pool_slots=0, slot=None, accepted=None, batch_invariant=False):
    """One call of the library, on the device of q and its current stream."""
    device = q.device
    on_cpu = device.type == "cpu"
    head_dim = capability = None
    if not on_cpu:
        head_dim, capability = shape[5:7], torch.cuda.get_device_capability(device)
    library = compiler.library(call, ELEMENTS[q.dtype], "causal" if causal else "bidirectional", scale, head_dim, capability)
    wide = cu_seqlens_q is not None and cu_seqlens_q.dtype == torch.int64
    fields = (*shape, *_view(q), *_view(k), *_view(v), *_view(o), *_view(dout), *_view(dq), *_view(dk), *_view(dv),
              _address(scale_logit), _address(dscale_logit), _address(query_mask), _address(key_mask), _address(cu_seqlens_q),
              _address(cu_seqlens_k), wide, _address(initial_h), _address(initial_count), _address(final_h),
              _address(final_count), _address(dfinal_state), _address(dinitial_state), pool_slots, _address(slot),
              _address(accepted), batch_invariant)
    if on_cpu:
        _check(library, library.cottention_call(_pack(*fields, 1 if _forked else torch.get_num_threads(), 0, 0, 0)))
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        needed = ctypes.c_size_t()
        _check(library, library.cottention_workspace_bytes(_pack(*fields, 0, stream, 0, 0), ctypes.byref(needed)))
        workspace = torch.empty(needed.value, dtype=torch.uint8, device=device)
        _check(library, library.cottention_call(_pack(*fields, 0, stream, workspace.data_ptr(), needed.value)))


def _check(library, code):
    if code != 0:
        text = library.cottention_reason().decode()
        raise RuntimeError(text) if code == CUDA_ERROR else ValueError(text)
