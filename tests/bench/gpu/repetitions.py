"""repetitions.py FILE: whether the rows of a result file were measured in repetitions of several calls."""
import json
import pathlib
import sys

results = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
for row in results["rows"]:
    print(row)
    times = row["fastest"], row["microseconds"], row["slowest"]
    if not (row["samples"] == 15 and row["calls_in_a_sample"] > 1 and 0 < times[0] <= times[1] <= times[2]
            and row["launched_singly"] > 0 and row["output_complete"]):
        sys.exit("not measured as it should be")
sys.exit(not results["rows"] or not results["complete"])
