"""Cosine attention for the models of Hugging Face's transformers: docs/python.md.

Importing this registers attn_implementation="cottention". A model needs `norm_const` besides, a parameter of every attention
module: prepare() adds it to a model that there is, from_pretrained() loads it with the others.

    model = prepare(AutoModelForCausalLM.from_config(config))
    model.save_pretrained(folder)
    model = from_pretrained(AutoModelForCausalLM, folder)
    model.generate(**prompts, cache=StateCache())

What differs from the softmax of transformers:
    - no scaling by 1 / sqrt(head_dim), which cosines do not feel
    - no dropout of attention probabilities, there being none: what the configuration says of it has no effect (a warning says so).
      Other dropout works as ever
    - no attention weights: `attentions` of an output are None
    - masks are for padding, [batch, tokens]; sliding windows, packed sequences and masks of four dimensions are refused, and so are
      static caches, biases of position, soft caps and sinks
"""
import copy
import functools
import warnings

import torch
import transformers
from torch import nn
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface, bidirectional_mask_function, causal_mask_function

from .functional import SCALES, attention, step
from .modules import DecodingState, hide

NAME = "cottention"
UNSUPPORTED = ("softcap", "position_bias", "s_aux")
MOST_STEPS = 16  # as many new tokens are taken one by one; of more, the parallel form makes less work


def padding_mask(batch_size, q_length, kv_length, q_offset=0, kv_offset=0, mask_function=causal_mask_function, attention_mask=None, **_):
    """What attention modules get as attention_mask: [batch, kv_length], true at tokens, or None where all are tokens."""
    if mask_function not in (causal_mask_function, bidirectional_mask_function):
        raise NotImplementedError("attn_implementation='cottention' has causal and bidirectional attention, with padding: "
                                  "no sliding windows, packed sequences or masks of other patterns. torch.compile sees "
                                  "packed sequences where there is no attention_mask: give it one")
    if isinstance(q_offset, torch.Tensor):
        raise NotImplementedError("no static caches for attn_implementation='cottention'. Remedy: cache=cottention.huggingface.StateCache()")
    if attention_mask is None:
        return None
    mask = attention_mask[:, kv_offset:kv_offset + kv_length]
    if mask.shape[1] < kv_length:
        mask = nn.functional.pad(mask, (0, kv_length - mask.shape[1]))
    return None if not torch.compiler.is_compiling() and mask.all() else mask


@functools.cache
def _say_dropout(dropout):
    warnings.warn(f"attention dropout of {dropout} has no effect: cosine attention has no probabilities to drop")


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, **kwargs):
    """An attention function of transformers: [batch, heads, seq, dim] in, ([batch, seq, heads, dim], None) out."""
    for name in UNSUPPORTED:
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"attn_implementation='cottention' does not have {name}")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise NotImplementedError(f"attention_mask.shape = {tuple(attention_mask.shape)}: must be [batch, tokens]")
    if not hasattr(module, "norm_const"):
        raise RuntimeError(f"{type(module).__name__} has no norm_const. Remedy: cottention.huggingface.prepare(model); or, where "
                           "the model is to have softmax, a configuration of its own")
    if dropout > 0:
        _say_dropout(dropout)
    if is_causal is None:
        is_causal = module.is_causal
    scale = module.config.cottention_scale
    layer = getattr(key, "_state_layer", None)
    if layer is not None:
        out = layer.attend(query, key, value, module.norm_const, scale, attention_mask)
    elif is_causal:
        # Queries are the last tokens of a cache of keys; the library wants one for each key.
        earlier = key.shape[-2] - query.shape[-2]
        padded = nn.functional.pad(query, (0, 0, earlier, 0)) if earlier else query
        out = attention(padded, key, value, module.norm_const, causal=True, scale=scale, query_mask=attention_mask, key_mask=attention_mask)
        out = out[:, :, earlier:]
    else:
        out = attention(query, key, value, module.norm_const, causal=False, scale=scale, key_mask=attention_mask)
    return out.transpose(1, 2), None


class StateLayer(CacheLayerMixin):
    """What StateCache has for a layer of the model: `state`, a DecodingState or None, and the number of tokens seen."""

    supports_early_init = False

    def __init__(self, count_padding=False):
        super().__init__()
        self.count_padding = count_padding
        self.reset()

    def reset(self):
        self.state, self.seen = None, 0

    def lazy_initialization(self, key_states, value_states):
        pass

    def update(self, key_states, value_states, *args, **kwargs):
        # The attention function gets no cache, but the keys that this returns.
        keys = key_states.view_as(key_states)
        keys._state_layer = self
        self.seen += keys.shape[-2]
        return keys, value_states

    def attend(self, query, key, value, norm_const, scale, mask):
        """Rows of the new tokens, which the state takes up."""
        if self.state is not None and self.state.batch != key.shape[0]:
            raise ValueError(f"a batch of {key.shape[0]} for a StateCache of {self.state.batch} sequences. Remedy: a new StateCache, or reset()")
        if mask is None and self.state is not None and key.shape[-2] <= MOST_STEPS and not torch.is_grad_enabled():
            return step(query, key, value, norm_const, state=self.state, scale=scale)
        key_mask = mask
        if mask is not None and self.count_padding:
            key, value = hide(mask[:, None, :, None], key, value)
            key_mask = None
        out, state = attention(query, key, value, norm_const, causal=True, scale=scale, query_mask=mask, key_mask=key_mask,
                               initial_state=self.state, return_state=True)
        self.state = DecodingState(*state)
        return out

    def get_mask_sizes(self, query_length):
        return query_length, self.seen

    def get_seq_length(self):
        return self.seen

    def get_max_length(self):
        return -1

    def _select(self, rows):
        if self.state is not None:
            self.state = self.state.select(rows.to(self.state.h.device))

    def reorder_cache(self, beam_idx):
        self._select(beam_idx)

    def batch_select_indices(self, indices):
        self._select(indices)

    def batch_repeat_interleave(self, repeats):
        if self.state is not None:
            self._select(torch.arange(self.state.batch).repeat_interleave(repeats))

    def crop(self, tokens_to_remove):
        if tokens_to_remove != 0:
            raise NotImplementedError("a recurrent state cannot forget its last tokens")


class StateCache(Cache):
    """A cache for generate() and for forward() that is as large after a million tokens as after one: a recurrent state for each
    layer instead of keys and values. Beam search works; what takes tokens back (assisted generation) does not.

    count_padding  whether padding counts as the authors' recurrent inference counts it, docs/python.md
    """

    def __init__(self, count_padding=False):
        super().__init__(layer_class_to_replicate=functools.partial(StateLayer, count_padding))


def _attention_modules(model):
    found = [module for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool) and hasattr(module, "config")
             and not isinstance(module, transformers.PreTrainedModel)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no attention modules of the kind that attn_implementation is for")
    return found


def prepare(model, scale=None, norm_const=0.5):
    """Makes a model of transformers one of cosine attention, in place: attn_implementation, and in every attention module the
    parameter `norm_const`, of one number for each head of keys. Parameters of that name stay as they are. Returns the model.

    scale  by_key, by_query or none, which has no norm_const. None: what config.cottention_scale says, or else by_key. It is
           saved with the configuration

    The model gets a configuration of its own, so that other models made from the same one stay what they are.
    """
    if not isinstance(model, transformers.PreTrainedModel):
        raise TypeError(f"model is of type {type(model).__name__}: must be a model of transformers")
    copies = {}
    for module in model.modules():
        if isinstance(getattr(module, "config", None), transformers.PreTrainedConfig):
            module.config = copy.deepcopy(module.config, copies)
    return _prepare(model, scale, norm_const)


def _prepare(model, scale=None, norm_const=0.5):
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)
    for module in _attention_modules(model):
        config = module.config
        config.cottention_scale = scale or getattr(config, "cottention_scale", "by_key")
        if config.cottention_scale not in SCALES:
            raise ValueError(f"scale = {config.cottention_scale!r}: must be one of {', '.join(SCALES)}")
        if config.cottention_scale == "none":
            module.register_parameter("norm_const", None)
        elif getattr(module, "norm_const", None) is None:
            heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
            like = next(module.parameters())
            module.norm_const = nn.Parameter(torch.full((heads,), float(norm_const), dtype=like.dtype, device=like.device))
    return model


@functools.cache
def _prepared_class(cls):
    """A class of transformers that prepares its models as they are made, before parameters are loaded into them."""

    def __init__(self, config, *args, **kwargs):
        cls.__init__(self, config, *args, **kwargs)
        _prepare(self)

    return type(cls.__name__, (cls,), {"__init__": __init__, "__module__": cls.__module__, "__doc__": cls.__doc__})


# Of a model's files: what finds the configuration finds the parameters.
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def from_pretrained(cls, name, scale=None, **kwargs):
    """cls.from_pretrained(name, ...) for a model of cosine attention; `cls` is a class of models or one of transformers' Auto
    classes. A norm_const that the checkpoint does not have, as softmax's has none, begins at 0.5. `scale` as in prepare()."""
    if kwargs.pop("attn_implementation", NAME) != NAME:
        raise ValueError(f"attn_implementation must be {NAME!r}, which it is where it is left out")
    is_auto = hasattr(cls, "_model_mapping")
    if "config" not in kwargs and (is_auto or scale is not None):
        where = {key: kwargs.pop(key) for key in _WHERE if key in kwargs}
        config, kwargs = transformers.AutoConfig.from_pretrained(name, return_unused_kwargs=True, **where, **kwargs)
        kwargs |= {**where, "config": config}
    if scale is not None:
        kwargs["config"] = copy.deepcopy(kwargs["config"])
        kwargs["config"].cottention_scale = scale
    if is_auto:
        cls = cls._model_mapping[type(kwargs["config"])]
    wants_info = kwargs.pop("output_loading_info", False)
    model, info = _prepared_class(cls).from_pretrained(name, attn_implementation=NAME, output_loading_info=True, **kwargs)
    model.__class__ = cls  # which others can find by its name, to unpickle the model
    with torch.no_grad():
        for key in info["missing_keys"]:
            if key.endswith(".norm_const"):
                model.get_parameter(key).fill_(0.5)
    return (model, info) if wants_info else model


transformers.AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, padding_mask)
