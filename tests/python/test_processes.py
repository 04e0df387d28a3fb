"""Threads, forks, and processes that compile the same call at once."""
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import threading

import cottention
import pytest
import torch

from test_attention import rows

PROGRAM = """
import sys
sys.path.insert(0, {package!r})
import torch, cottention
torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 20, 8).unbind(0)
print(cottention.step(q, k, v, state=cottention.State.zeros(1, 2, 8, 8)).sum().item())
"""


def test_threads_at_once():
    q, k, v, m = rows(torch.float32, grad=False, seq_q=300, seq_k=300)
    expected = cottention.attention(q, k, v, m, causal=True)
    start = threading.Barrier(4)

    def work():
        start.wait()
        return all(torch.equal(cottention.attention(q, k, v, m, causal=True), expected) for _ in range(50))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert all(future.result() for future in [pool.submit(work) for _ in range(4)])


def test_fork_after_a_call():
    q, k, v, m = rows(torch.float32, grad=False, seq_q=3000, seq_k=3000)
    expected = cottention.attention(q, k, v, m, causal=True)
    child = os.fork()
    if child == 0:
        o = cottention.attention(q, k, v, m, causal=True)
        torch.set_num_threads(1)  # torch's own threads do not come along either
        os._exit(0 if torch.equal(o, expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_processes_that_compile_the_same_at_once(tmp_path):
    package = str(pathlib.Path(cottention.__file__).parents[1])
    environment = {**os.environ, "COTTENTION_CACHE": str(tmp_path), "COTTENTION_FLAGS": "-O0", "COTTENTION_QUIET": ""}
    program = PROGRAM.format(package=package)
    processes = [subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for _ in range(2)]
    results = [process.communicate() for process in processes]
    assert all(process.returncode == 0 for process in processes), results
    assert results[0][0] == results[1][0] != ""
    said = results[0][1] + results[1][1]
    assert said.count("compiling step for fp32, causal, scale none") == said.count("compiled step") == 1  # the other waits
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]
    again = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert again.stdout == results[0][0] and "compiling" not in again.stderr


def test_file_that_does_not_load_is_compiled_anew(tmp_path):
    package = str(pathlib.Path(cottention.__file__).parents[1])
    environment = {**os.environ, "COTTENTION_CACHE": str(tmp_path / "cache"), "COTTENTION_FLAGS": "-O0", "COTTENTION_QUIET": ""}
    program = [sys.executable, "-c", PROGRAM.format(package=package)]
    first = subprocess.run(program, env=environment, capture_output=True, text=True)
    compiled, = (tmp_path / "cache").iterdir()
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    compiled.write_bytes(b"cut short")
    again = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert again.stdout == first.stdout and "compiled step" in again.stderr


@pytest.mark.parametrize("name, value, text", [("CXX", "/nowhere/g++", "the compiler /nowhere/g++ cannot be run: No such file"),
                                               ("COTTENTION_CACHE", "/dev/null", "compiled calls cannot be kept in /dev/null: "),
                                               ("COTTENTION_CACHE", "", "everyone may write to ")])
def test_what_cannot_be_used_is_named(name, value, text, tmp_path):
    tmp_path.chmod(0o777)
    program = "import torch, cottention; cottention.attention(*torch.randn(3, 1, 1, 2, 4), causal=True)"
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(cottention.__file__).parents[1]), name: value or str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.returncode != 0 and f"CompilerError: {text}" in ran.stderr
