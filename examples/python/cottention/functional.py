"""Cosine attention on torch tensors, or NumPy arrays, as the library computes it: docs/python.md."""
import sys
from typing import NamedTuple

import torch
from torch.autograd import forward_ad

from . import native, ops

SCALES = ("none", "by_key", "by_query")


class State(NamedTuple):
    """The recurrent state of `batch` sequences, in place of a cache of keys and values."""

    h: torch.Tensor  # [batch, heads_kv, dim_qk, dim_v], float32; float64 for float64 rows. Contiguous
    count: torch.Tensor  # [batch], int64: unmasked tokens absorbed

    @classmethod
    def zeros(cls, batch, heads_kv, dim_qk, dim_v, dtype=torch.float32, device=None):
        """The state before the first token, for rows of `dtype`."""
        return cls(torch.zeros(batch, heads_kv, dim_qk, dim_v, dtype=native.sums_dtype(dtype), device=device),
                   torch.zeros(batch, dtype=torch.int64, device=device))


class _Attention(torch.autograd.Function):
    """What torch.ops.cottention.forward does with gradients, at less cost a call."""

    @staticmethod
    def forward(ctx, known, options, *tensors):
        output = ops.compute_forward(tensors, options, known)
        ops.keep(ctx, (*tensors, *options), output, known)
        if output[2] is not None:
            ctx.mark_non_differentiable(output[2])
        return output

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, *ops.differentiate(ctx, *gradients, ctx.needs_input_grad[2:])


def _refuse(name, value, rule):
    raise ValueError(f"{name} = {value}: {rule}")


def _need_tensors(**named):
    for name, x in named.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} is of type {type(x).__name__}: must be a torch tensor, or a NumPy array where q is one")


def _need_state(name, state):
    if not isinstance(state, (tuple, list)) or len(state) != 2:
        raise TypeError(f"{name} is of type {type(state).__name__}: must be a State, or h and count")


def _need_no_tangents(*inputs):
    """Forward-mode derivatives would be lost without a word."""
    if not torch.compiler.is_compiling() and forward_ad._current_level >= 0 and any(
            x is not None and forward_ad.unpack_dual(x).tangent is not None for x in inputs):
        raise NotImplementedError("cottention has no forward-mode derivatives. Remedy: backward().")


def _need_choices(layout, device):
    if layout not in ("bhsd", "bshd"):
        _refuse("layout", repr(layout), "must be bhsd or bshd")
    if device.type not in ("cpu", "cuda", "meta"):
        _refuse("q.device", device, "must be cpu or cuda")


def _rows(name, x, like, packed, layout):
    """[batch, heads, seq, dim] or [heads, tokens, dim], with adjacent numbers in a row."""
    if x.layout is not torch.strided:
        raise TypeError(f"{name}.layout = {x.layout}: must be torch.strided")
    if x.dtype not in native.ELEMENTS:
        raise TypeError(f"{name}.dtype = {x.dtype}: must be float64, float32, float16 or bfloat16")
    if x.dtype != like.dtype:
        raise TypeError(f"{name}.dtype = {x.dtype}: must be that of q, {like.dtype}")
    if x.device != like.device:
        _refuse(f"{name}.device", x.device, f"must be that of q, {like.device}")
    if x.dim() != (3 if packed else 4):
        _refuse(f"{name}.shape", tuple(x.shape), "must be " + ("[heads, tokens, dim], since cu_seqlens_q is given" if packed else
                                                               "[batch, heads, seq, dim]; of packed sequences cu_seqlens_q is missing"))
    if layout == "bshd":
        x = x.transpose(-3, -2)
    x = x.resolve_neg()
    return x if x.stride(-1) == 1 else x.contiguous()


def _same_extents(q, k, v, packed):
    """What the extents that are passed to the library leave unsaid."""
    if k.shape[-1] != q.shape[-1]:
        _refuse("k.shape", tuple(k.shape), f"rows must be as long as those of q, {q.shape[-1]}")
    if v.shape[:-1] != k.shape[:-1]:
        _refuse("v.shape", tuple(v.shape), f"all but the last extent must be those of k, {tuple(k.shape)}")
    if not packed and k.shape[0] != q.shape[0]:
        _refuse("k.shape", tuple(k.shape), f"the batch must be that of q, {q.shape[0]}")


def _vector(name, x, like, dtypes, shape):
    """An argument that the library takes as a contiguous array."""
    if x is None:
        return None
    _need_tensors(**{name: x})
    if x.dtype not in dtypes:
        raise TypeError(f"{name}.dtype = {x.dtype}: must be {' or '.join(str(d).removeprefix('torch.') for d in dtypes)}")
    if x.device != like.device:
        _refuse(f"{name}.device", x.device, f"must be that of q, {like.device}")
    if x.shape != shape:
        _refuse(f"{name}.shape", tuple(x.shape), f"must be {tuple(shape)}")
    x = x.resolve_neg()
    return x if x.is_contiguous() else x.contiguous()


def _scale_logit(m, q, k, scale):
    heads = k.shape[-3]
    if scale not in SCALES:
        _refuse("scale", repr(scale), f"must be one of {', '.join(SCALES)}")
    if m is None or scale == "none":
        return None, "none"
    _need_tensors(scale_logit=m)
    if not m.dtype.is_floating_point:
        raise TypeError(f"scale_logit.dtype = {m.dtype}: must be one of floating point")
    if m.numel() != heads:
        other = "" if m.numel() != k.shape[-2] else f". k.shape is read as [..., heads = {heads}, seq = {m.numel()}, dim]: see layout"
        _refuse("scale_logit.shape", tuple(m.shape), f"must have one number for each head of k, {heads}{other}")
    if m.device != q.device:
        _refuse("scale_logit.device", m.device, f"must be that of q, {q.device}")
    m = m.resolve_neg()
    m = m.to(native.sums_dtype(q.dtype))
    return m if m.is_contiguous() else m.contiguous(), scale


def _mask(name, x, q, shape):
    if isinstance(x, torch.Tensor) and x.dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"{name}.dtype = {x.dtype}: must be bool or uint8, nonzero where there is a token. Remedy: x == 0 "
                        "of a mask that is added to scores, x != 0 of one that is 1 at tokens")
    return _vector(name, x, q, (torch.bool, torch.uint8), shape)


def _state(state, q, batch, heads, dim_qk, dim_v, name):
    _need_state(name, state)
    h = _vector(f"{name}.h", state[0], q, (native.sums_dtype(q.dtype),), (batch, heads, dim_qk, dim_v))
    return h, _vector(f"{name}.count", state[1], q, (torch.int64,), (batch,))


def _autocast(*tensors):
    """As torch.autocast treats scaled_dot_product_attention."""
    kind = tensors[0].device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]


_MOST_KNOWN = 4096
_known = {}  # {signature: Known} of calls that passed every check with tensors that were taken as they are


def _signature(call, layout, options, tensors):
    """All that the checks of a call look at: calls of one signature are checked once. None where PyTorch may replace what is called, or
    an argument is of no usual type."""
    if ops.traced() or forward_ad._current_level >= 0:
        return None
    for option in (layout, *options):
        if type(option) not in _OPTIONS:
            return None
    traits = ops.traits(tensors)
    if traits is None or tensors[0] is None:
        return None
    kind = tensors[0].device.type
    return None if kind not in _DEVICES or torch.is_autocast_enabled(kind) else (call, layout, options, traits)


_OPTIONS = (bool, str)
_DEVICES = ("cpu", "cuda")


def _unchanged(signature, given, taken):
    """Whether a call is to be remembered: its tensors were taken as they are."""
    if signature is None or any(x is not y for x, y in zip(given, taken)):
        return False
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    return True


def _is_numpy(x):
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(x, numpy.ndarray)


def _from_numpy(x):
    if not _is_numpy(x):
        return x
    # Strides below 0 are none that torch knows, nor does it have arrays that may not be written.
    return torch.from_numpy(x if x.flags.writeable and all(stride >= 0 for stride in x.strides) else x.copy())


def _state_from_numpy(state):
    return State(*map(_from_numpy, state)) if isinstance(state, (tuple, list)) and len(state) == 2 else state


def _to_numpy(x):
    return State(x.h.numpy(), x.count.numpy()) if isinstance(x, State) else x.numpy()


def attention(q, k, v, scale_logit=None, *, causal, scale="by_key", query_mask=None, key_mask=None, cu_seqlens_q=None,
              cu_seqlens_k=None, initial_state=None, return_state=False, layout="bhsd", batch_invariant=False):
    """o = sum over visible keys of (norm(q) . norm(k)) w v, or (o, State) with `return_state`.

    q            [batch, heads, seq_q, dim_qk]; float64, float32, float16 or bfloat16, which o is, too. With layout="bshd"
                 [batch, seq_q, heads, dim_qk], and so are all. Any strides, but of a tensor whose rows are not adjacent numbers
                 (stride 1) a contiguous copy is made
    k, v         [batch, heads_kv, seq_k, dim_qk], [batch, heads_kv, seq_k, dim_v]; heads is a multiple of heads_kv
    scale_logit  heads_kv learned numbers m in any shape: w = max(n, 1)^-sigmoid(m), n being the count of unmasked keys up to
                 the key (scale="by_key") or the query ("by_query"). None: w = 1
    causal       whether a query sees the keys up to its own position alone; seq_q is then seq_k, and what came before is initial_state
    query_mask   [batch, seq_q], bool or uint8, nonzero where there is a token; None: everywhere. Rows of o become 0 elsewhere
    key_mask     [batch, seq_k]: keys that are neither seen nor counted are 0. Of masks that are not contiguous a copy is made
    cu_seqlens_q, cu_seqlens_k
                 [sequences + 1], int32 or int64, on the device of q: packed sequences. Tensors are then [heads, tokens, dim]
                 or [tokens, heads, dim], masks [tokens]. cu_seqlens_k is cu_seqlens_q where it is not given
    initial_state
                 State to begin with; its h has a gradient. None: zeros
    batch_invariant
                 the bits of a sequence's result depend on nothing else in the batch

    Gradients of q, k, v, scale_logit, initial_state.h through o and the returned h; none of gradients. Under torch.autocast q, k
    and v become its dtype. NumPy arrays give NumPy arrays. An argument that breaks a rule: TypeError or ValueError, and
    nothing has been computed.
    """
    cu_seqlens_k = cu_seqlens_q if cu_seqlens_k is None else cu_seqlens_k
    given = (q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k)
    signature = None
    if initial_state is None or isinstance(initial_state, State):
        given += initial_state or (None, None)
        signature = _signature("attention", layout, (causal, scale, return_state, batch_invariant), given)
        known = None if signature is None else _known.get(signature)
        if known is not None:
            return _returned(_compute(given, known.options, known), return_state)
    if _is_numpy(q):
        arrays = [_from_numpy(x) for x in (q, k, v, scale_logit)]
        named = {"query_mask": query_mask, "key_mask": key_mask, "cu_seqlens_q": cu_seqlens_q, "cu_seqlens_k": cu_seqlens_k}
        with torch.no_grad():
            out = attention(*arrays, causal=causal, scale=scale, return_state=return_state, layout=layout,
                            batch_invariant=batch_invariant, initial_state=_state_from_numpy(initial_state),
                            **{name: _from_numpy(x) for name, x in named.items()})
        return tuple(map(_to_numpy, out)) if return_state else _to_numpy(out)
    _need_tensors(q=q, k=k, v=v)
    _need_choices(layout, q.device)
    if causal not in (True, False):
        raise TypeError(f"causal = {causal!r}: must be True or False")
    packed = cu_seqlens_q is not None
    if not packed and cu_seqlens_k is not None:
        _refuse("cu_seqlens_q", None, "must be given together with cu_seqlens_k")
    q, k, v = _autocast(q, k, v)
    q, k, v = (_rows(name, x, q, packed, layout) for name, x in (("q", q), ("k", k), ("v", v)))
    _same_extents(q, k, v, packed)
    heads, seq_k, dim_qk = k.shape[-3:]
    scale_logit, scale = _scale_logit(scale_logit, q, k, scale)
    batch = q.shape[0]
    if packed:
        _need_tensors(cu_seqlens_q=cu_seqlens_q)
        if cu_seqlens_q.dim() != 1 or cu_seqlens_q.numel() == 0:
            _refuse("cu_seqlens_q.shape", tuple(cu_seqlens_q.shape), "must be [sequences + 1]")
        batch = cu_seqlens_q.numel() - 1
        cu_seqlens_q = _vector("cu_seqlens_q", cu_seqlens_q, q, (torch.int32, torch.int64), (batch + 1,))
        cu_seqlens_k = _vector("cu_seqlens_k", cu_seqlens_k, q, (cu_seqlens_q.dtype,), (batch + 1,))
    query_mask = _mask("query_mask", query_mask, q, (*q.shape[:-3], q.shape[-2]))
    key_mask = _mask("key_mask", key_mask, q, (*q.shape[:-3], seq_k))
    h = count = None
    if initial_state is not None:
        h, count = _state(initial_state, q, batch, heads, dim_qk, v.shape[-1], "initial_state")
    tensors = (q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, h, count)
    options = (bool(causal), scale, bool(return_state), bool(batch_invariant))
    _need_no_tangents(*tensors)
    plain = not ops.traced() and not q.is_meta and ops.plain(tensors)
    outputs = _compute(tensors, options) if plain else torch.ops.cottention.forward(*tensors, *options)
    o, *state = outputs
    if _unchanged(signature, given, tensors):
        _known[signature] = ops.Known(options, signature[-1])
    return _returned((o.transpose(-3, -2) if layout == "bshd" else o, *state), return_state)


def _returned(outputs, return_state):
    o, h, count = outputs
    return (o, State(h, count)) if return_state else o


def _compute(tensors, options, known=None):
    """What the operator does, at less cost a call."""
    if torch.is_grad_enabled():
        for x in (*tensors[:4], tensors[8]):
            if x is not None and x.requires_grad:
                return _Attention.apply(known, options, *tensors)
    return ops.compute_forward(tensors, options, known)


def _wants_gradients(tensors):
    return torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in tensors)


def step(q, k, v, scale_logit=None, *, state, scale="by_key", slot=None, accepted=None, outputs=True, layout="bhsd"):
    """The next tokens of many sequences, whose states advance in place. Returns their rows of o, or None without `outputs`.

    q, k, v      as in attention, with the new tokens as seq: one when generating, several of a draft
    state        State of as many slots as there are; written
    slot         [batch], int32: where in `state` a sequence is, each slot at most once; negative: an idle lane, whose rows of o are 0.
                 None: sequence b has slot b
    accepted     [batch], int32: how many of the new tokens the state absorbs. None: all

    There are no gradients; attention() with initial_state and return_state has them.
    """
    given, signature = (), None
    if isinstance(state, State):
        given = (q, k, v, scale_logit, *state, slot, accepted)
        signature = _signature("step", layout, (scale, outputs), given)
        known = None if signature is None else _known.get(signature)
        if known is not None and not _wants_gradients(given):
            o = ops.step(*given, *known.options, known)
            return o if outputs else None
    if _is_numpy(q):
        arrays = [_from_numpy(x) for x in (q, k, v, scale_logit)]
        for x in state if isinstance(state, (tuple, list)) else ():
            if _is_numpy(x) and not (x.flags.writeable and x.flags.c_contiguous):
                _refuse("state.flags", f"writeable: {x.flags.writeable}, c_contiguous: {x.flags.c_contiguous}",
                        "must be both, since it is written")
        o = step(*arrays, state=_state_from_numpy(state), scale=scale, slot=_from_numpy(slot), accepted=_from_numpy(accepted), outputs=outputs,
                 layout=layout)
        return None if o is None else o.numpy()
    _need_tensors(q=q, k=k, v=v)
    _need_choices(layout, q.device)
    _need_state("state", state)
    _need_tensors(**{"state.h": state[0], "state.count": state[1]})
    if _wants_gradients((q, k, v, scale_logit, state[0])):
        raise RuntimeError("cottention.step has no gradients. Remedy: call it under torch.no_grad(), or "
                           "attention(initial_state=..., return_state=True).")
    q, k, v = _autocast(q, k, v)
    q, k, v = (_rows(name, x, q, False, layout) for name, x in (("q", q), ("k", k), ("v", v)))
    _same_extents(q, k, v, False)
    batch, heads, _, dim_qk = k.shape
    scale_logit, scale = _scale_logit(scale_logit, q, k, scale)
    h, count = state
    slots = h.shape[0]
    if slot is None and slots < batch:
        _refuse("state.h.shape", tuple(h.shape), f"must have a slot for each sequence of the batch, {batch}, where slot is not given")
    _state(state, q, slots, heads, dim_qk, v.shape[-1], "state")
    for name, x in (("h", h), ("count", count)):
        if not torch.compiler.is_compiling() and x.is_neg():
            _refuse(f"state.{name}.is_neg()", True, "must be False, since it is written. Remedy: resolve_neg()")
        if not x.is_contiguous():
            _refuse(f"state.{name}.stride()", x.stride(), "must be contiguous, since it is written")
    slot = _vector("slot", slot, q, (torch.int32,), (batch,))
    accepted = _vector("accepted", accepted, q, (torch.int32,), (batch,))
    inputs = (q, k, v, scale_logit, h, count, slot, accepted)
    _need_no_tangents(*inputs)
    plain = not ops.traced() and not q.is_meta and ops.plain(inputs)
    o = (ops.step if plain else torch.ops.cottention.step)(*inputs, scale, bool(outputs))
    if _unchanged(signature, given, inputs):
        _known[signature] = ops.Known((scale, bool(outputs)), signature[-1])
    if not outputs:
        return None
    return o.transpose(-3, -2) if layout == "bshd" else o
