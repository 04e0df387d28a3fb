"""Models of transformers with attn_implementation="cottention": against the authors' formulas, with padding, caches and folders."""
import pickle
import warnings

import authors
import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers is not installed")
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, DynamicCache, EncoderDecoderCache, GPT2Config, LlamaConfig  # noqa: E402

import cottention.huggingface as hf  # noqa: E402

NEAR = {"rtol": 1e-4, "atol": 1e-5}
SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "max_position_embeddings": 40, "initializer_range": 0.3}
CONFIGS = {
    "gpt2": lambda **more: GPT2Config(vocab_size=60, n_positions=40, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3, bos_token_id=0,
                                      eos_token_id=0, **more),
    "llama": lambda **more: LlamaConfig(num_key_value_heads=2, bos_token_id=0, eos_token_id=0, **SMALL, **more),
    "bert": lambda **more: BertConfig(**{**SMALL, **more}),
}


def model_of(kind, auto=None, attn_implementation="cottention", **more):
    """A model in eval() with weights that tell tokens apart, and a norm_const of its own for each head."""
    torch.manual_seed(3)
    auto = auto or (AutoModel if kind == "bert" else AutoModelForCausalLM)
    model = hf.prepare(auto.from_config(CONFIGS[kind](**more), attn_implementation=attn_implementation)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm_const"):
                p.uniform_(-2, 1)
    return model


def tokens(batch=2, seq=9):
    return torch.randint(1, 60, (batch, seq), generator=torch.Generator().manual_seed(4))


def formulas(module, query, key, value, attention_mask, **kwargs):
    """The authors' formulas as an attention function of transformers, without padding."""
    times = query.shape[1] // key.shape[1]
    out = authors.attention(query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1),
                            module.norm_const.repeat_interleave(times), causal=module.is_causal)
    return out.transpose(1, 2), None


transformers.AttentionInterface.register("authors_formulas", formulas)


@pytest.mark.parametrize("kind", CONFIGS)
def test_agrees_with_the_authors_formulas(kind):
    model, exact = model_of(kind), model_of(kind)
    exact.double().set_attn_implementation("authors_formulas")
    out, wanted = model(tokens())[0], exact(tokens())[0]
    torch.testing.assert_close(out.double(), wanted, **NEAR)
    weights = torch.randn_like(out)
    (out * weights).sum().backward()
    (wanted * weights).sum().backward()
    found = 0
    for (name, p), reference in zip(model.named_parameters(), exact.parameters()):
        if name.endswith("norm_const"):
            found += 1
            assert p.shape == (2 if kind == "llama" else 4,)
            torch.testing.assert_close(p.grad.double(), reference.grad, rtol=2e-4, atol=2e-4)
    assert found == 2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_padding_changes_nothing(kind, side):
    model, ids = model_of(kind), tokens()
    place = slice(4, None) if side == "left" else slice(None, 5)
    mask = torch.zeros_like(ids)
    mask[0, place] = mask[1] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    out = model(ids, attention_mask=mask, position_ids=positions)[0]
    torch.testing.assert_close(out[0, place], model(ids[:1, place])[0][0], **NEAR)
    torch.testing.assert_close(out[1], model(ids[1:])[0][0], **NEAR)


def generated(model, cache=None, **options):
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        return model.generate(ids, attention_mask=mask, cache=cache, max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None,
                              return_dict_in_generate=True, output_logits=True, **options)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_generates_the_same_with_every_cache(kind):
    model, cache = model_of(kind), hf.StateCache()
    without, stock, states = generated(model, use_cache=False), generated(model), generated(model, cache)
    assert len(set(without.sequences[0, 9:].tolist())) > 2  # the tokens do differ
    for found in (stock, states):
        assert torch.equal(found.sequences, without.sequences)
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(without.logits), **NEAR)
    assert isinstance(stock.cache, DynamicCache) and states.cache is cache
    assert cache.get_seq_length() == 18 and cache.layers[1].state.count.tolist() == [14, 18]
    heads = 2 if kind == "llama" else 4
    assert all(layer.keys is None and layer.state.h.shape == (2, heads, 8, 8) for layer in cache.layers)


def test_beam_search_with_states():
    model = model_of("gpt2")
    options = {"num_beams": 4, "num_return_sequences": 2}
    assert torch.equal(generated(model, hf.StateCache(), **options).sequences, generated(model, **options).sequences)


def test_states_take_the_prompt_in_pieces_and_begin_anew():
    model, ids, cache = model_of("gpt2"), tokens(2, 30), hf.StateCache()
    holes = torch.ones_like(ids)
    holes[0, 23] = holes[1, 25] = 0
    for grad, mask in ((True, None), (False, None), (False, holes)):
        with torch.set_grad_enabled(grad):
            ends = [0, 3, 23, 24, 30]
            pieces = [model(ids[:, begin:end], attention_mask=None if mask is None else mask[:, :end], cache=cache).logits
                      for begin, end in zip(ends, ends[1:])]
        there = holes.bool()
        torch.testing.assert_close(torch.cat(pieces, 1)[there], model(ids, attention_mask=mask, use_cache=False).logits[there], **NEAR)
        cache.reset()
        assert cache.get_seq_length() == 0
    with torch.no_grad():
        model(ids, cache=cache)
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([2, 1]))
        again = model(ids[[1, 0], -1:], cache=cache).logits
        torch.testing.assert_close(again, model(torch.cat([ids, ids[:, -1:]], 1)[[1, 0]]).logits[:, -1:], **NEAR)
    with pytest.raises(NotImplementedError, match="cannot forget"):
        cache.crop(-1)


def test_states_count_padding_where_that_is_asked_for():
    layer = hf.StateLayer(count_padding=True)
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(5)).unbind()
    m = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :3] = False
    out = layer.attend(q, k, v, m, "by_key", mask)
    wanted, past_kv, cur_s = authors.recurrent(q.double(), k.double(), v.double(), m.double(), mask, torch.zeros(()), 1)
    torch.testing.assert_close(out.double(), wanted, **NEAR)
    torch.testing.assert_close(layer.state.h.double().mT, past_kv, **NEAR)
    assert layer.state.count.tolist() == [cur_s - 1] * 2


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_saved_and_loaded_with_norm_const(kind, tmp_path):
    model = model_of(kind)
    model.save_pretrained(tmp_path)
    for cls in (type(model), AutoModel if kind == "bert" else AutoModelForCausalLM):
        again, info = hf.from_pretrained(cls, tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert type(again) is type(model) and again.config.architectures == [type(model).__name__]
        assert torch.equal(again.eval()(tokens())[0], model(tokens())[0])
    assert torch.equal(pickle.loads(pickle.dumps(again))(tokens())[0], model(tokens())[0])
    again.save_pretrained(tmp_path / "again")
    assert torch.equal(hf.from_pretrained(type(model), tmp_path / "again").eval()(tokens())[0], model(tokens())[0])


def test_softmax_checkpoint_begins_with_a_half(tmp_path):
    torch.manual_seed(3)
    stock = AutoModelForCausalLM.from_config(CONFIGS["gpt2"]())
    stock.save_pretrained(tmp_path)
    model = hf.from_pretrained(AutoModelForCausalLM, tmp_path)
    assert [p.tolist() for name, p in model.named_parameters() if name.endswith("norm_const")] == [[0.5] * 4] * 2
    assert torch.equal(model.transformer.h[1].attn.c_attn.weight, stock.transformer.h[1].attn.c_attn.weight)


def test_scale_is_saved_with_the_configuration(tmp_path):
    hf.prepare(AutoModel.from_config(CONFIGS["bert"]()), scale="none").save_pretrained(tmp_path)
    model = hf.from_pretrained(AutoModel, tmp_path)
    assert model.config.cottention_scale == "none" and not any("norm_const" in name for name in model.state_dict())


def test_cross_attention_with_padding():
    model = model_of("bert", is_decoder=True, add_cross_attention=True)
    context, mask = torch.randn(1, 7, 32), torch.ones(1, 7)
    mask[:, 5:] = 0
    out = model(tokens(1), encoder_hidden_states=context, encoder_attention_mask=mask)[0]
    torch.testing.assert_close(out, model(tokens(1), encoder_hidden_states=context[:, :5])[0], **NEAR)
    cache = EncoderDecoderCache(hf.StateCache(), DynamicCache())
    pieces = [model(ids, encoder_hidden_states=context[:, :5], cache=cache)[0] for ids in tokens(1).split([4, 5], 1)]
    torch.testing.assert_close(torch.cat(pieces, 1), out, **NEAR)


def test_decoder_that_sees_everything():
    model, ids = model_of("gpt2", is_causal=False), tokens()
    assert (model(ids).logits - model_of("gpt2")(ids).logits)[:, 0].abs().max() > 1e-3
    changed = ids.clone()
    changed[:, -1] = 1 + ids[:, -1] % 59
    assert (model(ids).logits - model(changed).logits)[:, 0].abs().max() > 1e-3


def test_training_step_and_dropout():
    model, ids = model_of("gpt2").train(), tokens()
    hf._say_dropout.cache_clear()
    with pytest.warns(UserWarning, match="attention dropout of 0.1 has no effect"):
        model(ids, labels=ids)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(ids, labels=ids).loss.backward()  # said once
    assert all(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name.endswith("norm_const"))


def test_compiles_as_one_graph():
    model, ids = model_of("bert", num_hidden_layers=1), tokens()
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(ids, attention_mask=mask)[0], model(ids, attention_mask=mask)[0], **NEAR)


def test_refused():
    model, ids = model_of("gpt2"), tokens()
    with pytest.raises(NotImplementedError, match="attention_mask.shape = \\(2, 1, 9, 9\\)"):
        model(ids, attention_mask=torch.ones(2, 1, 9, 9))
    with pytest.raises(NotImplementedError, match="packed sequences"):
        model(ids, position_ids=torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4, 5]]), use_cache=False)
    with pytest.raises(NotImplementedError, match="no static caches"):
        generated(model, cache_implementation="static")
    with pytest.raises(NotImplementedError, match="does not have softcap"):
        hf.attention_forward(model.transformer.h[0].attn, *torch.ones(3, 1, 4, 2, 8), None, softcap=30.0)
    with pytest.raises(RuntimeError, match="GPT2Attention has no norm_const. Remedy: cottention.huggingface.prepare"):
        AutoModelForCausalLM.from_config(CONFIGS["gpt2"](), attn_implementation="cottention")(ids)
    with pytest.raises(ValueError, match="scale = 'keys'"):
        hf.prepare(AutoModelForCausalLM.from_config(CONFIGS["gpt2"]()), scale="keys")


def test_another_model_of_the_same_configuration_keeps_softmax():
    config = CONFIGS["gpt2"]()
    base, built = AutoModelForCausalLM.from_config(config).eval(), AutoModelForCausalLM.from_config(config)
    wanted = base(tokens())[0]
    prepared = hf.prepare(built, scale="by_query")
    assert torch.equal(base(tokens())[0], wanted)
    assert not hasattr(config, "cottention_scale") and prepared.config.cottention_scale == "by_query"
    assert all(module.config is prepared.config for module in hf._attention_modules(prepared))
    with pytest.raises(TypeError, match="must be a model of transformers"):
        hf.prepare(config)


def test_scale_of_a_softmax_checkpoint(tmp_path):
    AutoModelForCausalLM.from_config(CONFIGS["gpt2"]()).save_pretrained(tmp_path)
    model = hf.from_pretrained(AutoModelForCausalLM, tmp_path, scale="by_query")
    assert model.config.cottention_scale == "by_query" and (model.transformer.h[0].attn.norm_const == 0.5).all()
    with pytest.raises(ValueError, match="attn_implementation must be 'cottention'"):
        hf.from_pretrained(AutoModelForCausalLM, tmp_path, attn_implementation="sdpa")


@pytest.mark.parametrize("scale", [None, "by_query"])
@pytest.mark.parametrize("cls", [AutoModelForCausalLM, transformers.GPT2LMHeadModel])
def test_a_folder_of_a_folder(cls, scale, tmp_path):
    model = model_of("gpt2")
    model.save_pretrained(tmp_path / "inner")
    loaded = hf.from_pretrained(cls, tmp_path, scale=scale, subfolder="inner")
    assert torch.equal(loaded.transformer.h[1].attn.norm_const, model.transformer.h[1].attn.norm_const)
    assert loaded.config.cottention_scale == (scale or "by_key")
