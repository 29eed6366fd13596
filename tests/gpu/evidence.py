"""What tests/gpu/run measured, in one call or several, as one JSON object and a page to read.

  evidence.py OUT FOLDER…    writes OUT/evidence.json and OUT/evidence.md
"""

import json
import pathlib
import statistics
import sys

PARTS = ["proofs", "sanitizer", "techniques", "speed", "kernels", "peers", "recording", "energy"]
# What must be the same in all that stands on one page.
SAME = ["commit", "device", "model"]
# What the times of kernels are, by what told them.
TOLD = {
    "host_clock": "Times are of the host's clock.",
    "events": "Times are between events around single launches: what takes a few microseconds is "
              "mostly launch.",
    "records": "Times are of CUPTI's records, from a kernel's beginning to its end.",
}
PRODUCTS = ["qkv", "output", "gate_up", "down", "head"]
FOUR_BITS = ["i4", "q4_0", "nf4"]


class Mixed(Exception):
    """Parts that do not belong on one page."""


def gathered(folders: list[pathlib.Path]) -> dict:
    """All parts of all folders, in order."""
    found = [json.loads(path.read_text())
             for folder in folders for path in sorted(folder.glob("*.json"))]
    parts = [part for part in found if part.get("schema") == "gemba.gpu/1"]
    if not parts:
        raise Mixed(f"no parts in {', '.join(map(str, folders))}")
    for key in SAME:
        values = {json.dumps(part[key]) for part in parts}
        if len(values) > 1:
            raise Mixed(f"parts of different {key}: {', '.join(sorted(values))}")
    names = {cards(part) for part in parts}
    if len(names) > 1:
        raise Mixed(f"parts of different cards: {', '.join(sorted(names))}")
    parts.sort(key=lambda part: (PARTS.index(part["part"]), part["began"]))
    header = {key: parts[0][key] for key in (*SAME, "system", "doctor", "card")}
    common = set(header) | {"schema"}
    return {"schema": "gemba.gpu.evidence/1", **header,
            "parts": [{k: v for k, v in part.items() if k not in common} for part in parts]}


def cards(part: dict) -> str:
    """The card that a part was measured on, and its driver."""
    card = part["card"]
    if card:
        return f"{card['name']}, driver {card['driver_version']}"
    found = part["doctor"]["cards"]
    return found[0]["name"] if found else part["doctor"]["cpu"]["name"]


def rows(evidence: dict, name: str) -> list[dict]:
    return [row for part in evidence["parts"] if part["part"] == name for row in part["rows"]]


def table(head: list[str], body: list[list]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in body] + [""]


def percent(share) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def figure(value, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def spans(state: dict, key: str) -> str:
    if key not in state:
        return "–"
    return "{least:.0f} … {median:.0f} … {most:.0f}".format(**state[key])


def head(evidence: dict) -> list[str]:
    card = evidence["card"]
    lines = [f"# {cards(evidence)}", "",
             f"Commit {evidence['commit']}, {evidence['model']}, {evidence['system']}."]
    if card:
        lines.append(f"{card['memory.total']} MiB, power limit {card['power.limit']} W, highest "
                     f"clocks {card['clocks.max.sm']} MHz (multiprocessors) and "
                     f"{card['clocks.max.memory']} MHz (memory).")
    else:
        lines.append("nvidia-smi was not there: clocks, driver and power limit are not known.")
    body = [[part["part"] + ("=" + ",".join(part["chosen"]) if part["chosen"] else ""),
             part["status"], part["began"], figure(part["took_s"]),
             spans(part["state"], "clocks.sm"), spans(part["state"], "power.draw")]
            for part in evidence["parts"]]
    there = {part["part"] for part in evidence["parts"]}
    body += [[name, "not run", "–", "–", "–", "–"] for name in PARTS if name not in there]
    lines += ["", *table(["part", "status", "began", "took, s", "SM clock, MHz", "power, W"], body)]
    lacks = [f"- {part['part']}: {lack}" for part in evidence["parts"] for lack in part["lacks"]]
    return lines + (["What is missing:", "", *lacks, ""] if lacks else [])


def ceilings(evidence: dict) -> dict:
    """The best of each ceiling, over all processes that measured them."""
    best: dict = {}
    found = [entry["ceilings"] for part in evidence["parts"]
             for entry in part.get("ceilings", {}).values()]
    for one in found:
        for key, value in one.items():
            if isinstance(value, dict):
                known = best.setdefault(key, {})
                known.update({name: max(rate, known.get(name, 0)) for name, rate in value.items()})
            elif key.endswith("_ns"):
                best[key] = min(value, best.get(key, value))
            else:
                best[key] = max(value, best.get(key, 0))
    return best


def of_proofs(evidence: dict) -> list[str]:
    found = rows(evidence, "proofs")
    body = []
    for suite in dict.fromkeys(row["suite"] for row in found):
        became = [row["outcome"] for row in found if row["suite"] == suite]
        others = sum(one not in ("ok", "failed", "not run") for one in became)
        body.append([suite, len(became), became.count("ok"), became.count("failed"),
                     became.count("not run"), others])
    lines = table(["suite", "tests", "ok", "failed", "not run", "other"], body)
    for row in found:
        if row["outcome"] not in ("ok", "not run"):
            said = " ".join(row.get("said", "").split())
            lines.append(f"- `{row['test']}`: {row['outcome']}. {said}")
    return lines


def of_sanitizer(evidence: dict) -> list[str]:
    planted = {True: "found", False: "NOT FOUND", None: "not tried"}
    body = [[row["tool"], planted[row["finds_planted"]],
             "no summary" if row["errors"] is None else row["errors"], row["ran"],
             len(row["failed"]), len(row["not_run"])] for row in rows(evidence, "sanitizer")]
    return table(["tool", "planted mistake", "errors", "tests", "failed", "not run"], body)


def of_techniques(evidence: dict) -> list[str]:
    found = rows(evidence, "techniques")
    naive = next((row["tokens_per_s"] for row in found if row["name"] == "naive"), None)
    body = []
    for row in found:
        times = row["tokens_per_s"] / naive if naive and row["tokens_per_s"] else None
        largest = ", ".join(f"{cause} {percent(share)}" for cause, share in row["largest"][:3])
        body.append([row["name"], figure(row["tokens_per_s"]), figure(times, 2),
                     figure(row["joules_per_token"], 3), percent(row["oie"]),
                     percent(row["performance"]),
                     f"{row['within_slo']} of {row['requests']}", largest])
    note = ("Tokens per second of device time that is neither start-up nor observation, and the "
            "energy booked to it. OIE is of the whole window, start-up with it; performance is "
            "that factor of it that techniques move.")
    return [note, "", *table(["techniques", "tokens/s", "× naive", "J/token", "OIE", "performance",
                              "within SLO", "largest wastes"], body)]


def of_speed(evidence: dict) -> list[str]:
    body = [[row["precision"], row["batch"], figure(row["prefill_tokens_per_s"], 0),
             figure(row["decode_tokens_per_s"]), figure(row["decode"]["least"]),
             figure(row["decode"]["most"]), figure(row["weight_bytes_per_s"] / 1e9, 0),
             percent(row["read_share"]), figure(by_counter(row), 3)]
            for row in rows(evidence, "speed")]
    lines = ["Rates are of steps that nothing times.", ""]
    lines += table(["weights", "batch", "prefill, tokens/s", "decode, tokens/s", "least", "most",
                    "weights read, GB/s", "of plain reading", "counted by budget"], body)
    lines += of_counters(rows(evidence, "speed"))
    return lines + of_inflation(rows(evidence, "speed"))


def of_counters(found: list[dict]) -> list[str]:
    """What the card's own counters say, and what speaks against them."""
    told = [row["counters"] for row in found if row.get("counters")]
    lines = []
    if told:
        lines += ["Counted by budget: bytes that the card's own counters saw go to and from its "
                  "memory in decode steps, by those of the launches' budgets. What stays in the "
                  "second-level cache is in the budgets alone; what is read twice, and what a "
                  "launch keeps for itself, in the counters alone.", ""]
    doubts = {one["doubt"] for one in told if one["doubt"]}
    doubts |= {row["no_counters"] for row in found if row.get("no_counters")}
    return lines + [f"Counters: {doubt}." for doubt in sorted(doubts)]


def by_counter(row: dict):
    """Counted bytes by budget, where there were counters and nothing speaks against them."""
    counters = row.get("counters")
    return None if not counters or counters["doubt"] else counters["ratio"]


def of_inflation(found: list[dict]) -> list[str]:
    """What timing each operation does to a step, and what the timed steps say of its kernels."""
    body = []
    for row in found:
        for phase, ratio in row["inflation"].items():
            low, high = ratio["quartiles"]
            body.append([row["precision"], row["batch"], phase, row["timed_by"],
                         figure(ratio["median"], 3), f"{low:.3f} … {high:.3f}", ratio["pairs"]])
    lines = ["The time of timed steps by that of the same steps untimed, pair by pair:", "",
             *table(["weights", "batch", "steps", "timed by", "median", "quartiles", "pairs"],
                    body)] if body else []
    shares = [[row["precision"], row["batch"],
               ", ".join(f"{kernel} {percent(share)}" for kernel, share in
                         sorted(row["decode_shares"].items(), key=lambda entry: -entry[1])[:5]),
               percent(1 - sum(row["decode_shares"].values()))] for row in found]
    return lines + ["Of the time of timed decode steps:", "",
                    *table(["weights", "batch", "largest kernels", "between kernels"], shares)]


def grid(found: list[dict], across: str) -> list[str]:
    """Shares of floors: kernels down, `across` to the right."""
    columns = sorted({row[across] for row in found})
    body = []
    for kernel in dict.fromkeys(row["kernel"] for row in found):
        cells = []
        for column in columns:
            here = [row["share"] for row in found
                    if row["kernel"] == kernel and row[across] == column]
            cells.append(percent(statistics.median(here)) if here else "–")
        body.append([kernel, *cells])
    return table(["kernel", *map(str, columns)], body)


def of_kernels(evidence: dict) -> list[str]:
    best, found = ceilings(evidence), rows(evidence, "kernels")
    lines = []
    if best:
        rates = ", ".join(f"{name} {rate / 1e12:.1f}" for name, rate in best["ops_per_s"].items())
        lines += [f"Ceilings: reading {best['read_bytes_per_s'] / 1e9:.0f} GB/s, copying "
                  f"{best['copy_bytes_per_s'] / 1e9:.0f} GB/s, near memory "
                  f"{best['cache_bytes_per_s'] / 1e9:.0f} GB/s, a launch "
                  f"{best['launch_floor_ns'] / 1e3:.1f} µs; Tops/s: {rates}.", ""]
    told = {entry["timed_by"] for part in evidence["parts"]
            for entry in part.get("ceilings", {}).values()}
    lines += [" ".join(["The floor of each kernel by its median time.",
                        *(TOLD[way] for way in sorted(told))]), ""]
    for precision in dict.fromkeys(row["precision"] for row in found):
        of = [row for row in found if row["precision"] == precision]
        decode = [row for row in of if row["phase"] == "decode"]
        for context in sorted({row["context"] for row in decode}):
            lines += [f"{precision}, decode behind {context} tokens, by sequences:", ""]
            lines += grid([row for row in decode if row["context"] == context], "sequences")
        prefill = [row for row in of if row["phase"] == "prefill" and row["context"] == 0]
        if prefill:
            lines += [f"{precision}, prefill from nothing, by rows:", "", *grid(prefill, "rows")]
    return lines


def by_stack(evidence: dict) -> dict:
    """Decode and prefill of each stack and batch; the engine's are the medians of its turns."""
    found: dict = {}
    for row in rows(evidence, "peers"):
        place = found.setdefault((row["stack"], row["batch"]), {"decode": [], "prefill": []})
        for rate in place:
            place[rate].append(row[rate]["median"])
    return {key: {rate: statistics.median(all_of) for rate, all_of in place.items()}
            for key, place in found.items()}


def of_peers(evidence: dict) -> list[str]:
    found = by_stack(evidence)
    stacks = list(dict.fromkeys(stack for stack, _ in found))
    lines = []
    for rate in ("decode", "prefill"):
        body = []
        for batch in sorted({batch for _, batch in found}):
            cells = [found.get((stack, batch), {}).get(rate) for stack in stacks]
            body.append([batch, *(figure(cell) for cell in cells)])
        lines += table([f"{rate}, tokens/s, batch", *stacks], body)
    versions = {part["torch"] for part in evidence["parts"] if part.get("torch")}
    return lines + ([f"PyTorch {', '.join(sorted(versions))}, bf16."] if versions else [])


def of_recording(evidence: dict) -> list[str]:
    return [f"{row['share_ppm'] / 1e4:.2f} % of a step over {row['pairs']} pairs (quartiles "
            f"{row['share_ppm_quartiles'][0] / 1e4:.2f} … "
            f"{row['share_ppm_quartiles'][1] / 1e4:.2f} %)." for row in rows(evidence, "recording")]


def of_energy(evidence: dict) -> list[str]:
    lines = []
    for row in rows(evidence, "energy"):
        held = ("" if row["valid"] else " Not valid: " + "; ".join(row["reasons"]) + ".")
        power = ("it told no power" if row["ratio"] is None else
                 f"power integrates to {row['integrated_j']:.1f} J: {row['ratio']:.3f} of it")
        lines.append(f"Over {row['seconds']:.1f} s the counter rose by {row['counter_j']:.1f} J; "
                     f"{power}.{held}")
        if row["counted_by_budget"] is not None:
            lines.append(f"While requests were played, the card's counters saw "
                         f"{row['activity']['memory_bytes'] / 1e9:.1f} GB go to and from its "
                         f"memory: {row['counted_by_budget']:.3f} of the launches' budgets.")
    return lines


def product_share(evidence: dict, precision: str):
    """Bytes per second of matrix–vector products of one row, by those of copying."""
    copying = ceilings(evidence).get("copy_bytes_per_s")
    found = [row for row in rows(evidence, "kernels")
             if row["precision"] == precision and row["phase"] == "decode"
             and row["sequences"] == 1 and row["kernel"] in PRODUCTS]
    time = sum(row["median_ns"] * row["launches"] for row in found)
    moved = sum(row["bytes"] * row["launches"] for row in found)
    return moved / (time / 1e9) / copying if time and copying else None


def attention_share(evidence: dict):
    """The same of decode attention, where it reads most."""
    copying = ceilings(evidence).get("copy_bytes_per_s")
    found = [row for row in rows(evidence, "kernels") if row["kernel"] == "attention_decode"]
    if not found or not copying:
        return None
    row = max(found, key=lambda row: row["bytes"])
    return row["bytes"] / (row["median_ns"] / 1e9) / copying


def prefill_share(evidence: dict):
    """Operations per second of a whole prefill step, the longest, by those of the matrix roof."""
    roof = ceilings(evidence).get("ops_per_s", {}).get("bf16")
    found = [row for row in rows(evidence, "kernels")
             if row["precision"] == "bf16" and row["phase"] == "prefill" and row["context"] == 0]
    if not found or not roof:
        return None
    most = max(row["rows"] for row in found)
    step = [row for row in found if row["rows"] == most]
    time = sum(row["median_ns"] * row["launches"] for row in step)
    return sum(row["ops"] * row["launches"] for row in step) / (time / 1e9) / roof


def goals(evidence: dict) -> list[list]:
    """What was to be reached, what was found, and whether that is enough."""
    lines = []

    def goal(what: str, wanted: float, found, unit=percent, at_most=False):
        reached = None if found is None else (found <= wanted if at_most else found >= wanted)
        word = {None: "not measured", True: "yes", False: "NO"}[reached]
        sign = "≤" if at_most else "≥"
        lines.append([what, f"{sign} {unit(wanted)}", unit(found), word])

    times = lambda value: figure(value, 2)
    for precision in ("bf16", "e4m3"):
        goal(f"matrix–vector, {precision}, of copying", 0.85, product_share(evidence, precision))
    four = [share for share in (product_share(evidence, name) for name in FOUR_BITS)
            if share is not None]
    goal("matrix–vector, 4 bits, of copying", 0.75, min(four) if four else None)
    goal("decode attention, of copying", 0.80, attention_share(evidence))
    single = [row["read_share"] for row in rows(evidence, "speed")
              if row["batch"] == 1 and row["precision"] == "bf16"]
    goal("decode of one sequence, of plain reading", 0.70, min(single) if single else None)
    goal("prefill, of the matrix roof", 0.60, prefill_share(evidence))
    named = {row["name"]: row["tokens_per_s"] for row in rows(evidence, "techniques")}
    all_of, naive = named.get("all"), named.get("naive")
    goal("all techniques over naive", 12.0, all_of / naive if all_of and naive else None, times)
    found = by_stack(evidence)
    over = [found[("gemba", batch)]["decode"] / place["decode"]
            for (stack, batch), place in found.items()
            if stack == "torch compiled" and ("gemba", batch) in found]
    goal("decode over compiled PyTorch, least batch by batch", 1.0, min(over) if over else None,
         times)
    shares = [row["share_ppm"] / 1e6 for row in rows(evidence, "recording")]
    goal("recording", 0.01, max(shares) if shares else None, at_most=True)
    return lines


SECTIONS = {
    "proofs": ("Kernels against a 64-bit reference, engines against the CPU", of_proofs),
    "sanitizer": ("compute-sanitizer", of_sanitizer),
    "techniques": ("What each technique brings", of_techniques),
    "speed": ("Prefill and decode", of_speed),
    "kernels": ("Kernels and their floors", of_kernels),
    "peers": ("Peers", of_peers),
    "recording": ("What recording costs", of_recording),
    "energy": ("Energy: counter against power", of_energy),
}


def page(evidence: dict) -> str:
    lines = [*head(evidence), "## What was to be reached", "",
             *table(["goal", "wanted", "found", "reached"], goals(evidence))]
    for name, (title, section) in SECTIONS.items():
        if rows(evidence, name):
            lines += [f"## {title}", "", *section(evidence), ""]
    return "\n".join(lines).rstrip() + "\n"


def main(out: pathlib.Path, folders: list[pathlib.Path]) -> int:
    try:
        evidence = gathered(folders)
    except Mixed as mixed:
        print(f"evidence: {mixed}", file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    (out / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
    (out / "evidence.md").write_text(page(evidence))
    print(out / "evidence.md")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("expected OUT FOLDER…, see tests/gpu/run --help")
    sys.exit(main(pathlib.Path(sys.argv[1]), [pathlib.Path(word) for word in sys.argv[2:]]))
