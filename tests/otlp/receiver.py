"""OTLP receivers over HTTP and gRPC that keep what they decode and answer as they are told."""

import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_pb
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_grpc


class Kept:
    """What was received. `busy` requests are put off first; `rejected` spans of each are not
    taken."""

    def __init__(self, busy=0, rejected=0):
        self.lock = threading.Lock()
        self.busy, self.rejected = busy, rejected
        self.asked = 0
        self.traces, self.metrics, self.heads = [], [], []

    def put_off(self):
        with self.lock:
            self.asked += 1
            return self.asked <= self.busy

    def answer(self, request):
        """Keeps a request; gives its answer."""
        with self.lock:
            if isinstance(request, trace_pb.ExportTraceServiceRequest):
                self.traces.append(request)
                answer = trace_pb.ExportTraceServiceResponse()
                if self.rejected:
                    answer.partial_success.rejected_spans = self.rejected
                    answer.partial_success.error_message = "not these"
                return answer
            self.metrics.append(request)
            return metrics_pb.ExportMetricsServiceResponse()

    def spans(self):
        return [
            (resource.resource, span)
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def last_metrics(self):
        metrics = {}
        for request in self.metrics:
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    metrics.update({metric.name: metric for metric in scope.metrics})
        return metrics


class Http:
    """A receiver over HTTP/1.1."""

    def __init__(self, kept):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                kept.heads.append(dict(self.headers.items()))
                if self.headers["content-type"] != "application/x-protobuf":
                    return self.reply(415, b"")
                if kept.put_off():
                    return self.reply(503, b"", {"Retry-After": "1"})
                kinds = {
                    "/v1/traces": trace_pb.ExportTraceServiceRequest,
                    "/v1/metrics": metrics_pb.ExportMetricsServiceRequest,
                }
                if self.path not in kinds:
                    return self.reply(404, b"")
                request = kinds[self.path]()
                request.ParseFromString(body)
                self.reply(200, kept.answer(request).SerializeToString())

            def reply(self, status, body, more={}):
                self.send_response(status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(body)))
                for name, value in more.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self):
        self.server.shutdown()


class Grpc:
    """A receiver over gRPC."""

    def __init__(self, kept):
        def export(request, context):
            kept.heads.append(dict(context.invocation_metadata()))
            if kept.put_off():
                # google.rpc.Status with a RetryInfo of a second, field by field: the package
                # with these messages is not needed for anything else.
                delay = duration_pb2.Duration(seconds=1).SerializeToString()
                info = b"\x0a" + bytes([len(delay)]) + delay
                detail = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=info)
                detail = detail.SerializeToString()
                status = b"\x08\x08\x12\x04busy\x1a" + bytes([len(detail)]) + detail
                context.set_trailing_metadata([("grpc-status-details-bin", status)])
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "busy")
            return kept.answer(request)

        class Traces(trace_grpc.TraceServiceServicer):
            def Export(self, request, context):
                return export(request, context)

        class Metrics(metrics_grpc.MetricsServiceServicer):
            def Export(self, request, context):
                return export(request, context)

        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        trace_grpc.add_TraceServiceServicer_to_server(Traces(), self.server)
        metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.url = f"grpc://127.0.0.1:{port}"

    def stop(self):
        self.server.stop(0)
