"""What tests/gpu/run measured, as one JSON object and a page to read."""

import json
import pathlib
import platform
import sys
import time


def read(path: pathlib.Path):
    return json.loads(path.read_text())


def main(work: pathlib.Path, folder: pathlib.Path, commit: str) -> None:
    bench = [json.loads(line) for line in (work / "bench.jsonl").read_text().splitlines()]
    refused = work / "refused"
    header = read(work / "run" / "run.json")
    evidence = {
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "system": f"{platform.system()} {platform.release()}",
        "doctor": read(work / "doctor.json"),
        "devices": header["devices"],
        "bench": bench,
        "refused": refused.read_text().splitlines() if refused.exists() else [],
        "run": read(work / "run.json"),
        "ledger": read(work / "ledger.json"),
    }
    device = evidence["devices"][0]
    ceilings = device["ceilings"]
    lines = [
        f"# {device['name']}",
        "",
        f"Commit {commit}, {evidence['date']}, {evidence['system']}.",
        "",
        f"Ceilings measured by the same binary: reading {ceilings['read_bytes_per_s'] / 1e9:.0f} GB/s, "
        f"copying {ceilings['copy_bytes_per_s'] / 1e9:.0f} GB/s, a launch "
        f"{ceilings['launch_floor_ns'] / 1e3:.1f} µs.",
        "",
        "| model | weights | batch | prefill, tokens/s | decode, tokens/s | least | most "
        "| weights read, GB/s | of plain reading |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in bench:
        lines.append(
            f"| {row['model']} | {row['precision']} | {row['batch']} "
            f"| {row['prefill_tokens_per_s']:.0f} | {row['decode_tokens_per_s']:.1f} "
            f"| {row['decode']['least']:.1f} | {row['decode']['most']:.1f} "
            f"| {row['weight_bytes_per_s'] / 1e9:.0f} | {100 * row['read_share']:.0f} % |"
        )
    lines += [f"\nDid not run: {what}." for what in evidence["refused"]]
    lines += ["", "## Where the time of a run went", "", "| cause | device time |", "|---|---|"]
    shares: dict[str, float] = {}
    for row in evidence["ledger"]["causes"]:
        if row["commodity"] == "device_time":
            shares[row["cause"]] = shares.get(row["cause"], 0.0) + row["share"]
    for cause, share in sorted(shares.items(), key=lambda entry: -entry[1]):
        if share >= 0.0005:
            lines.append(f"| {cause} | {100 * share:.1f} % |")
    (folder / "evidence.json").write_text(json.dumps(evidence, indent=1) + "\n")
    (folder / "evidence.md").write_text("\n".join(lines) + "\n")


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3])
