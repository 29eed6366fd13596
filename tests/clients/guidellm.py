"""guidellm against the server: synthetic prompts, a few requests at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

# This file is named as the package is.
here = str(Path(__file__).parent)
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(here)]
url, work = sys.argv[1], Path(sys.argv[2])
os.environ |= {"HF_HUB_OFFLINE": "1", "GUIDELLM__LOGGING__DISABLED": "true"}
sys.path.append(here)
import tokenizer  # noqa: E402

sys.path.remove(here)
processor = tokenizer.make(work)
report = work / "guidellm.json"
command = [
    str(Path(sys.executable).with_name("guidellm")), "benchmark", "run",
    "--target", url, "--processor", str(processor),
    "--data", "prompt_tokens=32,output_tokens=16,samples=40",
    "--rate-type", "concurrent", "--rate", "4", "--max-requests", "24",
    "--disable-progress", "--output-path", str(report),
]
subprocess.run(command, check=True, cwd=work, stdout=subprocess.DEVNULL)
benchmark = json.loads(report.read_text())["benchmarks"][0]
totals = benchmark["run_stats"]["requests_made"]
assert totals["successful"] >= 24 and totals["errored"] == 0, totals
tokens = benchmark["metrics"]["output_token_count"]["successful"]["mean"]
assert tokens == 16, tokens
print(f"guidellm: {totals['successful']} requests of {tokens:.0f} tokens, none failed")
