"""Checkpoints in the authors' layout, made here: their parameters, and what their modules compute of them."""
import json

import authors
import pytest
import torch

from cottention import checkpoints

HEADS, LAYERS = 4, 2
NEAR = {"rtol": 1e-4, "atol": 1e-5}
SMALL = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 64,
         "max_position_embeddings": 40, "initializer_range": 0.3}
PREFIX = {"bert": "bert.encoder.layer.{}.attention.self.", "gptj": "transformer.h.{}.attn."}


def layers_of(kind, width=32):
    """The parameters of their attention modules: what a checkpoint has beside them does not matter here."""
    torch.manual_seed(6)
    out = {}
    for layer in range(LAYERS):
        prefix = PREFIX[kind].format(layer)
        if kind == "bert":
            places = [prefix + name for name in ("query", "key", "value")] + [prefix.replace("self.", "output.dense")]
        else:
            places = [prefix + name for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
        for place in places:
            out[place + ".weight"] = torch.randn(width, width) / 6
            if kind == "bert":
                out[place + ".bias"] = torch.randn(width) / 6
        out[prefix + "norm_const"] = torch.randn(1, HEADS, 1, 1)
    return out


def hidden(batch=2, seq=11):
    return torch.randn(batch, seq, 32, generator=torch.Generator().manual_seed(7))


def padded():
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, :3] = mask[1, 8:] = False
    return mask


def by_their_names(state_dict, prefix, names, x, mask, causal):
    """Their layer: projections by the names of the checkpoint, attention by their formulas, in float64."""
    def project(name, rows):
        bias = state_dict.get(f"{name}.bias")
        return torch.nn.functional.linear(rows, state_dict[f"{name}.weight"].double(), None if bias is None else bias.double())
    q, k, v = (project(prefix + name, x.double()).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in names[:3])
    key = next(key for key in state_dict if key.startswith(prefix) and key.endswith("norm_const"))
    out = authors.attention(q, k, v, state_dict[key].double(), mask, causal)
    return project(prefix + names[3], out.transpose(1, 2).flatten(-2))


@pytest.mark.parametrize("kind, prefix, names", [
    ("bert", "bert.encoder.layer.1.attention.", ("self.query", "self.key", "self.value", "output.dense")),
    ("gptj", "transformer.h.1.attn.", ("q_proj", "k_proj", "v_proj", "out_proj")),
])
def test_a_layer_computes_what_theirs_does(kind, prefix, names):
    state_dict, x, mask, causal = layers_of(kind), hidden(), padded(), kind == "gptj"
    layer = checkpoints.attention_layer(state_dict, prefix, causal=causal, without_rotation=True)
    assert layer.norm_const.shape == (HEADS,) and (layer.q_proj.bias is None) == causal
    torch.testing.assert_close(layer(x, mask=mask).double(), by_their_names(state_dict, prefix, names, x, mask, causal), **NEAR)


def test_their_recurrent_state_goes_on():
    layer = checkpoints.attention_layer(layers_of("gptj"), "transformer.h.0.attn.", causal=True, without_rotation=True)
    x, mask, exact = hidden(), padded(), layer.norm_const.detach().double()
    q, k, v = (p(x).detach().double().unflatten(-1, (HEADS, 8)).transpose(1, 2) for p in (layer.q_proj, layer.k_proj, layer.v_proj))
    rows, past_kv, cur_s = authors.recurrent(q, k, v, exact, mask, torch.zeros(1, HEADS, 8, 8, dtype=torch.float64), 1)
    out, state = layer(x, mask=mask, return_state=True, count_padding=True)
    torch.testing.assert_close(out, layer.out_proj(rows.float().transpose(1, 2).flatten(-2)), **NEAR)
    theirs = checkpoints.decoding_state(past_kv, cur_s)
    assert theirs.count.tolist() == state.count.tolist() == [11, 11] and theirs.h.dtype == torch.float32 and theirs.h.is_contiguous()
    torch.testing.assert_close(theirs.h, state.h, **NEAR)
    assert checkpoints.decoding_state(past_kv, cur_s, torch.float64).h.dtype == torch.float64
    torch.testing.assert_close(layer.step(x[:, :1], theirs), layer.step(x[:, :1], state.detach()), **NEAR)


def test_names_and_shapes_are_mapped():
    state_dict = {"module." + key: x for key, x in layers_of("gptj").items()}
    more = {"module.transformer.h.0.attn.bias": torch.ones(1, 1, 4, 4), "module.transformer.h.0.attn.masked_bias": torch.ones(()),
            "module.transformer.wte.weight": torch.ones(60, 32)}
    out = checkpoints.convert({**state_dict, **more})
    assert set(out) == {*layers_of("gptj"), "transformer.wte.weight"}
    assert torch.equal(out["transformer.h.1.attn.norm_const"], layers_of("gptj")["transformer.h.1.attn.norm_const"].flatten())


@pytest.mark.parametrize("text, call", [
    ("prefix = 'bert.': no layer", lambda: checkpoints.attention_layer(layers_of("bert"), "bert.", causal=False)),
    ("rotates q and k", lambda: checkpoints.attention_layer(layers_of("gptj"), "transformer.h.0.attn.", causal=True)),
])
def test_refused(text, call):
    with pytest.raises(ValueError, match=text):
        call()


def checkpoint_of(kind, folder, with_norm_const=True):
    """A folder as their trainer saves it: transformers' model with their norm_const, in pytorch_model.bin. Returns the model
    with the authors' formulas in its attention modules, in float64."""
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="transformers is not installed")
    import cottention.huggingface as hf
    torch.manual_seed(8)
    if kind == "bert":
        model = transformers.BertForPreTraining(transformers.BertConfig(**SMALL))
    else:
        model = transformers.GPTJForCausalLM(transformers.GPTJConfig(
            vocab_size=60, n_positions=40, n_embd=32, n_layer=LAYERS, n_head=HEADS, rotary_dim=8, attn_pdrop=0.0, tie_word_embeddings=False,
            initializer_range=0.3, bos_token_id=0, eos_token_id=0))
    state_dict = dict(model.state_dict())
    if with_norm_const:
        state_dict |= {key: x for key, x in layers_of(kind).items() if key.endswith("norm_const")}
    model.config.save_pretrained(folder)
    torch.save(state_dict, folder / "pytorch_model.bin")

    def formulas(module, query, key, value, attention_mask, **kwargs):
        out = authors.attention(query, key, value, module.their_norm_const, model.their_mask, module.is_causal)
        return out.transpose(1, 2), None

    transformers.AttentionInterface.register("authors_checkpoint", formulas)
    for module, name in zip(hf._attention_modules(model), (PREFIX[kind].format(layer) for layer in range(LAYERS))):
        module.their_norm_const = state_dict.get(name + "norm_const", torch.zeros(1, HEADS, 1, 1)).double()
    model.set_attn_implementation("authors_checkpoint")
    return model.double().eval()


@pytest.mark.parametrize("kind", ["bert", "gptj"])
def test_a_model_computes_what_theirs_does(kind, tmp_path):
    theirs = checkpoint_of(kind, tmp_path)
    model = checkpoints.load(type(theirs), tmp_path).eval()
    ids, theirs.their_mask = torch.randint(1, 60, (2, 11), generator=torch.Generator().manual_seed(9)), padded()
    out, wanted = model(ids, attention_mask=padded().long())[0], theirs(ids)[0]
    torch.testing.assert_close(out[padded()].double(), wanted[padded()], **NEAR)

    model.save_pretrained(tmp_path / "ours", max_shard_size="20KB")  # and in several files
    from cottention import huggingface
    again = huggingface.from_pretrained(type(theirs), tmp_path / "ours").eval()
    assert torch.equal(again(ids, attention_mask=padded().long())[0], out)
    files = json.loads((tmp_path / "ours" / "model.safetensors.index.json").read_text())["weight_map"]
    read, state_dict = checkpoints.read(tmp_path / "ours"), model.state_dict()
    assert len(set(files.values())) > 1 and set(read) == set(files)
    assert all(torch.equal(x, state_dict[key]) for key, x in read.items())


def test_a_checkpoint_of_before_norm_const(tmp_path):
    theirs = checkpoint_of("bert", tmp_path, with_norm_const=False)
    with pytest.raises(ValueError, match="has no norm_const. Remedy: scale='none'"):
        checkpoints.load(type(theirs), tmp_path)
    model = checkpoints.load(type(theirs), tmp_path, scale="none")
    assert model.config.cottention_scale == "none" and not any("norm_const" in key for key in model.state_dict())
    with pytest.raises(FileNotFoundError, match="neither model.safetensors nor pytorch_model.bin"):
        checkpoints.read(tmp_path / "nothing")
