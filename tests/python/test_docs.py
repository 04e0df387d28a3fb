"""Runs every block ```python NAME of README.md and docs/, as a program of its own."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def programs():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            yield pytest.param(name, text, id=f"{page.name}-{name}")


@pytest.mark.parametrize("name, text", list(programs()))
def test_program(name, text, tmp_path):
    assert name, "a block of python wants the name of its file"
    (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "examples/python"), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run([sys.executable, name], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
