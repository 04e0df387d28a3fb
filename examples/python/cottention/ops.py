"""The library's calls as operators of torch.library: cottention::forward, cottention::backward and cottention::step.

Rows of tensors are adjacent numbers, [batch, heads, seq, dim] or, with offsets, [heads, tokens, dim]. functional.py has what
people call.
"""
import torch

from . import native

_library = torch.library.Library("cottention", "DEF")
_SEQUENCES = ("Tensor? scale_logit, Tensor? query_mask, Tensor? key_mask, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, "
              "Tensor? initial_h, Tensor? initial_count")
_library.define(f"forward(Tensor q, Tensor k, Tensor v, {_SEQUENCES}, bool causal, str scale, bool return_state, "
                "bool batch_invariant) -> (Tensor o, Tensor h, Tensor count)")
_library.define(f"backward(Tensor dout, Tensor? dfinal_h, Tensor q, Tensor k, Tensor v, {_SEQUENCES}, Tensor? final_h, bool causal, "
                "str scale, bool batch_invariant, bool[] wanted) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dscale_logit, Tensor dinitial_h)")
_library.define("step(Tensor q, Tensor k, Tensor v, Tensor? scale_logit, Tensor(a!) h, Tensor(b!) count, Tensor? slot, "
                "Tensor? accepted, str scale, bool outputs) -> Tensor")


def rows_like(x, heads, seq, dim):
    """An empty tensor in the order of axes that x has: [batch, seq, heads, dim] in memory where its seq lies outside its heads."""
    if x.is_contiguous() and x.shape[-3:] == (heads, seq, dim):
        return torch.empty_like(x)
    batch = x.shape[:-3]
    if x.shape[-3] > 1 and x.stride(-2) > x.stride(-3):
        return x.new_empty((*batch, seq, heads, dim)).transpose(-3, -2)
    return x.new_empty((*batch, heads, seq, dim))


def _sums(q, *shape):
    return q.new_empty(shape, dtype=native.sums_dtype(q.dtype))


def _state_shape(q, k, v, cu_seqlens_q):
    batch = q.shape[0] if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1
    return batch, k.shape[-3], k.shape[-1], v.shape[-1]


def _forward_outputs(q, k, v, cu_seqlens_q, return_state):
    """o and the state's h and count, empty; None where they are not returned."""
    o = rows_like(q, q.shape[-3], q.shape[-2], v.shape[-1])
    if not return_state:
        return o, None, None
    shape = _state_shape(q, k, v, cu_seqlens_q)
    return o, _sums(q, *shape), q.new_empty(shape[0], dtype=torch.int64)


def _as_tensors(o, h, count):
    """What an operator returns, tensors alone: of no elements for None."""
    return (o, o.new_empty(0, dtype=native.sums_dtype(o.dtype)), o.new_empty(0, dtype=torch.int64)) if h is None else (o, h, count)


# The tensors of a call as native.Call has them.
_INPUTS = ("q", "k", "v", "scale_logit", "query_mask", "key_mask", "cu_seqlens_q", "cu_seqlens_k", "initial_h", "initial_count")
_OUTPUTS = ("o", "final_h", "final_count")
_BACKWARD = (*_INPUTS, "final_h", "dout", "dfinal_state", "dq", "dk", "dv", "dscale_logit", "dinitial_state")
_STEP = ("q", "k", "v", "scale_logit", "final_h", "final_count", "slot", "accepted", "o")


def _call(name, names, tensors, causal, scale, **numbers):
    named = dict(zip(names, tensors))
    return native.Call(name, causal, scale, native.extents(*tensors[:3], named.get("cu_seqlens_q")), named, **numbers)


_PLAIN = (torch.Tensor, torch.nn.Parameter, type(None))


def plain(tensors):
    """Whether none is of a subclass of tensors, which may have no numbers of its own."""
    for x in tensors:
        if type(x) not in _PLAIN:
            return False
    return True


def _batched(x):
    """Of torch.autograd.grad(is_grads_batched=True): several gradients in one."""
    return x is not None and torch._C._functorch.is_legacy_batchedtensor(x)


def traits(tensors):
    """All of the tensors but their numbers and addresses; None where there are others than plain ones."""
    found = []
    try:
        for x in tensors:
            if x is None:
                found.append(None)
            elif type(x) in _PLAIN:
                found.append((x.shape, x.stride(), x.dtype, x.device, x.is_neg()))
            else:
                return None
    except RuntimeError:  # sparse and nested tensors have no strides
        return None
    return tuple(found)


def _restored(tensors, kept):
    """Saved tensors as a call takes them: hooks, and whoever assigns to .data, may give others than those that were saved."""
    restored = []
    for name, x, was in zip(_INPUTS, tensors, kept):
        if x is not None:
            shape, _, dtype, device, _ = was
            if (x.shape, x.dtype, x.device) != (shape, dtype, device):
                raise RuntimeError(f"{name} is {x.dtype} {tuple(x.shape)} on {x.device} in backward, and was {dtype} {tuple(shape)} on "
                                   f"{device} in forward: what was saved must come back")
            x = x.resolve_neg()
            in_place = x.stride(-1) == 1 if name in ("q", "k", "v") else x.is_contiguous()
            x = x if in_place else x.contiguous()
        restored.append(x)
    return restored


class Known:
    """Calls on tensors of the same shapes, strides and types: what is passed to the library is put together once."""

    def __init__(self, options, of_tensors):
        self.options, self.traits, self.forward, self.backward = options, of_tensors, None, {}


def compute_forward(tensors, options, known=None):
    """o and the state's h and count: None where they are not returned."""
    causal, scale, return_state, batch_invariant = options
    outputs = _forward_outputs(*tensors[:3], tensors[6], return_state)
    call = known and known.forward
    if call is None:
        call = _call("forward", (*_INPUTS, *_OUTPUTS), (*tensors, *outputs), causal, scale, batch_invariant=batch_invariant)
        if known is not None:
            known.forward = call
    call(*tensors, *outputs)
    return outputs


def _forward(*inputs):
    return _as_tensors(*compute_forward(inputs[:10], inputs[10:]))


def _forward_fake(q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count, causal, scale,
                  return_state, batch_invariant):
    return _as_tensors(*_forward_outputs(q, k, v, cu_seqlens_q, return_state))


def _gradients(q, k, v, scale_logit, initial_h, wanted):
    """Empty tensors for the gradients that are wanted; None for the others."""
    return (*(rows_like(x, *x.shape[-3:]) if is_wanted else None for x, is_wanted in zip((q, k, v), wanted)),
            *(torch.empty_like(x) if is_wanted else None for x, is_wanted in zip((scale_logit, initial_h), wanted[3:])))


def _filled(q, gradients):
    """What an operator returns, tensors alone: of no elements for None."""
    sums = native.sums_dtype(q.dtype)
    return tuple(q.new_empty(0, dtype=dtype) if x is None else x for x, dtype in zip(gradients, (q.dtype,) * 3 + (sums,) * 2))


def _backward(dout, dfinal_h, q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count, final_h,
              causal, scale, batch_invariant, wanted):
    tensors = (q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count)
    return _filled(q, _compute_backward(dout, dfinal_h, tensors, final_h, causal, scale, batch_invariant, tuple(wanted)))


def _compute_backward(dout, dfinal_h, tensors, final_h, causal, scale, batch_invariant, wanted, known=None):
    """dq, dk, dv and the gradients of scale_logit and of the state: None where they are not wanted."""
    outputs = _gradients(*tensors[:4], tensors[8], wanted)
    passed = (*tensors, final_h, dout, dfinal_h, *outputs)
    alike = (wanted, dout.stride())
    call = None if known is None else known.backward.get(alike)
    if call is None:
        call = _call("backward", _BACKWARD, passed, causal, scale, batch_invariant=batch_invariant)
        if known is not None:
            known.backward = {alike: call}
    call(*passed)
    return outputs


def _backward_fake(dout, dfinal_h, q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count,
                   final_h, causal, scale, batch_invariant, wanted):
    return _filled(q, _gradients(q, k, v, scale_logit, initial_h, wanted))


def step(q, k, v, scale_logit, h, count, slot, accepted, scale, outputs, known=None):
    o = rows_like(q, q.shape[-3], q.shape[-2], v.shape[-1]) if outputs else q.new_empty(0)
    if slot is not None:
        o.zero_()  # the library leaves rows of idle lanes alone
    tensors = (q, k, v, scale_logit, h, count, slot, accepted, o if outputs else None)
    call = known and known.forward
    if call is None:
        call = _call("step", _STEP, tensors, True, scale, pool_slots=h.shape[0])
        if known is not None:
            known.forward = call
    call(*tensors)
    if not h.is_inference():
        torch.autograd.graph.increment_version((h, count))  # autograd refuses a state that it has saved
    return o


def _step_fake(q, k, v, scale_logit, h, count, slot, accepted, scale, outputs):
    return rows_like(q, q.shape[-3], q.shape[-2], v.shape[-1]) if outputs else q.new_empty(0)


def keep(ctx, inputs, output, known=None):
    q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count = inputs[:10]
    ctx.causal, ctx.scale, return_state, ctx.batch_invariant = inputs[10:]
    final_h = output[1] if return_state else None
    ctx.save_for_backward(q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count, final_h)
    ctx.set_materialize_grads(False)
    ctx.known = known
    ctx.kept = known.traits if known is not None else None if traced() else traits(inputs[:10])


def differentiate(ctx, dout, dfinal_h, _, needs=None):
    *tensors, final_h = ctx.saved_tensors
    q, v = tensors[0], tensors[2]
    needs = needs or ctx.needs_input_grad
    wanted = (needs[0], needs[1], needs[2], needs[3], needs[8])
    nothing = [None] * len(needs)
    if dout is None:
        if dfinal_h is None:
            return tuple(nothing)
        dout = torch.zeros_like(rows_like(q, q.shape[-3], q.shape[-2], v.shape[-1]))
    else:
        dout = dout.resolve_neg()
        dout = dout if dout.stride(-1) == 1 else dout.contiguous()
    if dfinal_h is not None:
        dfinal_h = dfinal_h.resolve_neg().contiguous()
    # The operator refuses gradients of gradients; where none are asked for, what it does costs less.
    options = (final_h, ctx.causal, ctx.scale, ctx.batch_invariant, wanted)
    known = ctx.known
    is_traced = traced()
    if ctx.kept is not None and not is_traced and traits(tensors) != ctx.kept:
        known = None
        if plain(tensors):
            tensors = _restored(tensors, ctx.kept)
    if torch.is_grad_enabled() or is_traced or _batched(dout) or _batched(dfinal_h) or not plain((dout, dfinal_h, *tensors, final_h)):
        gradients = torch.ops.cottention.backward(dout, dfinal_h, *tensors, *options)
    else:
        gradients = _compute_backward(dout, dfinal_h, tensors, *options, known)
    for place, gradient, is_wanted in zip((0, 1, 2, 3, 8), gradients, wanted):
        nothing[place] = gradient if is_wanted else None
    return tuple(nothing)


_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch


def traced():
    """Whether torch.compile, torch.jit.trace, a mode or a transform of torch.func records or replaces what is called."""
    return (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
            or torch._C._dispatch_tls_is_dispatch_key_included(_PRE_DISPATCH) or torch._C._get_tracing_state() is not None
            or torch._C._functorch.peek_interpreter_stack() is not None)


def _no_second_order(ctx, *gradients):
    raise NotImplementedError("cottention has no gradients of gradients. Remedy: leave out create_graph=True.")


for _device in ("CPU", "CUDA"):
    _library.impl("forward", _forward, _device)
    _library.impl("backward", _backward, _device)
    _library.impl("step", step, _device)
torch.library.register_fake("cottention::forward", _forward_fake, lib=_library)
torch.library.register_fake("cottention::backward", _backward_fake, lib=_library)
torch.library.register_fake("cottention::step", _step_fake, lib=_library)
torch.library.register_autograd("cottention::forward", differentiate, setup_context=keep, lib=_library)
torch.library.register_autograd("cottention::backward", _no_second_order, lib=_library)
