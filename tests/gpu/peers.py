"""The same shape through PyTorch, with the engine before and after it."""

import json
import sys

from engine import bench, json_lines, model, number, words
from machine import HERE, Lacking, Machine, say

MODES = ["eager", "compiled"]
PROBE = "import json, torch; print(json.dumps([torch.__version__, torch.cuda.is_available()]))"


def peers(machine: Machine, chosen: list[str]) -> dict:
    """The engine in bf16, PyTorch eager, PyTorch compiled, and the engine again."""
    found = machine.run([sys.executable, "-c", PROBE], 60)
    if found.code != 0:
        raise Lacking(f"torch: {found.why()}")
    version, has_card = json.loads(found.out)
    device = "cuda" if machine.device.startswith("cuda") else machine.device
    if device == "cuda" and not has_card:
        raise Lacking(f"torch {version} sees no card")
    sizes = words("PEER_BATCHES", "1 8 64 256")
    prompt, gen = number("PROMPT", 512), number("GEN", 64)
    turns = ["gemba", *(mode for mode in MODES if not chosen or mode in chosen), "gemba"]
    rows, lacks = [], []
    for at, turn in enumerate(turns):
        say(f"peers, {turn}")
        most = machine.left() / (len(turns) - at)
        if turn == "gemba":
            done = bench(machine, "bf16", sizes, prompt, gen, most=most)
            lines = [{"stack": "gemba"} | row for row in json_lines(done.out)]
        else:
            done = machine.run(
                [sys.executable, str(HERE / "torch_model.py"), turn, model(), device,
                 ",".join(sizes), str(prompt), str(gen), str(number("CHUNK", 4096)),
                 str(number("REPEATS", 3))], most)
            lines = json_lines(done.out)
        if done.code != 0:
            lacks.append(f"{turn}: {done.why()}")
        lacks += [f"{row['stack']}, batch {row['batch']}: {row['refused']}"
                  for row in lines if "refused" in row]
        rows += [{"turn": at} | row for row in lines if "refused" not in row]
    return {"rows": rows, "lacks": lacks, "torch": version}
