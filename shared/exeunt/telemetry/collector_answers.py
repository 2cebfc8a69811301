"""What a collector answers that the exporter of OTLP over HTTP takes for success, and that is none.

It follows no redirect, takes every status below 400 for success and reads no answer (opentelemetry-python 1.45), so a
proxy before the collector can swallow every span without a word. Its session, when it is ours, looks at each answer.
What that raises fails the export; the exporter logs it, and the rate limit of our logs keeps it to some lines.
"""

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse


class NotTaken(requests.RequestException):
    """What was exported has not arrived; the message says why."""


def look_at_answers(session: requests.Session) -> None:
    """Have an exporter's session raise NotTaken where the exporter would see success."""
    session.hooks["response"].append(_look)


def _look(answer: requests.Response, **_: object) -> None:
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if 300 <= answer.status_code < 400:
        where = answer.headers.get("Location", "nowhere")[:200]
        raise NotTaken(
            f"{answer.url} answers {answer.status_code} and leads to {where}, where nothing is sent:"
            " the endpoint in OTEL_EXPORTER_OTLP_* has to be the collector itself"
        )
    if not answer.ok:
        return  # the exporter knows
    if kind == "text/html":
        raise NotTaken(f"{answer.url} answers with a page for people: no collector is there")
    if kind == "application/x-protobuf" and (why := _rejected(answer.content)) is not None:
        raise NotTaken(f"the collector has rejected {why}")


def _rejected(body: bytes) -> str | None:
    """How many spans, or data points of metrics: both answers look alike on the wire."""
    try:
        reported = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:
        return None
    return f"{reported.rejected_spans}: {reported.error_message}" if reported.rejected_spans else None
