"""Tests of examples/python. Calls are compiled into the folder that COTTENTION_CACHE names, without much optimisation: it is their
results that are looked at."""
import os
import pathlib
import sys

os.environ.setdefault("COTTENTION_FLAGS", "-O1")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples" / "python"))

import pytest  # noqa: E402
import torch  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
