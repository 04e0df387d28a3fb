"""NumPy arrays in, NumPy arrays out."""
import cottention
import numpy
import pytest
import torch

from test_attention import rows


def arrays(dtype=torch.float64, **extents):
    return [x.numpy() for x in rows(dtype, grad=False, **extents)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_arrays_as_tensors(dtype):
    q, k, v, m = arrays(dtype)
    o = cottention.attention(q, k, v, m, causal=True)
    assert isinstance(o, numpy.ndarray) and o.dtype == q.dtype
    assert (o == cottention.attention(*map(torch.from_numpy, (q, k, v, m)), causal=True).numpy()).all()


def test_negative_strides_and_masks():
    q, k, v, m = arrays()
    mask = numpy.arange(100).reshape(2, 50) % 7 != 0
    reversed_rows = [x[:, :, ::-1] for x in (q, k, v)]
    o = cottention.attention(*reversed_rows, m, causal=True, key_mask=mask[:, ::-1])
    copies = [numpy.ascontiguousarray(x) for x in reversed_rows]
    assert (o == cottention.attention(*copies, m, causal=True, key_mask=numpy.ascontiguousarray(mask[:, ::-1]))).all()


def test_states():
    q, k, v, m = arrays()
    whole, final = cottention.attention(q, k, v, m, causal=True, return_state=True)
    _, state = cottention.attention(q[:, :, :49], k[:, :, :49], v[:, :, :49], m, causal=True, return_state=True)
    o = cottention.step(q[:, :, 49:], k[:, :, 49:], v[:, :, 49:], m, state=state)
    assert isinstance(state.h, numpy.ndarray) and state.count.tolist() == [50, 50]
    assert numpy.abs(o - whole[:, :, 49:]).max() < 1e-14 and numpy.abs(state.h - final.h).max() < 1e-14
    assert (cottention.attention(q, k, v, m, causal=True, initial_state=final) != whole).any()


@pytest.mark.parametrize("spoil", [lambda h: h[::-1], lambda h: h.setflags(write=False) or h])
def test_states_that_cannot_be_written(spoil):
    q, k, v, m = arrays(seq_q=1, seq_k=1)
    state = cottention.State(spoil(numpy.zeros((2, 2, 24, 17))), numpy.zeros(2, dtype=numpy.int64))
    with pytest.raises(ValueError, match="state.flags = writeable: .*must be both"):
        cottention.step(q, k, v, m, state=state)
    assert not state.count.any()


def test_arrays_that_may_not_be_written():
    q, k, v, m = arrays()
    expected = cottention.attention(q, k, v, m, causal=True)
    for x in (q, k, v, m):
        x.setflags(write=False)
    assert (cottention.attention(q, k, v, m, causal=True) == expected).all()
