"""Runs llama.cpp through its own interface, one measurement per line of standard input.

A line is a JSON object with threads, batch, prompt and gen; the answer is one with the tokens
per second of prefill and decode. Timed are calls of llama_decode alone, without sampling: the
prompts of all sequences in batches of up to 512 rows, then gen steps of one row per sequence.
"""

import ctypes
import json
import sys
import time

import llama_cpp as llama

CHUNK = 512
VOCAB = 32000


@llama.llama_log_callback
def silence(_level, _text, _data):
    """Standard error is for failures."""


class Runner:
    """A model and the contexts made for it."""

    def __init__(self, path):
        llama.llama_log_set(silence, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(
            path.encode(), llama.llama_model_default_params()
        )
        if not self.model:
            raise SystemExit(f"llama.cpp could not open {path}")

    def measure(self, threads, batch, prompt, gen):
        """Tokens per second of prefill and of decode."""
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = -(-(prompt + gen + 1) // 256) * 256 * batch
        parameters.n_batch = parameters.n_ubatch = CHUNK
        parameters.n_seq_max = batch
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        context = llama.llama_init_from_model(self.model, parameters)
        if not context:
            raise SystemExit("llama.cpp could not make a context")
        rows = llama.llama_batch_init(CHUNK, 0, 1)
        try:
            # The first steps only warm up: threads start, memory is touched.
            for _ in range(2):
                self.decode(context, rows, [(0, 0, True)])
                llama.llama_memory_clear(llama.llama_get_memory(context), True)
            prompts = [
                (sequence, position, position == prompt - 1)
                for sequence in range(batch)
                for position in range(prompt)
            ]
            start = time.perf_counter()
            for first in range(0, len(prompts), CHUNK):
                self.decode(context, rows, prompts[first : first + CHUNK])
            middle = time.perf_counter()
            for step in range(gen):
                steps = [(sequence, prompt + step, True) for sequence in range(batch)]
                self.decode(context, rows, steps)
            end = time.perf_counter()
        finally:
            llama.llama_batch_free(rows)
            llama.llama_free(context)
        return {
            "prefill": batch * prompt / (middle - start),
            "decode": batch * gen / (end - middle) if gen else 0.0,
        }

    def decode(self, context, rows, wanted):
        """Runs one batch of (sequence, position, whether logits are wanted)."""
        rows.n_tokens = len(wanted)
        for index, (sequence, position, logits) in enumerate(wanted):
            rows.token[index] = 3 + (sequence * 7919 + position * 104729) % (VOCAB - 3)
            rows.pos[index] = position
            rows.n_seq_id[index] = 1
            rows.seq_id[index][0] = sequence
            rows.logits[index] = logits
        if llama.llama_decode(context, rows) != 0:
            raise SystemExit("llama.cpp could not decode")
        llama.llama_synchronize(context)


def main():
    runner = Runner(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(runner.measure(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
