"""What torch asks of an operator: gradcheck, opcheck, torch.compile, autocast."""
import cottention
import pytest
import torch

from definition import error
from test_attention import KINDS, padding, rows

OPTIONS = {
    "plain": {},
    "masks": {"query_mask": padding("left", 2, 6), "key_mask": padding("right", 2, 6)},
    "state": {"initial_state": True, "return_state": True},
    "packed": {"cu_seqlens_q": torch.tensor([0, 2, 6])},
}


def inputs(name, causal):
    """Few rows, and what is differentiated."""
    q, k, v, m = rows(torch.float64, seq_q=6, seq_k=6, dim_qk=5, dim_v=3)
    if name == "packed":
        q, k, v = (x.detach()[0].clone().requires_grad_() for x in (q, k, v))
    h = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    return (q, k, v, m, h) if name == "state" else (q, k, v, m)


def function(name, causal, scale):
    options = dict(OPTIONS[name])
    with_state = options.pop("initial_state", False)

    def f(q, k, v, m, h=None):
        state = cottention.State(h, torch.tensor([4, 0])) if with_state else None
        out = cottention.attention(q, k, v, m, causal=causal, scale=scale, initial_state=state, **options)
        return (out[0], out[1].h) if with_state else out
    return f


@pytest.mark.parametrize("causal, scale", KINDS)
@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck(name, causal, scale):
    x = list(inputs(name, causal))
    if scale == "none":
        x[3] = x[3].detach()
    assert torch.autograd.gradcheck(function(name, causal, scale), x)


def test_gradients_of_gradients_are_refused():
    q, k, v, m = inputs("plain", True)
    o = cottention.attention(q, k, v, m, causal=True)
    dq, = torch.autograd.grad(o.sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="no gradients of gradients"):
        dq.sum().backward()


def test_opcheck():
    for name in ("plain", "masks", "packed"):
        q, k, v, m = inputs(name, True)
        options = OPTIONS[name]
        offsets = options.get("cu_seqlens_q")
        arguments = (q, k, v, m, options.get("query_mask"), options.get("key_mask"), offsets, offsets, None, None, True, "by_key",
                     True, False)
        torch.library.opcheck(torch.ops.cottention.forward.default, arguments)
    q, k, v, m = (x.detach() for x in inputs("plain", True))
    state = cottention.State.zeros(2, 2, 5, 3, dtype=torch.float64)
    torch.library.opcheck(torch.ops.cottention.step.default, (q, k, v, m, *state, None, None, "by_key", True))


def compiled(f):
    return torch.compile(f, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize("name", OPTIONS)
def test_compiled_without_graph_breaks(name):
    f, x = function(name, True, "by_key"), inputs(name, True)
    out, eager = compiled(f)(*x), f(*x)
    for a, b in zip(out if name == "state" else [out], eager if name == "state" else [eager]):
        assert torch.equal(a, b)
        grads = zip(torch.autograd.grad(a.sum(), x, retain_graph=True, allow_unused=True),
                    torch.autograd.grad(b.sum(), x, retain_graph=True, allow_unused=True))
        assert all(y is None and z is None or torch.equal(y, z) for y, z in grads)


def test_compiled_for_other_lengths():
    f = torch.compile(function("plain", True, "by_key"), fullgraph=True, dynamic=True, backend="aot_eager")
    for seq in (6, 9, 20):
        q, k, v, m = (x.detach() for x in rows(torch.float64, seq_q=seq, seq_k=seq, dim_qk=5, dim_v=3))
        assert torch.equal(f(q, k, v, m), function("plain", True, "by_key")(q, k, v, m))


def test_compiled_step_advances_the_state():
    q, k, v, m = (x.detach() for x in inputs("plain", True))
    states = [cottention.State.zeros(2, 2, 5, 3, dtype=torch.float64) for _ in range(2)]

    def f(q, k, v, m, h, count):
        return cottention.step(q, k, v, m, state=(h, count))
    a = compiled(f)(q, k, v, m, *states[0])
    b = f(q, k, v, m, *states[1])
    assert torch.equal(a, b) and torch.equal(states[0].h, states[1].h) and states[0].count.tolist() == [6, 6]


def test_fake_tensors_have_the_layout_of_real_ones():
    from torch._subclasses.fake_tensor import FakeTensorMode
    for order in ((0, 1, 2, 3), (0, 2, 1, 3)):
        q, k, v = (torch.randn(2, 4, 6, 8)[..., :5].permute(order) for _ in range(3))
        real = cottention.attention(q, k, v, causal=True)
        with FakeTensorMode() as mode:
            fake = cottention.attention(*(mode.from_tensor(x) for x in (q, k, v)), causal=True)
        assert fake.shape == real.shape and fake.stride() == real.stride() and fake.dtype == real.dtype


def test_autocast_as_that_of_torch():
    q, k, v, m = rows(torch.float32, dim_v=24, kv_heads=4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = cottention.attention(q, k, v, m, causal=True)
        assert o.dtype == torch.nn.functional.scaled_dot_product_attention(q, k, v).dtype == torch.bfloat16
    o.sum().backward()
    assert q.grad.dtype == torch.float32 and m.grad.dtype == torch.float32
    narrow = cottention.attention(*(x.detach().bfloat16() for x in (q, k, v)), m.detach(), causal=True)
    assert torch.equal(o.detach(), narrow)


def test_scale_logit_of_any_element_type():
    q, k, v, m = rows(torch.float32)
    low = m.detach().bfloat16().reshape(1, 2, 1, 1).requires_grad_()
    o = cottention.attention(q, k, v, low, causal=True)
    assert torch.equal(o, cottention.attention(q, k, v, low.float().reshape(2), causal=True))
    o.sum().backward()
    assert low.grad.shape == low.shape and low.grad.dtype == torch.bfloat16


def test_checkpointing_gives_the_same_gradients():
    q, k, v, m = rows(torch.float64)
    f = function("plain", True, "by_key")
    plain = torch.autograd.grad(f(q, k, v, m).sum(), (q, k, v, m))
    again = torch.autograd.grad(torch.utils.checkpoint.checkpoint(f, q, k, v, m, use_reentrant=False).sum(), (q, k, v, m))
    assert all(error(x, y) == 0 for x, y in zip(plain, again))


def test_a_state_that_autograd_has_saved_may_not_advance():
    q, k, v, m = inputs("plain", True)
    state = cottention.State.zeros(2, 2, 5, 3, dtype=torch.float64)
    o = cottention.attention(q, k, v, m, causal=True, initial_state=state)
    with torch.no_grad():
        cottention.step(q, k, v, m, state=state)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        o.sum().backward()
    with torch.inference_mode():
        cottention.step(q, k, v, m, state=cottention.State.zeros(2, 2, 5, 3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_records_the_call():
    q, k, v, m = (x.detach() for x in inputs("plain", True))
    f = function("plain", True, "by_key")
    traced = torch.jit.trace(f, (q, k, v, m))
    assert torch.equal(traced(k.repeat(1, 2, 1, 1), k, v, m), f(k.repeat(1, 2, 1, 1), k, v, m))


def test_forward_mode_is_refused():
    q, k, v, m = (x.detach() for x in inputs("plain", True))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
            cottention.attention(dual, k, v, m, causal=True)
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
            cottention.step(dual, k, v, m, state=cottention.State.zeros(2, 2, 5, 3, dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_vmap():
    q, k, v, m = (x.detach() for x in rows(torch.float64, batch=6, seq_q=6, seq_k=6, dim_qk=5, dim_v=3))
    batched = [x.reshape(3, 2, *x.shape[1:]) for x in (q, k, v)]
    o = torch.func.vmap(lambda q, k, v: cottention.attention(q, k, v, m, causal=True))(*batched)
    assert torch.equal(o.reshape(6, 4, 6, 3), cottention.attention(q, k, v, m, causal=True))


def test_meta_device():
    q, k, v = (torch.empty(2, 4, 6, 8, device="meta") for _ in range(3))
    assert cottention.attention(q, k, v, causal=True).shape == (2, 4, 6, 8)


def test_make_fx_before_dispatch_records_the_call():
    from torch.fx.experimental.proxy_tensor import make_fx
    q, k, v, m = (x.detach() for x in rows(torch.float32))
    graph = make_fx(lambda *x: cottention.attention(*x, causal=True) * 2, pre_dispatch=True)(q, k, v, m)
    assert any("cottention" in str(node.target) for node in graph.graph.nodes)
    assert torch.equal(graph(q, k, v, m), cottention.attention(q, k, v, m, causal=True) * 2)


class Wrapped(torch.Tensor):
    """A tensor without numbers of its own."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrap = lambda x: x.inner if isinstance(x, Wrapped) else x
        return function(*torch.utils._pytree.tree_map(unwrap, args), **torch.utils._pytree.tree_map(unwrap, kwargs or {}))


def test_gradients_that_are_of_a_subclass():
    q, k, v, m = rows(torch.float32)
    o, state = cottention.attention(q, k, v, m, causal=True, return_state=True)
    h = torch.randn_like(state.h)
    want, = torch.autograd.grad(state.h, k, h, retain_graph=True)
    got, = torch.autograd.grad(state.h, k, Wrapped(h))
    assert torch.equal(got, want)
