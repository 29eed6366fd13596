"""Runs gemba in turns with and without telemetry: cost.py GEMBA PAIRS [OPTIONS…]."""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Device time in these is no service: `gemba gate` leaves it out of service_time_per_token too.
IDLE = {
    "no_demand", "slo_headroom", "upstream", "batch_fill", "capacity", "changeover",
    "fault_recovery", "observer",
}
RUN = [
    "run", "steady", "--speedup", "1000", "--num-requests", "64", "--observer-pairs", "0",
    "--ui", "none",
]


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    received = 0

    def do_POST(self):
        Receiver.received += len(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def service_time(gemba, folder, more):
    """Nanoseconds of service per accepted token of a run."""
    said = subprocess.run([gemba, *RUN, "--output-dir", folder, *more], capture_output=True)
    if said.returncode != 0:
        sys.exit(f"the run failed: {said.stderr.decode()}")
    ledger = json.loads(subprocess.check_output([gemba, "ledger", folder, "--json"]))
    tokens = json.load(open(f"{folder}/summary.json"))["requests"]["accepted_tokens"]
    booked = (
        cause["amount"]
        for cause in ledger["causes"]
        if cause["commodity"] == "device_time" and cause["cause"] not in IDLE
    )
    return sum(booked) / tokens


def main():
    gemba, pairs, options = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    otlp = ["--otlp", f"http://127.0.0.1:{server.server_port}"]
    ratios = []
    with tempfile.TemporaryDirectory() as work:
        # The first run calibrates the machine; the measurements are kept for the others.
        service_time(gemba, f"{work}/first", options)
        for pair in range(pairs):
            sides = [("without", options), ("with", options + otlp)]
            # The one that went first goes second the next time: a drift favours neither.
            if pair % 2 == 1:
                sides.reverse()
            took = {name: service_time(gemba, f"{work}/{pair}-{name}", more) for name, more in sides}
            ratios.append(took["with"] / took["without"])
            print(f"pair {pair + 1}: {ratios[-1]:.4f}", flush=True)
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    mean = math.exp(statistics.fmean(map(math.log, ratios)))
    load = os.getloadavg()[0]
    print(
        f"device time per accepted token with telemetry ÷ without: median {median:.4f}, quartiles "
        f"{low:.4f} to {high:.4f}, mean {mean:.4f}, {pairs} pairs, {os.cpu_count()} cores, load "
        f"{load:.1f}; {Receiver.received / (pairs or 1) / 1e6:.2f} MB received per run"
    )
    if Receiver.received == 0:
        sys.exit("nothing was received: this measured nothing")


main()
