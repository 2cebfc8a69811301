#!/usr/bin/env bash
# OpenTelemetry for Python, OTLP over HTTP: a redirect counts as a successful export, and nothing is sent anywhere.
#
# Guessed: a collector behind a proxy that answers 308 is either followed (308 keeps method and body) or counts as an
#   export that failed, since OTLP's specification has a server answer 200 when it has taken the data.
# Seen: the exporter does not follow, takes any status from 200 to 399 for success, returns SUCCESS and logs nothing. The
#   same for a 200 whose body is a page to sign in, and for a 200 whose body says that every span was rejected.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  opentelemetry-sdk==1.45.2 opentelemetry-exporter-otlp-proto-http==1.45.2

"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

REJECTED = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message="quota exceeded")
).SerializeToString()
ANSWERS = {
    "/redirect": (308, {"Location": "/elsewhere"}, b""),
    "/page": (200, {"Content-Type": "text/html"}, b"<html>Sign in</html>"),
    "/rejected": (200, {"Content-Type": "application/x-protobuf"}, REJECTED),
    "/refused": (400, {}, b""),
}
asked = []


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        asked.append(self.path)
        status, headers, body = ANSWERS.get(self.path, (200, {}, b""))
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Kept(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())


class Telling(SpanExporter):
    def __init__(self, exporter):
        self.exporter = exporter

    def export(self, spans):
        self.result = self.exporter.export(spans)
        return self.result


logged = []
logging.basicConfig(handlers=[Kept()], level=logging.WARNING)
server = HTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("opentelemetry-exporter-otlp-proto-http", version("opentelemetry-exporter-otlp-proto-http"))
seen = {}
for path in ANSWERS:
    logged.clear()
    exporter = Telling(OTLPSpanExporter(endpoint=f"http://127.0.0.1:{server.server_port}{path}"))
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("t").start_span("lost").end()
    seen[path] = (exporter.result.name, len(logged))
    print(f"{path}: {ANSWERS[path][0]} -> {exporter.result.name}, logged: {logged or 'nothing'}")
print("paths asked:", asked)
silent = all(seen[path] == ("SUCCESS", 0) for path in ("/redirect", "/page", "/rejected"))
told = seen["/refused"] == ("FAILURE", 1)
sys.exit(0 if silent and told and "/elsewhere" not in asked else 1)
PYTHON
