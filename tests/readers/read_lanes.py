"""trace-lanefix, which moves slices that Perfetto could not draw, finds none: read_lanes.py RUN."""

import os
import subprocess
import sys

run = sys.argv[1]
tool = os.path.join(os.path.dirname(sys.executable), "trace-lanefix")
words = ["--snap-threshold-us", "0", f"{run}/export/trace.json", f"{run}/lanes.json"]
said = subprocess.run([tool, *words], capture_output=True, text=True, check=True)
said = said.stdout + said.stderr
assert " 0 new lanes" in said, said
print(said.strip().splitlines()[-1].split(": ")[-1])
