"""HolisticTraceAnalysis opens the trace and finds every operation: read_hta.py RUN."""

import json
import sys
import warnings

warnings.filterwarnings("ignore")

from hta.trace_analysis import TraceAnalysis  # noqa: E402

run = sys.argv[1]
trace = f"{run}/export/trace.json"
events = json.load(open(trace))["traceEvents"]
kernels = [event for event in events if event.get("cat") == "kernel"]
analysis = TraceAnalysis(trace_files={0: trace}, trace_dir=run)

rows = analysis.t.get_trace(0)
on_device = rows[rows["stream"] >= 0]
assert len(on_device) == len(kernels), (len(on_device), len(kernels))

by_type, by_kernel = analysis.get_gpu_kernel_breakdown(visualize=False, num_kernels=100)
expected = {}
for event in kernels:
    expected[event["name"]] = expected.get(event["name"], 0) + event["dur"]
# It rounds beginnings up and ends down to microseconds.
total = sum(expected.values())
busy = by_type["sum"].sum()
assert abs(busy - total) <= 2 * len(kernels) + 1, (busy, total)
assert set(by_type["kernel_type"]) == {"COMPUTATION"}, by_type
assert set(by_kernel["name"]) - {"others"} <= set(expected), by_kernel

breakdown = analysis.get_temporal_breakdown(visualize=False).iloc[0]
span = max(e["ts"] + e["dur"] for e in kernels) - min(e["ts"] for e in kernels)
assert abs(breakdown["kernel_time(us)"] - span) <= 2, (breakdown, span)
idle = analysis.get_idle_time_breakdown(ranks=[0], visualize=False)[0]
assert abs(idle["idle_time"].sum() - breakdown["idle_time(us)"]) <= 2 * len(kernels), idle
print(f"{len(kernels)} operations, {len(expected)} kernels, busy {busy / 1e6:.3f} s")
