"""Calls of one signature are checked once: later ones compute the same, and what differs is seen."""
import threading

import cottention
import pytest
import torch

from cottention import functional
from definition import BOUNDS, attention, error
from test_attention import rows

BOUND = BOUNDS[torch.float32][2]


def grads(q, k, v, m, dout, **options):
    return torch.autograd.grad(cottention.attention(q, k, v, m, causal=True, **options), (q, k, v, m), dout)


def exact(q, k, v, m, dout):
    leaves = [x.detach().double().requires_grad_() for x in (q, k, v, m)]
    return torch.autograd.grad(attention(*leaves, causal=True)[0], leaves, dout.double())


def test_second_calls_take_their_own_tensors():
    for _ in range(3):
        q, k, v, m = rows(torch.float32)
        dout = torch.randn(q.shape[:-1] + v.shape[-1:])
        for got, want in zip(grads(q, k, v, m, dout), exact(q, k, v, m, dout)):
            assert error(got, want) < 10 * BOUND
        state = cottention.State.zeros(q.shape[0], k.shape[1], k.shape[-1], v.shape[-1])
        with torch.no_grad():
            whole = cottention.attention(q, k, v, m, causal=True)
            steps = [cottention.step(*(x[:, :, t:t + 1] for x in (q, k, v)), m, state=state) for t in range(q.shape[2])]
        assert error(torch.cat(steps, 2), whole) < BOUND


def test_signatures_differ_where_calls_do():
    q, k, v, m = (x.detach() for x in rows(torch.float32))

    def o(**options):
        return cottention.attention(q, k, v, m, **{"causal": True, **options})

    mask = torch.zeros(q.shape[0], k.shape[2], dtype=torch.bool)
    mask[:, ::2] = True
    results = [[o(), o(causal=False), o(scale="by_query"), o(scale="none"), o(key_mask=mask), o(key_mask=~mask),
                o(return_state=True)[0]] for _ in range(2)]
    for first, second in zip(*results):
        assert torch.equal(first, second)
    distinct = results[0][:-1]
    assert all(not torch.equal(a, b) for i, a in enumerate(distinct) for b in distinct[:i])


def test_what_is_wrong_is_seen_after_a_good_call():
    q, k, v, m = (x.detach() for x in rows(torch.float32))
    call = lambda **changed: cottention.attention(**{"q": q, "k": k, "v": v, "scale_logit": m, "causal": True, **changed})
    for _ in range(2):
        call()
        for changed, kind, text in (({"k": k[..., :-1]}, ValueError, "k.shape"), ({"v": v.double()}, TypeError, "v.dtype"),
                                    ({"scale_logit": m[:1]}, ValueError, "scale_logit.shape"), ({"causal": 2}, TypeError, "causal"),
                                    ({"layout": "sbhd"}, ValueError, "layout"), ({"layout": ["bhsd"]}, ValueError, "layout"),
                                    ({"key_mask": torch.ones(3)}, TypeError, "key_mask.dtype"),
                                    ({"k": k.to_sparse()}, TypeError, "k.layout"),
                                    ({"q": None}, TypeError, "q is of type"), ({"initial_state": 3}, TypeError, "initial_state")):
            with pytest.raises(kind, match=text):
                call(**changed)


def test_tensors_that_need_a_copy_are_not_remembered():
    q, k, v, m = (x.detach() for x in rows(torch.float32))
    functional._known.clear()
    want = cottention.attention(q, k, v, m, causal=True)
    assert len(functional._known) == 1
    lying = q.mT.contiguous().mT  # rows whose numbers are not adjacent
    for _ in range(2):
        assert torch.equal(cottention.attention(lying, k, v, m, causal=True), want)
        assert torch.equal(cottention.attention(torch._neg_view(-q), k, v, m, causal=True), want)
        assert torch.equal(cottention.attention(q, k, v, m.double(), causal=True), want)
        with torch.autocast("cpu", torch.bfloat16):
            assert cottention.attention(q, k, v, m, causal=True).dtype == torch.bfloat16
    assert len(functional._known) == 1


def elsewhere(x):
    """A hook that gives back what was saved, lying otherwise in memory."""
    return x.transpose(1, 2).contiguous().transpose(1, 2) if x.dim() == 4 else x


def test_gradients_through_other_strides_than_before():
    q, k, v, m = rows(torch.float32)
    dout = torch.randn(q.shape[:-1] + v.shape[-1:])
    want = grads(q, k, v, m, dout)
    lying = dout.transpose(1, 2).contiguous().transpose(1, 2)
    expanded = torch.ones(()).expand(dout.shape)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(grads(q, k, v, m, lying), want))
        assert all(torch.equal(a, b) for a, b in zip(grads(q, k, v, m, expanded), grads(q, k, v, m, torch.ones(dout.shape))))
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x, elsewhere):
            assert all(torch.equal(a, b) for a, b in zip(grads(q, k, v, m, dout), want))
        # One gradient alone, then all.
        dk, = torch.autograd.grad(cottention.attention(q, k, v, m, causal=True), k, dout)
        assert torch.equal(dk, want[1])


def test_logits_of_any_shape_have_gradients_of_theirs():
    q, k, v, m = rows(torch.float32)
    dout = torch.randn(q.shape[:-1] + v.shape[-1:])
    want = grads(q, k, v, m, dout)[3]
    for shape in ((1, -1, 1, 1), (-1, 1)):
        shaped = m.detach().reshape(shape).requires_grad_()
        got = [grads(q, k, v, shaped, dout)[3] for _ in range(2)]
        assert all(torch.equal(x, want.reshape(shape)) for x in got)


def test_memory_of_signatures_is_bounded(monkeypatch):
    monkeypatch.setattr(functional, "_MOST_KNOWN", 4)
    functional._known.clear()
    for length in range(1, 12):
        q, k, v = torch.randn(3, 1, 2, length, 4)
        cottention.attention(q, k, v, causal=True)
        assert len(functional._known) <= 4


def test_threads_with_one_signature():
    q, k, v, m = rows(torch.float32)
    douts = [torch.randn(q.shape[:-1] + v.shape[-1:]) for _ in range(2)]
    douts.append(douts[0].transpose(1, 2).contiguous().transpose(1, 2))
    want = [grads(q, k, v, m, dout) for dout in douts]
    wrong = []

    def work(i):
        for j in range(30):
            at = (i + j) % 3
            if not all(torch.equal(a, b) for a, b in zip(grads(q, k, v, m, douts[at]), want[at])):
                wrong.append((i, j))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
