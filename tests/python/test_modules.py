"""CosineAttention: against the authors' formulas, and one way of calling it against another."""
import copy

import authors
import cottention
import pytest
import torch

from cottention import CosineAttention

NEAR = {"rtol": 2e-5, "atol": 2e-6}


def made(causal=True, **options):
    torch.manual_seed(1)
    module = CosineAttention(32, 4, causal=causal, **options)
    with torch.no_grad():
        if module.norm_const is not None:
            module.norm_const.uniform_(-2, 1)
    return module


def tokens(batch=3, seq=13):
    return torch.randn(batch, seq, 32, generator=torch.Generator().manual_seed(2))


def padded(batch=3, seq=13):
    """Padding on the left, on the right and in the middle."""
    mask = torch.ones(batch, seq, dtype=torch.bool)
    mask[0, :4] = mask[1, 9:] = mask[2, 5:8] = False
    return mask


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("mask", [None, padded()], ids=["whole", "padded"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_agrees_with_the_authors_formulas(causal, mask, kv_heads):
    module, x = made(causal, num_kv_heads=kv_heads), tokens()
    exact = copy.deepcopy(module).double()
    out, wanted = module(x, mask=mask), authors.layer(exact, x.double(), mask, causal)
    torch.testing.assert_close(out.double(), wanted, **NEAR)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (wanted * weights).sum().backward()
    for (name, p), reference in zip(module.named_parameters(), exact.parameters()):
        torch.testing.assert_close(p.grad.double(), reference.grad, rtol=1e-4, atol=2e-5, msg=lambda text: f"{name}: {text}")


def test_norm_const_begins_at_a_half_for_each_head_of_keys():
    assert torch.equal(CosineAttention(32, 4, num_kv_heads=2).norm_const, torch.full((2,), 0.5))
    assert CosineAttention(32, 4, scale="none").norm_const is None
    assert "norm_const" in CosineAttention(32, 4).state_dict()


@pytest.mark.parametrize("at_once", [1, 4])
def test_prefill_and_decode_agree_with_one_pass(at_once):
    module, x, mask = made(num_kv_heads=2), tokens(), padded()
    mask[1] = True  # of the tokens that follow, all are there
    whole = module(x, mask=mask)
    rows, state = module(x[:, :9], mask=mask[:, :9], return_state=True)
    assert state.batch == 3 and state.count.tolist() == mask[:, :9].sum(1).tolist()
    pieces, state = [rows], state.detach()
    for piece in x[:, 9:].split(at_once, 1):
        pieces.append(module.step(piece, state))
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **NEAR)
    assert state.count.tolist() == mask.sum(1).tolist()


def test_decode_from_nothing_and_accept_a_part():
    module, x = made(), tokens()
    state = module.state(3)
    drafted = module.step(x[:, :6], state, accepted=torch.tensor([6, 2, 0], dtype=torch.int32))
    assert state.count.tolist() == [6, 2, 0]
    torch.testing.assert_close(drafted, module(x[:, :6]), **NEAR)
    slot = torch.tensor([1, -1], dtype=torch.int32)
    torch.testing.assert_close(module.step(x[1:, 2:3], state, slot=slot)[:1], module(x[1:2, :3])[:, 2:], **NEAR)
    assert state.count.tolist() == [6, 3, 0]


def test_gradients_pass_through_states():
    module, x = made(), tokens()
    module(x).square().sum().backward()
    wanted = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    first, state = module(x[:, :6], return_state=True)
    second = module(x[:, 6:], state=state)
    (first.square().sum() + second.square().sum()).backward()
    for p, reference in zip(module.parameters(), wanted):
        torch.testing.assert_close(p.grad, reference, rtol=1e-4, atol=1e-5)


def test_states_are_selected_reset_and_copied():
    module, x = made(), tokens()
    state = module(x, return_state=True)[1].detach()
    beams = state.select(torch.tensor([2, 2, 0]))
    assert torch.equal(beams.h[0], state.h[2]) and torch.equal(beams.h[2], state.h[0]) and beams.count.tolist() == [13] * 3
    first_h = state.h.clone()
    copy_of, on_meta = state.clone(), state.to("meta")
    module.step(x[:, :1], beams)
    assert torch.equal(state.h, copy_of.h) and on_meta.h.shape == state.h.shape and on_meta.count.device.type == "meta"
    assert state.reset(torch.tensor([False, True, False])) is state
    assert state.count.tolist() == [13, 0, 13] and state.h[1].abs().sum() == 0 and torch.equal(state.h[2], copy_of.h[2])
    assert state.reset().h.abs().sum() == 0 and state.count.sum() == 0
    assert torch.equal(copy_of.h, first_h) and copy_of.count.tolist() == [13] * 3
    assert not state.detach().h.requires_grad and type(state.select(torch.tensor([0]))) is type(state)


def test_packed_sequences_agree_with_each_alone():
    module, x = made(), tokens(1, 13)[0]
    out, state = module(x, cu_seqlens=torch.tensor([0, 5, 5, 13]), return_state=True)
    assert state.count.tolist() == [5, 0, 8]
    torch.testing.assert_close(out, torch.cat([module(x[None, :5]), module(x[None, 5:])], 1)[0], **NEAR)


def test_context_with_padding():
    module, x, context = made(causal=False), tokens(2, 5), tokens(2, 9)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    out = module(x, context, context_mask=mask)
    torch.testing.assert_close(out[1:], module(x[1:], context[1:, :6]), **NEAR)
    torch.testing.assert_close(out[:1], module(x[:1], context[:1]), **NEAR)


def test_count_padding_is_the_authors_recurrent_inference():
    module, x, mask = made(), tokens(), padded()
    exact = copy.deepcopy(module).double()
    q, k, v = (p(x.double()).unflatten(-1, (4, 8)).transpose(1, 2) for p in (exact.q_proj, exact.k_proj, exact.v_proj))
    rows, past_kv, cur_s = authors.recurrent(q, k, v, exact.norm_const, mask, torch.zeros(1, 4, 8, 8, dtype=torch.float64), 1)
    out, state = module(x, mask=mask, return_state=True, count_padding=True)
    torch.testing.assert_close(out.double(), exact.out_proj(rows.transpose(1, 2).flatten(-2)), **NEAR)
    torch.testing.assert_close(state.h.double().mT, past_kv, **NEAR)
    assert state.count.tolist() == [cur_s - 1] * 3
    assert (module(x, mask=mask) - out).abs().max() > 1e-3  # padding on the left does count


def test_nan_in_padding_reaches_nothing():
    module, x, mask = made(), tokens(), padded()
    hurt = x.masked_fill(~mask[..., None], float("nan"))
    assert torch.equal(module(hurt, mask=mask)[mask], module(x, mask=mask)[mask])


def test_saved_and_loaded():
    module, x = made(num_kv_heads=2), tokens()
    again = CosineAttention(32, 4, num_kv_heads=2)
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(x), module(x))


def test_dtype_and_device():
    module = CosineAttention(32, 4, dtype=torch.bfloat16, device="meta", bias=False)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16} and module.norm_const.device.type == "meta"
    state = module.state(2)
    assert state.h.dtype == torch.float32 and state.h.device.type == "meta"
    assert made().double().state(2).h.dtype == torch.float64


@pytest.mark.parametrize("text, call", [
    ("num_kv_heads = 3: must divide num_heads, 4", lambda: CosineAttention(32, 4, num_kv_heads=3)),
    ("scale = 'by_value': must be one of", lambda: CosineAttention(32, 4, scale="by_value")),
    ("context is for attention that is not causal", lambda: made()(tokens(), tokens())),
    ("step\\(\\) is for causal attention", lambda: made(causal=False).step(tokens(), made().state(3))),
])
def test_refused(text, call):
    with pytest.raises(ValueError, match=text):
        call()


def test_options_that_fit_nothing():
    for arguments, text in (((64, 0), "num_heads = 0"), ((65, 4), "embed_dim = 65: must be a multiple of num_heads, 4")):
        with pytest.raises(ValueError, match=text):
            CosineAttention(*arguments)
    with pytest.raises(ValueError, match="context_mask is for a context"):
        CosineAttention(8, 2, causal=False)(torch.randn(1, 3, 8), context_mask=torch.ones(1, 3, dtype=torch.bool))


def test_states_are_saved_and_loaded(tmp_path):
    layer = made()
    _, state = layer(tokens(), return_state=True)
    for kept in (state.detach(), cottention.State(*state.detach())):
        torch.save(kept, tmp_path / "state.pt")
        loaded = torch.load(tmp_path / "state.pt")
        assert type(loaded) is type(kept) and all(torch.equal(a, b) for a, b in zip(loaded, kept))


def test_parameters_of_a_module_without_memory_are_set():
    layer = CosineAttention(32, 4, device="meta", norm_const=0.25).to_empty(device="cpu")
    for module in layer.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert (layer.norm_const == 0.25).all() and layer(torch.randn(1, 3, 32)).isfinite().all()
    CosineAttention(32, 4, scale="none").reset_parameters()
