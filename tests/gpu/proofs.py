"""The kernels' own tests on the card: alone, and under compute-sanitizer."""

import os
import re

from machine import HERE, Lacking, Machine, say

# Tests of the shim itself and of the table of entry points: nothing of them runs on a card.
OF_THE_SHIM = ["negative::", "interface::"]
# Of the backend's tests those that put a model on a card and compare with the CPU.
OF_ENGINES = ["engine::", "steps::", "encodings::"]
OUTCOME = re.compile(r"^test (\S+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", re.MULTILINE)


def outcomes(text: str) -> dict[str, str]:
    """What became of each test, by what libtest printed."""
    return {name: word.lower() for name, word in OUTCOME.findall(text)}


def complaint(text: str, name: str) -> str:
    """The first lines of what a failed test said."""
    said = re.search(rf"^---- {re.escape(name)} stdout ----\n(.*?)(?:\n\n|\Z)", text, re.S | re.M)
    return "\n".join(said.group(1).strip().splitlines()[:4]) if said else ""


def suites(machine: Machine) -> list[tuple[str, list[str]]]:
    """Each binary of tests with its filters. PROOFS narrows both."""
    only = os.environ.get("PROOFS", "").split()
    skip = [word for name in OF_THE_SHIM for word in ("--skip", name)]
    kernels = [*only, *skip]
    engines = [word for word in only if any(word.startswith(of) for of in OF_ENGINES)]
    all_suites = [("kernels", kernels), ("engines", engines if only else OF_ENGINES)]
    return [(name, words) for name, words in all_suites if name == "kernels" or words]


def listed(machine: Machine, binary: str, words: list[str]) -> list[str]:
    done = machine.run([binary, "--list", *words], 60)
    if done.code != 0:
        raise Lacking(f"{binary} --list: {done.why()}")
    return [line[: -len(": test")] for line in done.out.splitlines() if line.endswith(": test")]


def proofs(machine: Machine, _chosen: list[str]) -> dict:
    """The vectors of tests/kernels and the engines of tests/cuda, through the product's driver."""
    rows, lacks = [], []
    for suite, words in suites(machine):
        binary = machine.binary(suite)
        names = listed(machine, binary, words)
        say(f"{suite}: {len(names)} tests")
        done = machine.run([binary, f"--test-threads={os.environ.get('PROOF_THREADS', '4')}",
                            *words], GEMBA_CARD=machine.card)
        found = outcomes(done.out)
        if not done.ended_in_time:
            lacks.append(f"{suite}: {done.why()}")
        for name in names:
            outcome, said = found.get(name, "not run"), complaint(done.out, name)
            if outcome == "failed" and machine.left() > 5:
                # A kernel that faults takes all that runs beside it along: each alone says more.
                again = machine.run([binary, "--exact", name], GEMBA_CARD=machine.card)
                outcome = outcomes(again.out).get(name, "failed")
                said = complaint(again.out, name) or again.why()
                outcome = "ok alone only" if outcome == "ok" else outcome
            rows.append({"suite": suite, "test": name, "outcome": outcome}
                        | ({"said": said} if outcome not in ("ok", "not run") else {}))
    if not any(row["outcome"] == "ok" for row in rows):
        lacks.append("no test passed")
    return {"rows": rows, "lacks": lacks}


# The driver looks for a kernel in one image after another, and each miss is an error of an API that
# is expected; real ones end a test. Padding keeps what is behind a buffer out of the next one.
MEMCHECK = ["--padding", "256", "--report-api-errors", "no"]
TOOLS = {"memcheck": ("write", MEMCHECK), "racecheck": ("race", [])}
SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")


def found_errors(log: str) -> int | None:
    """What the tool counted; none if it wrote no summary."""
    counts = [int(count) for count in SUMMARY.findall(log)]
    return sum(counts) if counts else None


def sanitizer(machine: Machine, chosen: list[str]) -> dict:
    """compute-sanitizer over the kernels' tests, after it has found a planted mistake."""
    rows, lacks = [], []
    program = machine.tool("compute-sanitizer")
    if not program:
        raise Lacking("compute-sanitizer: not on PATH, nor in /usr/local/cuda*/bin")
    binary = machine.binary("kernels")
    planted = machine.work / "planted"
    compiler = machine.tool("nvcc")
    if not compiler:
        lacks.append("nvcc: that the tools find what is planted was not shown")
    else:
        done = machine.run([compiler, "-arch=native", "-o", str(planted),
                            str(HERE / "planted.cu")], 120)
        if done.code != 0:
            lacks.append(f"planted.cu was not compiled: {done.why()}")
            compiler = None
    wanted = [tool for tool in TOOLS if not chosen or tool in chosen]
    for at, tool in enumerate(wanted):
        mistake, options = TOOLS[tool]
        log = machine.work / f"{tool}.log"
        sanitized = [program, "--tool", tool, *options, "--log-file", str(log)]
        row = {"tool": tool, "finds_planted": None}
        if compiler:
            machine.run([*sanitized, str(planted), mistake], 60)
            row["finds_planted"] = bool(found_errors(log.read_text() if log.exists() else ""))
            log.unlink(missing_ok=True)
            if not row["finds_planted"]:
                lacks.append(f"{tool} did not find what is planted: its silence says nothing")
        words = suites(machine)[0][1]
        names = listed(machine, binary, words)
        # An even share of what is left, so that the second tool has its turn.
        done = machine.run([*sanitized, binary, "--test-threads=1", *words],
                           machine.left() / (len(wanted) - at), GEMBA_CARD=machine.card,
                           GEMBA_CARD_EXACT="1")
        found = outcomes(done.out)
        text = log.read_text() if log.exists() else ""
        row |= {
            "errors": found_errors(text),
            "ran": sum(name in found for name in names),
            "failed": [name for name in names if found.get(name) == "failed"],
            "not_run": [name for name in names if name not in found],
            "log": [line for line in text.splitlines() if line.strip("= ")][:60],
        }
        if not done.ended_in_time:
            lacks.append(f"{tool}: {done.why()}, {row['ran']} of {len(names)} tests")
        elif row["errors"] is None:
            lacks.append(f"{tool} wrote no summary: {done.why()}")
        elif done.code != 0 or row["not_run"]:
            # A process that dies leaves a clean summary of what it came to.
            lacks.append(f"{tool}: {row['ran']} of {len(names)} tests, {done.why()}")
        rows.append(row)
    return {"rows": rows, "lacks": lacks}
