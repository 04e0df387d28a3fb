"""interrupted.py RUN_SH FOLDER SIGNAL: whether a run of the package that SIGINT or SIGKILL ends keeps the rows that it has measured."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

runner, folder, ended_by = sys.argv[1], pathlib.Path(sys.argv[2]), signal.Signals[sys.argv[3]]
shutil.rmtree(folder, ignore_errors=True)


def written():
    """What is in the file of results."""
    text = next(folder.glob("*.json")).read_text(encoding="utf-8")
    return json.loads(text) if text else {}


folder.mkdir(parents=True)
run = subprocess.Popen([runner, "bench", "peers", "--out", folder], stdout=subprocess.PIPE, text=True, start_new_session=True,
                       env={**os.environ, "TMPDIR": str(folder)})  # which nobody clears after SIGKILL
measured = 0
for line in run.stdout:
    measured += line.startswith("[")
    if measured == 3:
        break
while ended_by == signal.SIGKILL and not written().get("bench") and run.poll() is None:
    time.sleep(0.1)
os.killpg(run.pid, ended_by)  # to all of it, as a terminal does with SIGINT
if ended_by == signal.SIGINT:
    run.stdout.read()
run.stdout.close()  # which ends the benchmark too where nothing else does
run.wait(60)
results = written()
rows = results["bench"]["rows"]
print(f"status {run.returncode}, {len(rows)} rows, interrupted: {results['interrupted']}, complete: {results['bench']['complete']}, "
      f"peers: {results['peers']}")
sys.exit(not (run.returncode == (1 if ended_by == signal.SIGINT else -signal.SIGKILL)
              and len(rows) >= (3 if ended_by == signal.SIGINT else 1) and all("microseconds" in row for row in rows)
              and results["interrupted"] and not results["bench"]["complete"] and results["peers"] is None))
