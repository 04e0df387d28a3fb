"""The rows of cottention_bench_gpu by their names, and which peers are timed at each."""
import re

BYTES = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2}
TENSORS = {"forward": 4, "prefill": 4, "backward": 7, "forward_and_backward": 11}  # that must move, each of all rows of all heads
CALLS = ("forward", "backward", "forward_and_backward")
PRESETS = ("standard", "sweep", "authors", "all")

FLA = ("fla.chunk_linear_attn", "fla.fused_chunk_linear_attn", "fla.fused_recurrent_linear_attn", "fla.chunk_simple_gla",
       "fla.fused_recurrent_simple_gla")
SDPA = tuple(f"torch.sdpa.{backend}" for backend in ("flash", "cudnn", "efficient", "math"))
SDPA_EACH = tuple(f"{name}.each" for name in SDPA)
# What is timed beside each call. The rows of q and k that fla.* gets have unit length already, and those of v their weights;
# with +norms this is done in PyTorch within the timed part. .each: a call for each sequence of a packed batch. Softmax has no
# state to carry from piece to piece, so it has no prefill.
VARIANTS = {
    "causal": FLA + ("fla.chunk_linear_attn+norms", "fla.fused_chunk_linear_attn+norms") + SDPA
              + ("torch.chunked.64", "torch.chunked.128", "torch.quadratic", "torch.recurrent"),
    "bidirectional": ("torch.bidirectional",) + SDPA,
    "packed_causal": FLA + SDPA_EACH + ("torch.quadratic.each",),
    "packed_bidirectional": ("torch.bidirectional.each",) + SDPA_EACH,
    "prefill": FLA,
    "step": ("fla.fused_recurrent_linear_attn", "torch.step"),
}

NAME = re.compile(r"(?:(?:(forward_and_backward|forward|backward)(_packed)?|prefill_(\d+))_(causal|bidirectional)|step)"
                  r"/(\w+)/(\d+)x(\d+)x(\d+)x(\d+)")


def parse(row):
    """{call, mask, element, shape: (batch, heads, length, dim), packed, piece} of a row's name; None where it is none of ours."""
    match = NAME.fullmatch(row)
    if match is None or match[5] not in BYTES:
        return None
    call = match[1] or ("prefill" if match[3] else "step")
    return {"call": call, "mask": match[4], "element": match[5], "shape": tuple(int(match[i]) for i in range(6, 10)),
            "packed": match[2] is not None, "piece": int(match[3]) if match[3] else None}


def variants_of(row):
    """Empty for a row that is none of ours."""
    parsed = parse(row)
    if parsed is None:
        return ()
    if parsed["call"] in ("prefill", "step"):
        return VARIANTS[parsed["call"]]
    return VARIANTS[("packed_" if parsed["packed"] else "") + parsed["mask"]]


def tokens(row):
    """Positions of all sequences; of a packed batch its name tells them together."""
    parsed = parse(row)
    batch, _, seq, _ = parsed["shape"]
    return seq if parsed["packed"] else batch * seq


def floor_bytes(row):
    """That the call must move: each tensor once; for a step its states read and written, and the rows of its tokens."""
    parsed = parse(row)
    batch, heads, seq, dim = parsed["shape"]
    each = BYTES[parsed["element"]]
    if parsed["call"] == "step":
        state = 8 if parsed["element"] == "fp64" else 4
        return batch * heads * (2 * dim * dim * state + 4 * seq * dim * each)
    return TENSORS[parsed["call"]] * tokens(row) * heads * dim * each


def named(calls, masks, elements, sizes):
    return [f"{call}_{mask}/{element}/{size}" for element in elements for mask in masks for size in sizes for call in calls]


def standard():
    rows = []
    for element in ("bf16", "fp16", "fp32"):
        one = (element,)
        rows += named(CALLS, ("causal",), one, ("8x16x2048x64", "1x16x131072x64", "32x16x512x128", "4x32x8192x128"))
        rows += named(("forward",), ("causal",), one, ("8x8x1024x64",))
        rows += named(CALLS, ("bidirectional",), one, ("8x16x2048x64",))
        rows += named(("forward",), ("bidirectional",), one, ("1x16x131072x64", "4x32x8192x128"))
        if element != "fp16":
            rows += named(("forward_packed", "forward_and_backward_packed"), ("causal", "bidirectional"), one, ("64x16x131072x64",))
            rows += named([f"prefill_{piece}" for piece in (512, 4096, 32768)], ("causal",), one, ("1x16x131072x64",))
    return rows + ["step/bf16/256x16x1x64", "step/bf16/256x32x1x128", "step/bf16/1x32x1x128", "step/fp32/256x16x1x64"]


def sweep():
    dims = [f"8x16x2048x{dim}" for dim in (32, 64, 128, 256)]
    lengths = [f"1x16x{2**power}x64" for power in range(7, 21)]
    heads = [f"{size}x64" for size in ("1x1x1048576", "1x4x262144", "1x16x65536", "4x16x16384", "16x16x4096", "64x16x1024",
                                       "256x16x256")]
    rows = named(CALLS, ("causal",), BYTES, dims) + named(CALLS, ("bidirectional",), ("bf16",), dims)
    rows += named(("forward",), ("bidirectional",), ("fp32",), dims)
    rows += named(CALLS, ("causal",), ("bf16", "fp32"), lengths + heads) + named(CALLS, ("bidirectional",), ("bf16",), lengths)
    rows += [f"step/{element}/256x16x1x{dim}" for element in BYTES for dim in (32, 64, 128, 256)]
    return rows + [f"step/{element}/{size}x1x64" for element in ("bf16", "fp32")
                   for size in ("1x1", "1x4", "1x16", "4x16", "16x16", "64x16", "256x16")]


def authors():
    sizes = [f"1x16x{2**power}x{dim}" for dim in (64, 128, 256, 512, 1024) for power in range(7, 15)]
    return named(CALLS, ("causal",), ("bf16", "fp32"), [*sizes, "32x16x512x128"])


def rows_of(preset):
    """Of which cottention_bench_gpu has the same; presets overlap."""
    lists = {"standard": [standard], "sweep": [sweep], "authors": [authors], "all": [standard, sweep]}[preset]
    return list(dict.fromkeys(row for rows in lists for row in rows()))
