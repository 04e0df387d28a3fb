"""Bad arguments: an exception that names the argument, its value and the rule, before anything is computed or compiled."""
import re

import cottention
import numpy
import pytest
import torch

from test_attention import rows


def call(**changed):
    q, k, v, m = rows(torch.float32, grad=False)
    arguments = {"q": q, "k": k, "v": v, "scale_logit": m, "causal": True, **changed}
    return cottention.attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), arguments.pop("scale_logit"), **arguments)


def ones(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize("kind, text, changed", [
    (TypeError, "q.dtype = torch.int64: must be float64, float32", {"q": ones(2, 4, 50, 24, dtype=torch.int64)}),
    (TypeError, "v.dtype = torch.float64: must be that of q, torch.float32", {"v": ones(2, 2, 50, 17, dtype=torch.float64)}),
    (ValueError, "q.shape = (50, 24): must be [batch", {"q": ones(50, 24)}),
    (ValueError, "k.shape = (2, 2, 50, 23): rows must be as long as those of q, 24", {"k": ones(2, 2, 50, 23)}),
    (ValueError, "v.shape = (2, 2, 49, 17): all but the last", {"v": ones(2, 2, 49, 17)}),
    (ValueError, "k.shape = (3, 2, 50, 24): the batch", {"k": ones(3, 2, 50, 24), "v": ones(3, 2, 50, 17)}),
    (ValueError, "heads_q = 4", {"k": ones(2, 3, 50, 24), "v": ones(2, 3, 50, 17), "scale_logit": ones(3)}),
    (ValueError, "seq_k = 40", {"k": ones(2, 2, 40, 24), "v": ones(2, 2, 40, 17)}),
    (ValueError, "scale_logit.shape = (4,): must have one number for each head of k, 2", {"scale_logit": ones(4)}),
    (ValueError, "must have one number for each head of k, 2. k.shape is read as [..., heads = 2, seq = 50, dim]: see layout",
     {"scale_logit": ones(50)}),
    (ValueError, "scale = 'keys': must be one of none, by_key, by_query", {"scale": "keys"}),
    (ValueError, "layout = 'sbhd'", {"layout": "sbhd"}),
    (TypeError, "key_mask.dtype = torch.float32: must be bool or uint8", {"key_mask": ones(2, 50)}),
    (ValueError, "query_mask.shape = (2, 4): must be (2, 50)", {"query_mask": ones(2, 4, dtype=torch.bool)}),
    (ValueError, "initial_state.h.shape = (2, 2, 17, 24)", {"initial_state": (ones(2, 2, 17, 24), ones(2, dtype=torch.int64))}),
    (TypeError, "initial_state.count.dtype", {"initial_state": (ones(2, 2, 24, 17), ones(2))}),
    (ValueError, "cu_seqlens_q = None", {"cu_seqlens_k": torch.tensor([0, 50])}),
    (TypeError, "k is of type NoneType: must be a torch tensor", {"k": None}),
    (TypeError, "scale_logit is of type float: must be a torch tensor", {"scale_logit": 0.5}),
    (TypeError, "key_mask is of type ndarray", {"key_mask": numpy.ones((2, 50), dtype=bool)}),
    (TypeError, "query_mask.dtype = torch.int64: must be bool or uint8, nonzero where", {"query_mask": ones(2, 50, dtype=torch.int64)}),
    (TypeError, "causal = None: must be True or False", {"causal": None}),
    (TypeError, "initial_state is of type int", {"initial_state": 3}),
    (TypeError, "q.layout = torch.sparse_coo", {"q": ones(2, 4, 50, 24).to_sparse()}),
    (ValueError, "k.device = meta: must be that of q, cpu", {"k": torch.ones(2, 2, 50, 24, device="meta")}),
])
def test_refused(kind, text, changed):
    with pytest.raises(kind, match=re.escape(text)):
        call(**changed)


def test_offsets_of_no_sequences():
    q, k, v, m = (x.squeeze(0) for x in rows(torch.float32, batch=1, grad=False))
    with pytest.raises(ValueError, match="cu_seqlens_q.shape = \\(0,\\): must be \\[sequences \\+ 1\\]"):
        cottention.attention(q, k, v, m, causal=True, cu_seqlens_q=torch.zeros(0, dtype=torch.int32))


def test_step_without_a_state():
    q, k, v, m = rows(torch.float32, grad=False)
    with pytest.raises(TypeError, match="state is of type NoneType: must be a State"):
        cottention.step(q, k, v, m, state=None)


@pytest.mark.parametrize("offsets", [[0, 9, 3], [1, 3], [0, 51]])
def test_offsets_that_leave_the_tokens(offsets):
    q, k, v, m = (x.squeeze(0) for x in rows(torch.float32, batch=1, grad=False))
    with pytest.raises(ValueError, match="cu_seqlens"):
        cottention.attention(q, k, v, m, causal=True, cu_seqlens_q=torch.tensor(offsets))


def test_no_compiler_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("COTTENTION_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    cottention.compile.host_compiler.cache_clear()
    try:
        with pytest.raises(cottention.CompilerError, match="found no C\\+\\+ compiler. Remedy: install g\\+\\+"):
            cottention.compile.compiled("a call", "forward", "fp32", "causal", "none")
    finally:
        cottention.compile.host_compiler.cache_clear()


def test_compiler_that_fails_shows_its_words(monkeypatch, tmp_path):
    monkeypatch.setenv("COTTENTION_CACHE", str(tmp_path))
    monkeypatch.setenv("COTTENTION_FLAGS", "--no-such-flag")
    with pytest.raises(cottention.CompilerError, match="no-such-flag"):
        cottention.compile.compiled("a call", "forward", "fp32", "causal", "none")
    assert list(tmp_path.iterdir()) == []
