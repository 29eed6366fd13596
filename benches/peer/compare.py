"""Measures gemba and llama.cpp in turns and prints both side by side."""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import model

HERE = Path(__file__).parent

# What is measured: sequences, tokens of each prompt, tokens generated, and which rate counts.
POINTS = {
    "batch 1": (1, 32, 32, "decode"),
    "batch 4": (4, 32, 32, "decode"),
    "batch 16": (16, 32, 16, "decode"),
    "prefill 512": (1, 512, 1, "prefill"),
}


class Llama:
    """A process that keeps a model open in llama.cpp."""

    def __init__(self, path):
        command = [sys.executable, str(HERE / "llama.py"), str(path)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, threads, batch, prompt, gen):
        """Tokens per second of prefill and of decode."""
        wanted = {"threads": threads, "batch": batch, "prompt": prompt, "gen": gen}
        print(json.dumps(wanted), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"llama.cpp ended with {self.process.wait()}")
        return json.loads(answer)

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def gemba(binary, path, precision, threads, batch, prompt, gen):
    """Tokens per second of prefill and of decode."""
    command = [binary, "bench", "--model", str(path), "--precision", precision]
    command += ["--threads", str(threads), "--batch", str(batch), "--prompt", str(prompt)]
    command += ["--gen", str(gen), "--repeats", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return {"prefill": answer["prefill_tokens_per_s"], "decode": answer["decode_tokens_per_s"]}


def numbers(text):
    return [int(word) for word in text.split(",")]


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gemba", required=True)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="bf16,q8_0,q4_0")
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--point", default=",".join(POINTS))
    parser.add_argument("--json", type=Path, help="where to write every sample")
    return parser.parse_args()


def main():
    options = arguments()
    header = f"{'precision':9} {'threads':>7}  {'point':11} {'llama.cpp tok/s':>25}"
    print(f"{header} {'gemba tok/s':>25} {'ratio':>6} {'weights GB/s':>14}", flush=True)
    outcomes = []
    for precision in options.precision.split(","):
        path = options.models / f"random-1.1b-{precision}.gguf"
        model.write(path, precision)
        llama = Llama(path)
        for threads in options.threads:
            for point in options.point.split(","):
                batch, prompt, gen, rate = POINTS[point]
                theirs, ours = [], []
                for _ in range(options.repeats):
                    theirs.append(llama.measure(threads, batch, prompt, gen)[rate])
                    answer = gemba(options.gemba, path, precision, threads, batch, prompt, gen)
                    ours.append(answer[rate])
                outcome = {"precision": precision, "threads": threads, "point": point}
                outcomes.append({**outcome, "llama.cpp": theirs, "gemba": ours})
                show(precision, threads, point, batch, theirs, ours)
        llama.close()
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=1) + "\n")


def show(precision, threads, point, batch, theirs, ours):
    """Medians with the range of the samples; the ratio is that of the medians."""

    def spread(samples):
        middle = statistics.median(samples)
        return f"{middle:.1f} ({min(samples):.1f}–{max(samples):.1f})"

    def weights(samples):
        if point.startswith("prefill"):
            return "–"
        steps = statistics.median(samples) / batch
        return f"{steps * model.weight_bytes(precision) / 1e9:.1f}"

    ratio = statistics.median(ours) / statistics.median(theirs)
    line = f"{precision:9} {threads:>7}  {point:11} {spread(theirs):>25} {spread(ours):>25}"
    print(f"{line} {ratio:>5.2f}× {weights(theirs):>6} {weights(ours):>7}", flush=True)


if __name__ == "__main__":
    main()
