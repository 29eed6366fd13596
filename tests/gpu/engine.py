"""What the binary measures itself: kernels, speeds, techniques, its own recording, energy."""

import json
import os
import pathlib

from machine import Done, Lacking, Machine, say

TECHNIQUES = ["fused_residual", "fused_add_norm", "fused_swiglu", "fused_rope",
              "fused_attention", "split_kv", "fused_dequantize", "quantized_rows",
              "fused_quantize", "fused_sampling", "graphs", "async_scheduling"]


def words(name: str, default: str) -> list[str]:
    return os.environ.get(name, default).split()


def model() -> str:
    """A name, or the whole path of a file or folder."""
    named = os.environ.get("MODEL", "shape:llama-3-8b")
    path = pathlib.Path(named)
    return str(path.resolve()) if path.exists() else named


def precisions(chosen: list[str]) -> list[str]:
    return chosen or words("PRECISIONS", "bf16 e4m3 i8 i4")


def batches() -> list[str]:
    return words("BATCHES", "1 2 4 8 16 32 64 128 256")


def number(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


def json_lines(text: str) -> list[dict]:
    """Every whole line: the last one of a command that was stopped may be cut."""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def bench(machine: Machine, precision: str, sizes: list[str], prompt: int, gen: int,
          *more: str, most: float | None = None) -> Done:
    return machine.gemba(
        "bench", "--device", machine.device, "--model", model(), "--precision", precision,
        "--batch", ",".join(sizes), "--prompt", str(prompt), "--gen", str(gen),
        "--chunk", str(number("CHUNK", 4096)), "--repeats", str(number("REPEATS", 3)),
        "--json", *more, most=most)


def shared(machine: Machine, at: int, count: int) -> float:
    """An even share of the time that is left for one of several, more if others were quick."""
    return machine.left() / (count - at)


def kernels(machine: Machine, chosen: list[str]) -> dict:
    """The ceilings, and each kernel beside its floor: many short sequences, then few long ones."""
    rows, lacks, ceilings = [], [], {}
    sweeps = [(batches(), number("SWEEP_PROMPT", 2048 - 16)),
              (words("LONG_BATCHES", "1 4 16"), number("LONG_PROMPT", 8192 - 16))]
    jobs = [(precision, *sweep) for precision in precisions(chosen) for sweep in sweeps]
    for at, (precision, sizes, prompt) in enumerate(jobs):
        say(f"kernels, {precision}, prompts of {prompt}")
        done = bench(machine, precision, sizes, prompt, 16, "--kernels",
                     most=shared(machine, at, len(jobs)))
        lines = json_lines(done.out)
        if lines and "ceilings" in lines[0]:
            ceilings[precision] = lines.pop(0)
        rows += [row | {"longest": prompt + 16} for row in lines]
        if done.code != 0:
            lacks.append(f"kernels, {precision}, prompts of {prompt}: {done.why()}")
    return {"rows": rows, "ceilings": ceilings, "lacks": lacks}


def speed(machine: Machine, chosen: list[str]) -> dict:
    """Prefill and decode of whole steps, for every precision and batch."""
    rows, lacks, all_of = [], [], precisions(chosen)
    for at, precision in enumerate(all_of):
        say(f"speed, {precision}")
        done = bench(machine, precision, batches(), number("PROMPT", 512), number("GEN", 64),
                     most=shared(machine, at, len(all_of)))
        found = json_lines(done.out)
        rows += found
        if done.code != 0:
            measured = ", ".join(str(row["batch"]) for row in found) or "none"
            lacks.append(f"speed, {precision}: {done.why()}; batches measured: {measured}")
    return {"rows": rows, "lacks": lacks}


def configurations(chosen: list[str]) -> dict[str, list[str]]:
    """Each row of the technique table with what is switched off in it: naive, each technique
    alone, all, and each dropped. Graphs stand on fused attention and are not shown alone."""
    table = {"naive": ["all"], "all": []}
    table |= {f"without {name}": [name] for name in TECHNIQUES}
    table |= {f"only {name}": [other for other in TECHNIQUES if other != name]
              for name in TECHNIQUES if name != "graphs"}
    if not chosen:
        return table
    kinds = {"only": "only ", "without": "without "}
    wanted = lambda name: name in chosen or any(
        kind in chosen and name.startswith(kinds[kind]) for kind in kinds)
    return {name: off for name, off in table.items() if wanted(name)}


def workload(machine: Machine) -> pathlib.Path:
    """So many equal requests, all at once: what limits is the engine alone."""
    path = machine.work / "saturated.toml"
    prompt, gen = number("PROMPT", 512), number("GEN", 64)
    path.write_text(
        f"schema = 1\nname = \"saturated\"\nseed = 42\nrequests = {number('REQUESTS', 64)}\n\n"
        "[arrival]\nprocess = \"constant\"\nrate = 100000.0\n\n"
        "[slo]\nttft_ms = 10000.0\ntpot_ms = 50.0\n\n[[class]]\nname = \"equal\"\n"
        f"prompt_tokens = {{ distribution = \"constant\", tokens = {prompt} }}\n"
        f"output_tokens = {{ distribution = \"constant\", tokens = {gen} }}\n")
    return path


def run(machine: Machine, name: str, *more: str, most: float | None = None):
    """A run of that workload: its folder, if it came to an end, and what became of the command."""
    folder = machine.work / "runs" / name.replace(" ", "-")
    precision = os.environ.get("PRECISION", "bf16")
    done = machine.gemba(
        "run", str(workload(machine)), "--device", machine.device, "--model", model(),
        "--precision", precision, "--max-num-seqs", str(number("SEQUENCES", 32)),
        "--max-num-batched-tokens", str(number("CHUNK", 4096)), "--ui", "none", "--json",
        "--output-dir", str(folder), *more, most=most)
    return (folder if done.code == 0 else None), done


# What a run spends before its first request and on measuring itself.
NOT_SERVING = ("changeover", "observer")


def figures(summary: dict, ledger: dict) -> dict:
    """A row of the technique table from a run's books. Rates are over the device time that is
    neither start-up nor observation, and energy is what is booked to that time; where no meter was
    read there is none."""
    amounts: dict[str, float] = {}
    waste: dict[str, float] = {}
    for row in ledger["causes"]:
        if row["cause"] in NOT_SERVING:
            continue
        amounts[row["commodity"]] = amounts.get(row["commodity"], 0) + row["amount"]
        if row["commodity"] == "device_time" and row["level"] != "value":
            waste[row["cause"]] = waste.get(row["cause"], 0) + row["amount"]
    tokens, time = summary["requests"]["accepted_tokens"], amounts.get("device_time", 0)
    energy = amounts.get("energy")
    largest = sorted(waste.items(), key=lambda entry: -entry[1])[:4]
    return {
        "tokens": tokens,
        "serving_s": time / 1e9,
        "tokens_per_s": tokens / (time / 1e9) if time else None,
        "joules_per_token": energy / 1e6 / tokens if energy is not None and tokens else None,
        **{key: summary[key] for key in
           ("oie", "availability", "quality", "performance", "value_share", "balanced")},
        "within_slo": summary["requests"]["within_slo"],
        "requests": summary["requests"]["total"],
        "largest": [[cause, amount / time] for cause, amount in largest] if time else [],
    }


def techniques(machine: Machine, chosen: list[str]) -> dict:
    """Naive, each technique alone, all, and each dropped: a run each, with its books."""
    rows, lacks = [], []
    table = configurations(chosen)
    if not table:
        raise Lacking(f"techniques: nothing is named {' '.join(chosen)}")
    for at, (name, off) in enumerate(table.items()):
        if machine.left() < 10:
            lacks.append(f"{name}: no time was left")
            continue
        say(f"techniques, {name}")
        without = [word for technique in off for word in ("--without", technique)]
        folder, done = run(machine, name, "--observer-pairs", "0", *without,
                           most=min(machine.left(), 3 * shared(machine, at, len(table))))
        if not folder:
            lacks.append(f"{name}: {done.why()}")
            continue
        row = figures(*(json.loads(text) for text in (
            (folder / "summary.json").read_text(),
            machine.gemba("ledger", str(folder), "--json", most=60).out)))
        rows.append({"name": name, "without": off, "took_s": round(done.took, 1)} | row)
    if any(row["joules_per_token"] is None for row in rows):
        lacks.append("energy: no meter was read, joules per token are missing")
    return {"rows": rows, "lacks": lacks, "precision": os.environ.get("PRECISION", "bf16"),
            "sequences": number("SEQUENCES", 32)}


def recording(machine: Machine, _chosen: list[str]) -> dict:
    """What recording costs, by pairs of short runs with it and without it."""
    pairs = number("PAIRS", 24)
    folder, done = run(machine, "recording", "--observer-pairs", str(pairs))
    if not folder:
        raise Lacking(f"recording: {done.why()}")
    observer = json.loads((folder / "run.json").read_text())["observer"]
    lacks = [] if observer else ["recording: the run measured no pairs"]
    return {"rows": [observer] if observer else [], "lacks": lacks}


def metered(header: dict) -> dict:
    """What the meter and the counters of a run's first device told, and whether that holds."""
    meter = header["meters"][0]
    counters = (header["counters"] or [{}])[0]
    counted, integrated = meter["energy_uj"] / 1e6, meter["integrated_uj"]
    joules = None if integrated is None else integrated / 1e6
    return {
        "seconds": (meter["end_ns"] - meter["start_ns"]) / 1e9,
        "counter_j": counted, "integrated_j": joules,
        "ratio": counted / joules if joules else None,
        **meter["validity"],
        **{key: meter[key] for key in ("clock_mhz", "memory_clock_mhz", "temperature_c",
                                       "memory_used_bytes")},
        "activity": counters.get("activity"), "no_counters": counters.get("why"),
    }


def moved(machine: Machine, folder: pathlib.Path):
    """Bytes that the launches of a run had to move, by its ledger."""
    ledger = json.loads(machine.gemba("ledger", str(folder), "--json", most=60).out)
    amounts = [row["amount"] for row in ledger["causes"] if row["commodity"] == "bytes"]
    return sum(amounts) if amounts else None


def energy(machine: Machine, _chosen: list[str]) -> dict:
    """The energy counter against the power that was read beside it, and the card's counters
    against the budgets of launches, over one run."""
    folder, done = run(machine, "energy", "--observer-pairs", "0")
    if not folder:
        raise Lacking(f"energy: {done.why()}")
    header = json.loads((folder / "run.json").read_text())
    if not header["meters"]:
        raise Lacking("energy: no meter of this device was read")
    row = metered(header)
    budget, activity = moved(machine, folder), row["activity"] or {}
    counted = activity.get("memory_bytes")
    row["budget_bytes"] = budget
    row["counted_by_budget"] = counted / budget if counted is not None and budget else None
    lacks = [f"counters: {row['no_counters']}"] if row["no_counters"] else []
    return {"rows": [row], "lacks": lacks}
