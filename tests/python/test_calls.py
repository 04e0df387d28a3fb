"""What measures the cost of a call, at one small shape."""
import json
import pathlib
import sys

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
sys.path[:0] = [str(BENCH / "peers"), str(BENCH / "report")]

import compilation  # noqa: E402
import files  # noqa: E402
import python_calls  # noqa: E402


def test_every_variant_is_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(python_calls, "SHAPES", ((1, 2, 16, 8),))
    monkeypatch.setattr(compilation, "why_not", lambda: "takes half a minute")
    path = tmp_path / "calls.json"
    assert python_calls.main(["--rounds", "2", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert files.faults_of(result) == []
    forward, both = result["calls"]
    assert set(forward["microseconds"]) == {"C++", "Python", "softmax", "chunked"}
    assert set(both["microseconds"]) == set(forward["microseconds"]) | {"autograd"}
    for row in result["calls"]:
        assert all(us["median"] >= us["fastest"] > 0 for us in row["microseconds"].values())
        assert row["microseconds"]["Python"]["fastest"] > row["microseconds"]["C++"]["fastest"]
