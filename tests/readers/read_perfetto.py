"""Perfetto's trace processor opens the trace: read_perfetto.py RUN.

Its Python package downloads the processor itself. Where it cannot, this says so and ends with
77; tests/export.rs holds the trace to the format's rules anyway."""

import json
import os
import subprocess
import sys
import urllib.error

from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig
from perfetto.trace_processor.api import TraceProcessorException

trace = f"{sys.argv[1]}/export/trace.json"
events = json.load(open(trace))["traceEvents"]
config = TraceProcessorConfig(bin_path=os.environ.get("TRACE_PROCESSOR"))
try:
    processor = TraceProcessor(trace=trace, config=config)
except (subprocess.CalledProcessError, urllib.error.URLError, OSError, TraceProcessorException) as error:
    if os.environ.get("TRACE_PROCESSOR"):
        raise
    print(f"SKIPPED: Perfetto's trace processor cannot be downloaded here: {error}")
    sys.exit(77)


def only(query):
    (row,) = processor.query(query)
    return row


slices = [event for event in events if event["ph"] == "X"]
assert only("select count(*) as n from slice").n == len(slices)
kernels = [event for event in slices if event["cat"] == "kernel"]
found = only("select count(*) as n, sum(dur) as ns from slice where category = 'kernel'")
assert found.n == len(kernels)
assert found.ns == sum(round(event["dur"] * 1000) for event in kernels), found.ns
lost = "select sum(value) as n from stats where severity in ('error', 'data_loss') and value > 0"
assert not only(lost).n, "the processor found faults in the trace"
budget = only(
    "select sum(int_value) as bytes from args join slice using (arg_set_id) "
    "where key = 'args.weight bytes'"
)
assert budget.bytes == sum(event["args"]["weight bytes"] for event in kernels)
counters = {event["name"] for event in events if event["ph"] == "C"}
assert only("select count(*) as n from counter").n > len(counters)
nested = "select count(*) as n from slice where name = 'prefill' and depth = 1"
assert only(nested).n == sum(1 for event in slices if event["name"] == "prefill")
processor.close()
print(f"{len(slices)} slices, {len(kernels)} operations")
