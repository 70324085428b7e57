"""A receiver of spans by OTLP, with the messages that OpenTelemetry publishes.  Usage: otlp_collector.py HOST PORT

Takes gRPC at PORT and POSTs of protobuf at PORT + 1 (path /v1/traces). Prints {"listening": ADDRESS} when ready, and each
span as a JSON line. A batch with a span of the path /overloaded is refused twice with the protocol's word for "again later",
and a line {"refused": PATH} is printed each time.
"""

import json
import sys
import threading
from collections.abc import Iterable
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

printing = threading.Lock()
refusals_left = {"/overloaded": 2}


def say(line: dict[str, Any]) -> None:
    with printing:
        print(json.dumps(line), flush=True)


def plain(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes by name; a name that stands there twice is an error of the sender."""
    values: dict[str, Any] = {}
    for attribute in attributes:
        if attribute.key in values:
            raise ValueError(f"attribute {attribute.key} twice")
        kind = attribute.value.WhichOneof("value")
        values[attribute.key] = getattr(attribute.value, kind) if kind else None
    return values


def refused(request: service.ExportTraceServiceRequest) -> bool:
    spans = (span for r in request.resource_spans for scope in r.scope_spans for span in scope.spans)
    paths = {plain(span.attributes).get("url.path") for span in spans}
    for path in paths & refusals_left.keys():
        if refusals_left[path] > 0:
            refusals_left[path] -= 1
            say({"refused": path})
            return True
    return False


def take(request: service.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
    for spans in request.resource_spans:
        resource = plain(spans.resource.attributes)
        for scope in spans.scope_spans:
            for span in scope.spans:
                say(
                    {
                        "trace": span.trace_id.hex(),
                        "span": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "name": span.name,
                        "kind": Span.SpanKind.Name(span.kind),
                        "status": Status.StatusCode.Name(span.status.code),
                        "nanoseconds": span.end_time_unix_nano - span.start_time_unix_nano,
                        "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
                        "attributes": plain(span.attributes),
                        "resource": resource,
                        "scope": scope.scope.name,
                        "headers": headers,
                    }
                )


class Grpc(rpc.TraceServiceServicer):
    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        if refused(request):
            context.abort(grpc.StatusCode.UNAVAILABLE, "overloaded")
        take(request, {"protocol": "grpc", **{key: str(value) for key, value in context.invocation_metadata()}})
        return service.ExportTraceServiceResponse()


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            return self.answer(404, b"")
        request = service.ExportTraceServiceRequest.FromString(body)
        if refused(request):
            return self.answer(503, b"")
        take(request, {"protocol": "http", **dict(self.headers)})
        self.answer(200, service.ExportTraceServiceResponse().SerializeToString())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def main(host: str, port: int) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    rpc.add_TraceServiceServicer_to_server(Grpc(), server)
    server.add_insecure_port(f"{host}:{port}")
    server.start()
    web = ThreadingHTTPServer((host, port + 1), Http)
    say({"listening": f"{host}:{port}"})
    web.serve_forever()


main(sys.argv[1], int(sys.argv[2]))
