"""Checkpoints of the authors' repository, Cottention_Transformer, for this package: docs/python.md.

Theirs are models of transformers, BERT and GPT-J, whose attention modules have one parameter more, `norm_const` of shape
[1, heads, 1, 1]. convert() maps the parameters of a model, load() makes the model, attention_layer() takes one layer of it.
"""
import json
import pathlib
import re

import torch

from .modules import CosineAttention, DecodingState

# What an attention layer has, in their names and in those of CosineAttention, below the prefix of the layer.
LAYERS = {
    "BERT": {"self.query": "q_proj", "self.key": "k_proj", "self.value": "v_proj", "output.dense": "out_proj", "self.norm_const": "norm_const"},
    "GPT-J": {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "out_proj", "norm_const": "norm_const"},
}
# Constants that some versions of transformers save.
BUFFERS = re.compile(r"\.attn\.(bias|masked_bias)$|\.position_ids$|\.embed_positions$")


def read(folder):
    """The parameters in a folder that save_pretrained() wrote, in one file or several, as they are named there."""
    folder = pathlib.Path(folder)
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.is_file() else [name]
        if (folder / files[0]).is_file():
            return {key: x for file in files for key, x in _read_file(folder / file).items()}
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def _read_file(path):
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def convert(state_dict):
    """The parameters of one of their models, under the names and in the shapes that transformers' class has when
    huggingface.prepare() has had it."""
    out = {}
    for key, x in state_dict.items():
        key = key.removeprefix("module.")
        if not BUFFERS.search(key):
            out[key] = x.reshape(-1) if key.endswith("norm_const") else x
    return out


def load(cls, folder, scale="by_key", **kwargs):
    """Their model in `folder`, as a model of transformers of class `cls` (BertForPreTraining, GPTJForCausalLM, or others that
    transformers can make of these) with this library's attention. save_pretrained() saves it in this package's form, which
    huggingface.from_pretrained() loads.

    scale   by_key; none for the BERT models of before `norm_const`
    kwargs  are those of from_pretrained(): dtype, device_map
    """
    from . import huggingface
    state_dict = convert(read(folder))
    if scale != "none" and not any(key.endswith("norm_const") for key in state_dict):
        raise ValueError(f"{folder} has no norm_const. Remedy: scale='none', if it is of cosine attention; softmax's goes by "
                         "huggingface.from_pretrained()")
    config = cls.config_class.from_pretrained(folder)
    config.cottention_scale = scale
    return huggingface.from_pretrained(cls, None, config=config, state_dict=state_dict, **kwargs)


def attention_layer(state_dict, prefix, causal, without_rotation=False):
    """One attention layer of their model as a CosineAttention.

    prefix            of the layer: "bert.encoder.layer.0.attention." or "transformer.h.0.attn."
    causal            whether the model was a decoder
    without_rotation  their GPT-J rotates q and k by position, which CosineAttention does not: true leaves it to the caller to
                      want the layer so. load() gives a model that rotates
    """
    layer = {key.removeprefix(prefix): x for key, x in convert(state_dict).items() if key.startswith(prefix)}
    kind = next((kind for kind, names in LAYERS.items() if any(f"{name}.weight" in layer for name in names)), None)
    if kind is None:
        raise ValueError(f"prefix = {prefix!r}: no layer of attention begins so")
    if kind == "GPT-J" and not without_rotation:
        raise ValueError("their GPT-J rotates q and k by position. Remedy: load(), or without_rotation=True")
    found = {}
    for theirs, ours in LAYERS[kind].items():
        for end in ("", ".weight", ".bias"):
            if theirs + end in layer:
                found[ours + end] = layer[theirs + end]
    weight, norm_const = found["q_proj.weight"], found["norm_const"]
    module = CosineAttention(weight.shape[1], norm_const.numel(), head_dim=weight.shape[0] // norm_const.numel(), causal=causal,
                             bias="q_proj.bias" in found, device=weight.device, dtype=weight.dtype)
    module.load_state_dict(found)
    return module


def decoding_state(past_kv, cur_s, dtype=torch.float32):
    """Their recurrent state: `past_KV` [batch, heads, dim_v, dim_qk], float64, and `cur_s`, the position of the next token from 1
    on, as a DecodingState for rows of `dtype`."""
    h = past_kv.transpose(-1, -2).to(torch.float64 if dtype == torch.float64 else torch.float32).contiguous()
    return DecodingState(h, torch.full((h.shape[0],), cur_s - 1, dtype=torch.int64, device=h.device))
