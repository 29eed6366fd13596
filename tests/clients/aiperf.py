"""AIPerf against the server: streaming chat with forced lengths."""

import json
import os
import subprocess
import sys
from pathlib import Path

# This file is named as the package is.
here = str(Path(__file__).parent)
sys.path = [path for path in sys.path if Path(path or ".").resolve() != Path(here)]
url, work = sys.argv[1], Path(sys.argv[2])
# Told to stay offline, it takes a tokenizer's folder for the name of a repository.
os.environ.pop("HF_HUB_OFFLINE", None)
sys.path.append(here)
import tokenizer  # noqa: E402

sys.path.remove(here)
results = work / "aiperf"
command = [
    str(Path(sys.executable).with_name("aiperf")), "profile",
    "--model", "shape:stories42m", "--url", url, "--endpoint-type", "chat", "--streaming",
    "--tokenizer", str(tokenizer.make(work)), "--concurrency", "4", "--request-count", "24",
    "--isl", "32", "--osl", "16", "--extra-inputs", "ignore_eos:true",
    "--use-server-token-count", "--ui", "none", "--output-artifact-dir", str(results),
]
done = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=False)
if done.returncode != 0:
    raise SystemExit(f"aiperf ended with {done.returncode}:\n{done.stdout[-4000:]}")
found = next(results.rglob("profile_export_aiperf.json"))
summary = json.loads(found.read_text())
assert summary["request_count"]["avg"] == 24, summary["request_count"]
assert not summary.get("error_summary"), summary["error_summary"]
print(f"aiperf: 24 requests, {summary['output_token_throughput']['avg']:.0f} tokens/s, none failed")
