"""Runs the parts that are named and writes what each found; tests/gpu/run says how."""

import json
import os
import pathlib
import platform
import sys
import time

import engine
import peers
import proofs
from machine import FACTS, Lacking, Machine, say

# In the order of what they are worth when time is short.
PARTS = {
    "proofs": proofs.proofs,
    "sanitizer": proofs.sanitizer,
    "techniques": engine.techniques,
    "speed": engine.speed,
    "kernels": engine.kernels,
    "peers": peers.peers,
    "recording": engine.recording,
    "energy": engine.energy,
}


def measured(machine: Machine, name: str, chosen: list[str]) -> dict:
    """One part, whatever becomes of it."""
    began = time.monotonic()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with machine.watched() as state:
        try:
            found = PARTS[name](machine, chosen)
        except Lacking as lacking:
            found = {"rows": [], "lacks": [str(lacking)]}
    if machine.device.startswith("cuda") and found["rows"] and not state:
        found["lacks"].append("clocks and power meanwhile: nvidia-smi did not tell them")
    took = round(time.monotonic() - began, 1)
    status = "absent" if not found["rows"] else "partial" if found["lacks"] else "complete"
    return {"part": name, "chosen": chosen, "status": status, "began": stamp, "took_s": took,
            "state": state} | found


def main(folder: pathlib.Path, asked: list[str]) -> int:
    jobs = [(word.partition("=")[0], list(filter(None, word.partition("=")[2].split(","))))
            for word in asked]
    unknown = [name for name, _ in jobs if name not in PARTS]
    if unknown or not jobs:
        say(f"expected parts of {', '.join(PARTS)}, found {', '.join(unknown) or 'none'}")
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    bad = 0
    with (folder / "log").open("a") as log:
        machine = Machine(float(os.environ.get("SECONDS_LIMIT", "560")), log)
        try:
            try:
                doctor = machine.doctor()
            except Lacking as lacking:
                say(f"lacks: {lacking}")
                return 2
            if machine.device.startswith("cuda") and not doctor["cards"]:
                say(f"lacks: a card. {doctor['missing']['what']}: {doctor['missing']['hint']}")
                return 2
            header = {
                "schema": "gemba.gpu/1", "commit": machine.commit, "model": engine.model(),
                "device": machine.device, "system": f"{platform.system()} {platform.release()}",
                "doctor": doctor, "card": machine.ask(FACTS),
            }
            for at, (name, chosen) in enumerate(jobs):
                machine.begin_part(len(jobs) - at)
                part = measured(machine, name, chosen)
                suffix = f"-{at}" if [job[0] for job in jobs].count(name) > 1 else ""
                path = folder / f"{name}{suffix}.json"
                path.write_text(json.dumps(header | part, indent=1) + "\n")
                print(f"{name}: {part['status']}, {len(part['rows'])} rows, {part['took_s']} s")
                for lack in part["lacks"]:
                    print(f"  lacks: {lack}")
                bad += part["status"] == "absent"
        finally:
            machine.close()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1]), sys.argv[2:]))
