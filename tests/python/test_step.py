"""step() against attention(): the same tokens, one or several at a time."""
import cottention
import pytest
import torch

import definition
from definition import BOUNDS, error
from test_attention import rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_tokens_one_by_one(dtype):
    q, k, v, m = rows(dtype, grad=False, seq_q=40, seq_k=40)
    o, after = cottention.attention(q[:, :, :30], k[:, :, :30], v[:, :, :30], m, causal=True, return_state=True)
    outputs = [o]
    for t in range(30, 40):
        outputs.append(cottention.step(*(x[:, :, t:t + 1] for x in (q, k, v)), m, state=after))
    exact, (h, count) = definition.attention(*definition.doubles(q, k, v, m), causal=True)
    assert error(torch.cat(outputs, 2), exact) <= BOUNDS[dtype][0]
    assert error(after.h, h) <= BOUNDS[dtype][1]
    assert after.count.tolist() == [40, 40] == count.tolist()


def test_drafts_slots_and_idle_lanes():
    q, k, v, m = rows(torch.float64, batch=3, grad=False, seq_q=5, seq_k=5)
    pool = cottention.State.zeros(6, 2, 24, 17, dtype=torch.float64)
    pool.h.fill_(7.0), pool.count.fill_(9)
    before = pool.h.clone()
    slot = torch.tensor([4, -1, 1], dtype=torch.int32)
    for s in (4, 1):
        pool.h[s] = 0
        pool.count[s] = 0
    o = cottention.step(q, k, v, m, state=pool, slot=slot, accepted=torch.tensor([2, 0, 0], dtype=torch.int32))
    exact, _ = definition.attention(q, k, v, m, causal=True)
    assert error(o[0], exact[0]) <= 1e-14 and error(o[2], exact[2]) <= 1e-14
    _, (h, _) = definition.attention(q[:1, :, :2], k[:1, :, :2], v[:1, :, :2], m, causal=True)
    assert error(pool.h[4], h[0]) <= 1e-14
    assert pool.count.tolist() == [9, 0, 9, 9, 2, 9]
    assert not pool.h[1].any()
    assert all(torch.equal(pool.h[s], before[s]) for s in (0, 2, 3, 5))
    assert cottention.step(q, k, v, m, state=pool, slot=slot, accepted=torch.tensor([3, 0, 5], dtype=torch.int32), outputs=False) is None
    assert pool.count.tolist() == [9, 5, 9, 9, 5, 9]


def test_layouts():
    q, k, v, m = rows(torch.float64, grad=False, seq_q=3, seq_k=3)
    states = [cottention.State.zeros(2, 2, 24, 17, dtype=torch.float64) for _ in range(2)]
    o = cottention.step(q, k, v, m, state=states[0])
    other = cottention.step(*(x.transpose(1, 2).contiguous() for x in (q, k, v)), m, state=states[1], layout="bshd")
    assert torch.equal(o, other.transpose(1, 2)) and torch.equal(states[0].h, states[1].h)


def test_state_that_cannot_be_written_in_place():
    q, k, v, m = rows(torch.float64, grad=False, seq_q=1, seq_k=1)
    h = torch.zeros(2, 2, 17, 24, dtype=torch.float64).mT
    with pytest.raises(ValueError, match="state.h.*contiguous"):
        cottention.step(q, k, v, m, state=(h, torch.zeros(2, dtype=torch.int64)))


def test_gradients_are_refused():
    q, k, v, m = rows(torch.float64, seq_q=1, seq_k=1)
    state = cottention.State.zeros(2, 2, 24, 17, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="no gradients.*return_state"):
        cottention.step(q, k, v, m, state=state)
    with torch.no_grad():
        cottention.step(q, k, v, m, state=state)


def test_slot_outside_the_pool_writes_nothing():
    q, k, v, m = rows(torch.float64, grad=False, seq_q=1, seq_k=1)
    state = cottention.State.zeros(2, 2, 24, 17, dtype=torch.float64)
    for slot in ([0, 2], [1, 1]):
        with pytest.raises(ValueError, match="slot"):
            cottention.step(q, k, v, m, state=state, slot=torch.tensor(slot, dtype=torch.int32))
    assert not state.h.any() and not state.count.any()


def test_rows_of_idle_lanes_are_zero():
    q, k, v, m = (x.detach() for x in rows(torch.float32, seq_q=1, seq_k=1))
    state = cottention.State.zeros(3, k.shape[1], k.shape[-1], v.shape[-1])
    for _ in range(2):
        torch.full(v.shape, torch.nan)  # freed at once: memory that o may get
        o = cottention.step(q, k, v, m, state=state, slot=torch.tensor([2, -1], dtype=torch.int32))
        assert o[0].abs().max() > 0 and (o[1] == 0).all()
    with pytest.raises(ValueError, match="state.h.shape = .*must have a slot for each sequence of the batch, 2"):
        cottention.step(q, k, v, m, state=cottention.State.zeros(1, k.shape[1], k.shape[-1], v.shape[-1]))
