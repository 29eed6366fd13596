"""Sends runs to receivers and looks at what arrived: check.py GEMBA WORK docs/telemetry.md."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter, defaultdict

from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from receiver import Grpc, Http, Kept

GEMBA, WORK, DOCUMENT = sys.argv[1:]
NAMES = set(re.findall(r"^\| `([^`]+)`", open(DOCUMENT).read(), re.MULTILINE))


def gemba(*words, **environment):
    said = subprocess.run(
        [GEMBA, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": f"{WORK}/cache", **environment},
    )
    return said


def ledger(run):
    return json.loads(gemba("ledger", run, "--json").stdout)


def value(any_value):
    return getattr(any_value, any_value.WhichOneof("value"))


def attributes(item):
    return {pair.key: value(pair.value) for pair in item.attributes}


def foreseen(cause, muda, level):
    """What the promise needs of idle time is only known of a finished run as a whole."""
    if cause == "slo_headroom":
        return "no_demand", "waiting", "waste"
    return cause, muda, level


def check_spans(kept, requests):
    """Every request is a trace: request → phases → steps, in time and by name."""
    spans = kept.spans()
    assert spans, "no span arrived"
    for resource, _ in spans:
        described = attributes(resource)
        assert described["service.name"] and described["service.version"], described
        assert not {"host.name", "process.command_line"} & set(described), described
    traces = defaultdict(list)
    for _, span in spans:
        assert len(span.trace_id) == 16 and len(span.span_id) == 8
        traces[span.trace_id].append(span)
    assert len(traces) == requests, (len(traces), requests)
    names = Counter()
    for trace in traces.values():
        by_id = {span.span_id: span for span in trace}
        assert len(by_id) == len(trace), "span ids stand twice"
        (root,) = [span for span in trace if not span.parent_span_id]
        assert root.kind == trace_pb2.Span.SPAN_KIND_SERVER
        said = attributes(root)
        assert root.name == f"text_completion {said['gen_ai.request.model']}"
        failed = "error.type" in said
        assert failed == (root.status.code == trace_pb2.Status.STATUS_CODE_ERROR)
        names["text_completion MODEL"] += 1
        steps = 0
        for span in trace:
            assert span.start_time_unix_nano <= span.end_time_unix_nano
            assert not set(attributes(span)) - NAMES, set(attributes(span)) - NAMES
            if span is root:
                continue
            names[span.name] += 1
            parent = by_id[span.parent_span_id]
            assert span.kind == trace_pb2.Span.SPAN_KIND_INTERNAL
            if span.name == "step":
                steps += 1
                assert parent.name in ("prefill", "decode") or failed, parent.name
                assert span.end_time_unix_nano <= root.end_time_unix_nano or failed
            else:
                assert parent is root
                assert root.start_time_unix_nano <= span.start_time_unix_nano
                assert span.end_time_unix_nano <= root.end_time_unix_nano
        if not failed:
            # The first token comes out of the last step of the prefill.
            decoding = [
                span for span in trace
                if span.name == "step" and attributes(span)["gemba.step.phase"] == "decode"
            ]
            assert len(decoding) + 1 == said["gen_ai.usage.output_tokens"], (len(decoding), said)
    assert set(names) <= NAMES and names["step"] > names["prefill"] > 0, names
    return names


def check_metrics(kept, run, exact):
    """The histograms count the requests, and the books are those of the ledger."""
    metrics = kept.last_metrics()
    assert set(metrics) <= NAMES, set(metrics) - NAMES
    books = ledger(run)
    for name, metric in metrics.items():
        data = getattr(metric, metric.WhichOneof("data"))
        for point in data.data_points:
            assert set(attributes(point)) <= NAMES, attributes(point)
            assert 0 < point.start_time_unix_nano <= point.time_unix_nano
        if name.startswith("gen_ai."):
            assert data.aggregation_temporality == metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
            for point in data.data_points:
                assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
                assert sum(point.bucket_counts) == point.count > 0
                assert point.min <= point.sum / point.count <= point.max
    for point in metrics["gemba.ledger.residual"].gauge.data_points:
        assert point.as_double == 0, attributes(point)
    parts = {
        "gemba.device.time": ("device_time", 1e9),
        "gemba.memory.time": ("memory", 1e9),
        "gemba.memory.moved": ("bytes", 1),
        "gemba.rows": ("rows", 1),
        "gemba.request.time": ("request_time", 1e9),
    }
    for name, (commodity, part) in parts.items():
        booked = Counter()
        for cause in books["causes"]:
            if cause["commodity"] == commodity:
                key = foreseen(cause["cause"], cause["muda"], cause["level"])
                booked[key] += cause["amount"]
        found = {
            tuple(attributes(point)[f"gemba.{key}"] for key in ("cause", "muda", "level")):
            point.as_double * part
            for point in metrics[name].gauge.data_points
        }
        total = sum(booked.values())
        for key in set(booked) | set(found):
            # The last moments of a run that goes on are cut off where it ends.
            slack = 0 if exact else total * 0.02
            off = abs(found.get(key, 0) - booked[key])
            assert off <= slack + total * 1e-12, (name, key, found.get(key), booked[key])
    return metrics


def run_folder(name, *words, **environment):
    folder = f"{WORK}/{name}"
    said = gemba(
        "run", "steady", "--num-requests", "40", "--speedup", "8", "--ui", "none",
        "--observer-pairs", "0", "--output-dir", folder, *words, **environment,
    )
    assert said.returncode == 0, said.stderr
    return folder, said.stderr


def finished_runs(run):
    for kind in (Http, Grpc):
        kept = Kept()
        receiver = kind(kept)
        said = gemba("export", run, "--format", "otlp", "--otlp", receiver.url)
        assert said.returncode == 0, said.stderr
        names = check_spans(kept, 40)
        check_metrics(kept, run, exact=True)
        assert f"{sum(names.values())} spans sent" in said.stdout, said.stdout
        receiver.stop()
        print(f"finished run over {kind.__name__}: {dict(names)}")


def details(run):
    for detail, most in (("request", 1), ("phase", 4)):
        kept = Kept()
        receiver = Http(kept)
        said = gemba(
            "export", run, "--format", "otlp", "--otlp", receiver.url, "--otlp-spans", detail
        )
        assert said.returncode == 0, said.stderr
        counts = Counter(span.trace_id for _, span in kept.spans())
        assert len(counts) == 40 and max(counts.values()) <= most, counts
        receiver.stop()


def headers_and_resource(run):
    for kind in (Http, Grpc):
        kept = Kept()
        receiver = kind(kept)
        said = gemba(
            "export", run, "--format", "otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url.replace("grpc://", "http://"),
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc" if kind is Grpc else "http/protobuf",
            OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20b,x-other=c",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            OTEL_SERVICE_NAME="bench",
        )
        assert said.returncode == 0, said.stderr
        heads = {name.lower(): text for name, text in kept.heads[0].items()}
        assert (heads["x-key"], heads["x-other"]) == ("a b", "c"), heads
        resource = attributes(kept.spans()[0][0])
        assert resource["service.name"] == "bench", resource
        assert resource["deployment.environment.name"] == "test", resource
        receiver.stop()


def busy_and_partial(run):
    for kind in (Http, Grpc):
        kept = Kept(busy=2)
        receiver = kind(kept)
        began = time.monotonic()
        said = gemba("export", run, "--format", "otlp", "--otlp", receiver.url)
        assert said.returncode == 0, said.stderr
        assert time.monotonic() - began >= 2, "it waits as long as it is asked to"
        check_spans(kept, 40)
        receiver.stop()
        kept = Kept(rejected=3)
        receiver = kind(kept)
        said = gemba("export", run, "--format", "otlp", "--otlp", receiver.url)
        assert said.returncode == 2, said.stderr
        refused = 3 * len(kept.traces)
        assert f"{refused} refused by the receiver; at last: not these" in said.stderr, said.stderr
        receiver.stop()


def live_run():
    for kind in (Http, Grpc):
        kept = Kept()
        receiver = kind(kept)
        run, said = run_folder(f"live-{kind.__name__}", "--otlp", receiver.url,
                               OTEL_METRIC_EXPORT_INTERVAL="500")
        names = check_spans(kept, 40)
        check_metrics(kept, run, exact=False)
        assert len(kept.metrics) > 1, "metrics come while it goes on"
        assert f"note: telemetry: {sum(names.values())} spans sent" in said, said
        receiver.stop()


def served():
    kept = Kept()
    receiver = Grpc(kept)
    folder = f"{WORK}/served"
    server = subprocess.Popen(
        [GEMBA, "serve", "--port", "0", "--observer-pairs", "0", "--output-dir", folder,
         "--otlp", receiver.url],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XDG_CACHE_HOME": f"{WORK}/cache"},
    )
    line = server.stderr.readline()
    url = line.split(" on ")[1].strip()
    body = json.dumps({"model": line.split()[1], "prompt": "one two three", "max_tokens": 20,
                       "ignore_eos": True}).encode()
    for _ in range(5):
        head = {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body, head)):
            pass
    server.send_signal(signal.SIGTERM)
    said = server.stderr.read()
    assert server.wait() == 0, said
    check_spans(kept, 5)
    check_metrics(kept, folder, exact=False)
    assert "note: telemetry: " in said and "dropped" not in said, said
    receiver.stop()


run, _ = run_folder("run")
for part in (finished_runs, details, headers_and_resource, busy_and_partial):
    part(run)
    print(f"{part.__name__}: passed")
for part in (live_run, served):
    part()
    print(f"{part.__name__}: passed")
