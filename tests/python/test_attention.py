"""attention() against the definition: every option, every element type, within the library's bounds."""
import cottention
import pytest
import torch

import definition
from definition import BOUNDS, error

DTYPES = list(BOUNDS)
KINDS = [(causal, scale) for causal in (True, False) for scale in ("none", "by_key", "by_query")]


def rows(dtype, batch=2, heads=4, kv_heads=2, seq_q=50, seq_k=50, dim_qk=24, dim_v=17, grad=True):
    """q, k, v and m, uneven on purpose."""
    def tensor(*shape):
        return torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_(grad)
    m = torch.linspace(-1, 1.5, kv_heads, dtype=torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_(grad)
    return tensor(batch, heads, seq_q, dim_qk), tensor(batch, kv_heads, seq_k, dim_qk), tensor(batch, kv_heads, seq_k, dim_v), m


def padding(kind, batch, seq):
    mask = torch.ones(batch, seq, dtype=torch.bool)
    for b in range(batch):
        n = 3 + 7 * b
        if kind == "left":
            mask[b, :n] = False
        elif kind == "right":
            mask[b, seq - n:] = False
        elif kind == "middle":
            mask[b, n:2 * n] = False
        elif kind == "all":
            mask[b] = b == 0
    return mask


def compare(dtype, tensors, names, **options):
    """o, the state and all gradients, against autograd through the definition in fp64."""
    bounds = BOUNDS[dtype]
    q, k, v, m = tensors
    state = options.pop("initial_state", None)
    o, final = cottention.attention(q, k, v, m, initial_state=state, return_state=True, **options)
    exact_state = None if state is None else (*definition.doubles(state[0]), state[1])
    exact = definition.doubles(q, k, v)
    terms = definition.terms_of(m, k)
    exact_o, exact_final = definition.attention(*exact, terms, initial_state=exact_state, **options)
    assert o.dtype == dtype and o.shape == exact_o.shape
    assert error(o, exact_o) <= bounds[0]
    assert error(final.h, exact_final[0]) <= bounds[1]
    assert torch.equal(final.count, exact_final[1])
    do, dh = torch.randn_like(exact_o).to(dtype), torch.randn_like(exact_final[0]).to(final.h.dtype)
    inputs, exact_inputs = [*tensors], [*exact, terms]
    if state is not None:
        inputs.append(state[0])
        exact_inputs.append(exact_state[0])
    weighs = options.get("scale", "by_key") != "none"
    torch.autograd.backward((o, final.h), (do, dh))
    torch.autograd.backward((exact_o, exact_final[0]), (do.double(), dh.double()))
    for name, x, y in zip(names, inputs, exact_inputs):
        if name == "m" and not weighs:
            assert x.grad is None
            continue
        assert x.grad.dtype == x.dtype
        if name == "m":
            # Terms of either sign may cancel, so it is measured against the root of their squares where that is larger.
            dm = y.grad.sum((0, 2))
            size = torch.maximum(dm.abs(), y.grad.square().sum((0, 2)).sqrt())
            assert ((x.grad.double() - dm).abs() <= bounds[2] * size).all()
        else:
            assert error(x.grad, y.grad) <= bounds[2], name


@pytest.mark.parametrize("causal, scale", KINDS)
@pytest.mark.parametrize("kind", ["none", "left", "right", "middle", "all"])
def test_padding_in_fp64(causal, scale, kind):
    tensors = rows(torch.float64)
    mask = None if kind == "none" else padding(kind, 2, 50)
    compare(torch.float64, tensors, "qkvm", causal=causal, scale=scale, query_mask=mask, key_mask=mask)


@pytest.mark.parametrize("dtype, causal", [(dtype, True) for dtype in DTYPES] + [(torch.float32, False)])
def test_every_element_type(dtype, causal):
    h = torch.randn(2, 2, 24, 17, dtype=torch.float64 if dtype == torch.float64 else torch.float32, requires_grad=True)
    compare(dtype, rows(dtype, seq_q=130, seq_k=130), ["q", "k", "v", "m", "h"], causal=causal,
            initial_state=cottention.State(h, torch.tensor([5, 0])), key_mask=padding("left", 2, 130))


def test_queries_and_keys_of_other_lengths():
    compare(torch.float64, rows(torch.float64, seq_q=20, seq_k=70), "qkvm", causal=False, key_mask=padding("right", 2, 70))


@pytest.mark.parametrize("offsets_dtype", [torch.int32, torch.int64])
def test_packed_sequences(offsets_dtype):
    offsets = [0, 5, 5, 40, 57]
    q, k, v, m = (x.detach().squeeze(0) for x in rows(torch.float64, batch=1, seq_q=60, seq_k=60))
    o, state = cottention.attention(q, k, v, m, causal=True, cu_seqlens_q=torch.tensor(offsets, dtype=offsets_dtype), return_state=True)
    assert state.count.tolist() == [5, 0, 35, 17]
    for b, (begin, end) in enumerate(zip(offsets, offsets[1:])):
        alone, (h, _) = definition.attention(*(x[None, :, begin:end] for x in (q, k, v)), m, causal=True)
        assert error(o[None, :, begin:end], alone) <= 1e-14
        assert error(state.h[b], h[0]) <= 1e-14
    assert not o[:, 57:].any()
    token_major, _ = cottention.attention(*(x.transpose(0, 1) for x in (q, k, v)), m, causal=True, layout="bshd", return_state=True,
                                          cu_seqlens_q=torch.tensor(offsets, dtype=offsets_dtype))
    assert torch.equal(token_major.transpose(0, 1), o)


def test_other_offsets_for_keys():
    q, k, v, m = (x.detach().squeeze(0) for x in rows(torch.float64, batch=1, seq_q=30, seq_k=60))
    queries, keys = torch.tensor([0, 10, 30]), torch.tensor([0, 45, 60])
    o = cottention.attention(q, k, v, m, causal=False, cu_seqlens_q=queries, cu_seqlens_k=keys)
    for b in range(2):
        a, c = slice(queries[b], queries[b + 1]), slice(keys[b], keys[b + 1])
        alone, _ = definition.attention(q[None, :, a], k[None, :, c], v[None, :, c], m, causal=False)
        assert error(o[None, :, a], alone) <= 1e-14


def test_layouts_and_strides_give_the_same_bits():
    q, k, v, m = (x.detach() for x in rows(torch.float32))
    expected = cottention.attention(q, k, v, m, causal=True)
    seq_major = [x.transpose(1, 2).contiguous() for x in (q, k, v)]
    assert torch.equal(cottention.attention(*seq_major, m, causal=True, layout="bshd").transpose(1, 2), expected)
    views = [x.transpose(1, 2) for x in seq_major]
    o = cottention.attention(*views, m, causal=True)
    assert torch.equal(o, expected) and o.stride() != expected.stride()  # o lies in memory as q does
    joint = torch.cat([q, torch.ones_like(q)], -1)[..., :24]  # rows with gaps
    assert torch.equal(cottention.attention(joint, k, v, m, causal=True), expected)
    columns = q.mT.contiguous().mT  # elements of a row are apart: a copy is made
    assert torch.equal(cottention.attention(columns, k, v, m, causal=True), expected)


def test_expanded_heads_have_gradients_of_their_own():
    q, k, v, m = rows(torch.float64, kv_heads=1)
    o = cottention.attention(q, k.expand(2, 4, 50, 24), v.expand(2, 4, 50, 17), m.expand(4), causal=True)
    grouped = cottention.attention(q, k, v, m, causal=True)
    do = torch.randn_like(o)
    expanded = torch.autograd.grad(o, (q, k, v, m), do)
    for x, y in zip(expanded, torch.autograd.grad(grouped, (q, k, v, m), do)):
        assert error(x, y) <= 1e-13
    assert error(o, grouped) <= 1e-14


@pytest.mark.parametrize("batch, seq", [(0, 5), (2, 0)])
def test_nothing_to_do(batch, seq):
    q, k, v, m = rows(torch.float32, batch=batch, seq_q=seq, seq_k=seq)
    o, state = cottention.attention(q, k, v, m, causal=True, return_state=True)
    assert o.shape == (batch, 4, seq, 17) and not state.h.any()
    (o.sum() + state.h.sum()).backward()
    assert all(x.grad.shape == x.shape and not x.grad.any() for x in (q, k, v, m))


def test_gradients_of_what_is_wanted_alone():
    q, k, v, m = rows(torch.float64)
    do = torch.randn(2, 4, 50, 17, dtype=torch.float64)
    whole = torch.autograd.grad(cottention.attention(q, k, v, m, causal=True), (q, k, v, m), do)
    for i, name in enumerate("qkvm"):
        inputs = [x if j == i else x.detach() for j, x in enumerate((q, k, v, m))]
        gradient, = torch.autograd.grad(cottention.attention(*inputs, causal=True), inputs[i], do)
        assert error(gradient, whole[i]) <= 1e-13, name


def test_gradient_through_the_state_alone():
    q, k, v, m = rows(torch.float64)
    _, state = cottention.attention(q, k, v, m, causal=True, return_state=True)
    dk, = torch.autograd.grad(state.h.sum(), k, retain_graph=True)
    exact = definition.doubles(q, k, v, m)
    _, (h, _) = definition.attention(*exact, causal=True)
    assert error(dk, torch.autograd.grad(h.sum(), exact[1])[0]) <= 1e-13
    dq, = torch.autograd.grad(state.h.sum(), q)
    assert not dq.any()


def test_gradient_that_is_one_number_in_memory():
    q, k, v, m = rows(torch.float64)
    dq, = torch.autograd.grad(cottention.attention(q, k, v, m, causal=True).sum(), q)
    exact = definition.doubles(q, k, v, m)
    assert error(dq, torch.autograd.grad(definition.attention(*exact, causal=True)[0].sum(), exact[0])[0]) <= 1e-13


def test_batch_invariant_bits():
    q, k, v, m = (x.detach() for x in rows(torch.float32, batch=3))
    whole = cottention.attention(q, k, v, m, causal=True, batch_invariant=True)
    for b in range(3):
        alone = cottention.attention(q[b:b + 1], k[b:b + 1], v[b:b + 1], m, causal=True, batch_invariant=True)
        assert torch.equal(alone, whole[b:b + 1])


def test_tensors_whose_sign_is_a_bit_aside():
    q, k, v, m = (x.detach() for x in rows(torch.float64))
    h = torch.randn(2, 2, 24, 17, dtype=torch.float64)
    state = cottention.State(torch._neg_view(h), torch.tensor([3, 0]))
    o = cottention.attention(*(torch._neg_view(x) for x in (q, k, v, m)), causal=True, initial_state=state)
    expected = cottention.attention(-q, -k, -v, -m, causal=True, initial_state=cottention.State(-h, state.count))
    assert torch.equal(o, expected)
