"""interrupted.py RUN_SH FOLDER: whether an interrupted run of the package keeps the rows that it has measured."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

runner, folder = sys.argv[1:]
shutil.rmtree(folder, ignore_errors=True)
run = subprocess.Popen([runner, "bench", "peers", "--out", folder], stdout=subprocess.PIPE, text=True, start_new_session=True)
measured = 0
for line in run.stdout:
    measured += line.startswith("[")
    if measured == 3:
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does, to all that is in its foreground
        break
run.stdout.read()
run.wait(60)
results = json.loads(next(pathlib.Path(folder).glob("*.json")).read_text())
rows = results["bench"]["rows"]
print(f"status {run.returncode}, {len(rows)} rows, interrupted: {results['interrupted']}, complete: {results['bench']['complete']}, "
      f"peers: {results['peers']}")
sys.exit(not (run.returncode == 1 and len(rows) >= 3 and all("microseconds" in row for row in rows) and results["interrupted"]
              and not results["bench"]["complete"] and results["peers"] is None))
