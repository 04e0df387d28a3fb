"""The source of the binding as CUDA: nvcc takes it for each architecture. Devices run it where there are any."""
import pathlib
import shlex
import subprocess

import cottention
import pytest
import torch

import definition
from definition import BOUNDS, error
from test_attention import rows


# The kernels themselves are compiled by the library's own tests.
@pytest.mark.parametrize("call, capability, flags", [("step", (10, 0), []), ("forward", (8, 0), ["-fdevice-syntax-only"]),
                                                     ("backward", (9, 0), ["-fdevice-syntax-only"])])
def test_nvcc_takes_the_source(call, capability, flags, tmp_path):
    try:
        cottention.compile.cuda_compiler()
    except cottention.CompilerError as error:
        pytest.skip(str(error))
    command = cottention.compile.command(call, "bf16", "causal", "by_key", head_dim=(64, 64), capability=capability)
    ran = subprocess.run([*command, *flags, "-Werror=all-warnings", "-o", tmp_path / "call.so"], capture_output=True, text=True)
    assert ran.returncode == 0, f"{shlex.join(command)}\n{ran.stderr}"
    assert flags or (pathlib.Path(tmp_path) / "call.so").stat().st_size > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_within_bounds(dtype):
    q, k, v, m = rows(dtype, seq_q=200, seq_k=200, dim_qk=64, dim_v=64)
    on_device = [x.detach().cuda().requires_grad_() for x in (q, k, v, m)]
    do = torch.randn(q.shape[:3] + v.shape[3:]).to(dtype)
    with torch.cuda.stream(torch.cuda.Stream()):
        o, state = cottention.attention(*on_device, causal=True, return_state=True)
        o.backward(do.cuda())
        torch.cuda.current_stream().synchronize()
    exact = definition.doubles(q, k, v, m)
    exact_o, (h, _) = definition.attention(*exact, causal=True)
    exact_o.backward(do.double())
    bounds = BOUNDS[dtype]
    assert error(o.cpu(), exact_o) <= bounds[0] and error(state.h.cpu(), h) <= bounds[1]
    for x, y in zip(on_device[:3], exact):
        assert error(x.grad.cpu(), y.grad) <= bounds[2]
    last = [x.detach()[:, :, -1:] for x in on_device[:3]]
    cottention.step(*last, on_device[3].detach(), state=cottention.State(state.h.detach(), state.count))
    assert state.count.tolist() == [201, 201]
