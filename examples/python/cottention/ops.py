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


class Known:
    """Calls on tensors of the same shapes, strides and types: what is passed to the library is put together once."""

    def __init__(self, options):
        self.options, self.forward, self.backward = options, None, {}


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


def _gradients(q, k, v, cu_seqlens_q, wanted):
    """Empty tensors for the gradients that are wanted, and for the others such of no elements."""
    dq = rows_like(q, *q.shape[-3:]) if wanted[0] else q.new_empty(0)
    dk = rows_like(k, *k.shape[-3:]) if wanted[1] else k.new_empty(0)
    dv = rows_like(v, *v.shape[-3:]) if wanted[2] else v.new_empty(0)
    return (dq, dk, dv, _sums(q, k.shape[-3] if wanted[3] else 0),
            _sums(q, *(_state_shape(q, k, v, cu_seqlens_q) if wanted[4] else (0,))))


def _backward(dout, dfinal_h, q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count, final_h,
              causal, scale, batch_invariant, wanted):
    tensors = (q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count)
    return _compute_backward(dout, dfinal_h, tensors, final_h, causal, scale, batch_invariant, wanted)


def _compute_backward(dout, dfinal_h, tensors, final_h, causal, scale, batch_invariant, wanted, known=None):
    outputs = _gradients(*tensors[:3], tensors[6], wanted)
    passed = (*tensors, final_h, dout, dfinal_h, *(x if is_wanted else None for x, is_wanted in zip(outputs, wanted)))
    alike, call = None, None
    if known is not None:  # hooks of saved tensors may give others than those that were saved
        alike = (wanted, dout.stride(), *(x.stride() for x in tensors[:3]))
        call = known.backward.get(alike)
    if call is None:
        call = _call("backward", _BACKWARD, passed, causal, scale, batch_invariant=batch_invariant)
        if known is not None:
            known.backward = {alike: call}
    call(*passed)
    return outputs


def _backward_fake(dout, dfinal_h, q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count,
                   final_h, causal, scale, batch_invariant, wanted):
    return _gradients(q, k, v, cu_seqlens_q, wanted)


def step(q, k, v, scale_logit, h, count, slot, accepted, scale, outputs, known=None):
    o = rows_like(q, q.shape[-3], q.shape[-2], v.shape[-1]) if outputs else q.new_empty(0)
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


def keep(ctx, inputs, output):
    q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count = inputs[:10]
    ctx.causal, ctx.scale, return_state, ctx.batch_invariant = inputs[10:]
    final_h = output[1] if return_state else None
    ctx.save_for_backward(q, k, v, scale_logit, query_mask, key_mask, cu_seqlens_q, cu_seqlens_k, initial_h, initial_count, final_h)
    ctx.set_materialize_grads(False)


def differentiate(ctx, dout, dfinal_h, _, needs=None, known=None):
    *tensors, final_h = ctx.saved_tensors
    q, k, v, scale_logit = tensors[:4]
    needs = needs or ctx.needs_input_grad
    wanted = (needs[0], needs[1], needs[2], needs[3], needs[8])
    nothing = [None] * len(needs)
    if dout is None:
        if dfinal_h is None:
            return tuple(nothing)
        dout = torch.zeros_like(rows_like(q, q.shape[-3], q.shape[-2], v.shape[-1]))
    elif dout.stride(-1) != 1:
        dout = dout.contiguous()
    if dfinal_h is not None:
        dfinal_h = dfinal_h.contiguous()
    # The operator refuses gradients of gradients; where none are asked for, what it does costs less.
    options = (final_h, ctx.causal, ctx.scale, ctx.batch_invariant, wanted)
    if torch.is_grad_enabled() or traced() or type(dout) is not torch.Tensor:
        gradients = torch.ops.cottention.backward(dout, dfinal_h, *tensors, *options)
    else:
        gradients = _compute_backward(dout, dfinal_h, tensors, *options, known)
    for place, gradient, is_wanted in zip((0, 1, 2, 3, 8), gradients, wanted):
        nothing[place] = gradient if is_wanted else None
    if wanted[3]:
        nothing[3] = gradients[3].view(scale_logit.shape)
    return tuple(nothing)


def traced():
    """Whether torch.compile, torch.jit.trace, a mode or a transform of torch.func records or replaces what is called."""
    return (torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None
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
