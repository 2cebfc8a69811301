"""Logs, metrics and traces, by OpenTelemetry's conventions.

`metrics` is the table of all metrics, made of `instruments` and served by `prometheus`; `tracing` makes one trace for
each stop (`stop_trace`), of `spans`; `semconv` pins the names of attributes; `logs` writes JSON lines. `variables`
checks OTEL_*, `configured` sets up what there is without them, `exporting` what they ask for; `otlp_http` and
`collector_answers` send it.
"""
