"""A variable of telemetry that is wrong, as whoever starts a service or a command meets it."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import pytest
import trustme

from actors import kubelet
from actors.collector import Collector, Manner
from exeunt.errors import UsageError
from exeunt.telemetry.variables import check_telemetry, check_what_imports_read, forget_empty

KUBECONFIG: Final = """
apiVersion: v1
kind: Config
current-context: nobody
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
clusters: [{name: nobody, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: nobody, user: {token: none}}]
"""
"""Of a cluster that is away: it is waited for."""

READ_BY_IMPORTS: Final = {
    "OTEL_PROPAGATORS": ("tracecontext,b3multi", "TraceContext", "tracecontext,", "b3,none"),
    "OTEL_PYTHON_CONTEXT": ("another",),
    "OTEL_PYTHON_TRACER_PROVIDER": ("another",),
    "OTEL_PYTHON_METER_PROVIDER": ("another",),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ("-3", "many"),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": ("abc",),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("1.5",),
}
READ_LATER: Final = {
    "OTEL_SDK_DISABLED": ("1", "yes", "maybe"),
    "OTEL_RESOURCE_ATTRIBUTES": ("abc", "a=b,c", "=b"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("another",),
    "OTEL_TRACES_SAMPLER": ("alway_on", " always_on", "jaeger_remote"),
    "OTEL_BSP_SCHEDULE_DELAY": ("abc", "0", "-1", "5s", "1e9"),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("0", "many"),
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": ("99999",),
    "OTEL_BSP_EXPORT_TIMEOUT": ("-1",),
    "OTEL_METRIC_EXPORT_INTERVAL": ("0", "-1", "1m", "nan"),
    "OTEL_METRIC_EXPORT_TIMEOUT": ("abc",),
    "OTEL_METRICS_EXEMPLAR_FILTER": ("some", "ALWAYS_ON"),
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": ("some",),
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": ("some",),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (
        "collector:4318",
        "collector",
        "ftp://x",
        "http://",
        "http://[::1",
        "http://x:http",
    ),
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ("localhost",),
    "OTEL_EXPORTER_OTLP_HEADERS": ("abc", "a b=c", "authorization=a;b", "a=b%0Ac"),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("abc", "0", "-1", "10s", "inf"),
    "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": ("abc",),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("zip",),
    "OTEL_EXPORTER_OTLP_INSECURE": ("maybe",),
    "OTEL_EXPORTER_OTLP_CERTIFICATE": ("/nowhere/ca.pem", os.devnull),
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": ("/nowhere/client.pem",),
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": ("/nowhere/client.key",),
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": ("another",),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": ("maybe",),
}
WRONG: Final = [(name, value) for table in (READ_BY_IMPORTS, READ_LATER) for name in table for value in table[name]]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_cannot_be_followed_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        check_telemetry({name: value})


def test_a_ratio_is_a_share() -> None:
    for wrong in ("abc", "7", "-1", "nan"):
        with pytest.raises(UsageError, match=r"OTEL_TRACES_SAMPLER_ARG=.* a number from 0 to 1"):
            check_telemetry({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": wrong})
    check_telemetry({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"})


def test_a_batch_fits_into_the_queue() -> None:
    with pytest.raises(UsageError, match=r"EXPORT_BATCH_SIZE \(512\) has to be at most OTEL_BSP_MAX_QUEUE_SIZE \(10\)"):
        check_telemetry({"OTEL_BSP_MAX_QUEUE_SIZE": "10"})
    check_telemetry({"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"})


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_ENDPOINT"])
def test_no_secret_is_shown(name: str) -> None:
    with pytest.raises(UsageError, match=name) as refused:
        check_telemetry({name: "user:hunter2@collector"})
    assert "hunter2" not in str(refused.value)


def test_what_is_right_is_taken(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = authority.issue_cert("exeunt.example.com")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    check_telemetry(
        {
            "OTEL_PROPAGATORS": "tracecontext, baggage",
            "OTEL_TRACES_SAMPLER": "Always_On",
            "OTEL_TRACES_SAMPLER_ARG": "what another sampler would read",
            "OTEL_ATTRIBUTE_COUNT_LIMIT": "unset",
            "OTEL_RESOURCE_ATTRIBUTES": "k8s.namespace.name=voice,team=a%20b,",
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://[fd00::1]:4318/",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "otel-collector.monitoring:4317",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20dTpw==, x-scope-orgid=a b",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(tmp_path / "ca.pem"),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(tmp_path / "client.pem"),
            "OTEL_SDK_DISABLED": "False",
        }
    )


def test_nothing_is_as_good_as_absent_and_what_is_switched_off_is_not_read() -> None:
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "", "OTEL_PROPAGATORS": " ", "PATH": ""}
    forget_empty(environment)
    assert environment == {"PATH": ""}
    check_telemetry({"OTEL_SDK_DISABLED": "TRUE", "OTEL_BSP_SCHEDULE_DELAY": "abc"})
    check_what_imports_read({"OTEL_BSP_SCHEDULE_DELAY": "abc"})


def environment(folder: Path, **variables: str) -> dict[str, str]:
    (folder / "kubeconfig").write_text(KUBECONFIG)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return {**inherited, "KUBECONFIG": str(folder / "kubeconfig"), "EXEUNT_NATS_URL": "nats://127.0.0.1:9", **variables}


async def refused(*command: str, env: dict[str, str]) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *command), env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_PROPAGATORS", "tracecontext,b3multi"),
        ("OTEL_PYTHON_TRACER_PROVIDER", "another"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-3"),
        ("OTEL_METRICS_EXEMPLAR_FILTER", "some"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
    ],
)
async def test_a_service_ends_with_2_and_one_line(tmp_path: Path, name: str, value: str) -> None:
    env = environment(tmp_path, OTEL_TRACES_EXPORTER="otlp") | {name: value}
    code, stderr = await refused("exeunt_timeout_scheduler", env=env)
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert stderr.startswith(f"exeunt-timeout-scheduler: {name}=")


async def test_so_does_a_command(tmp_path: Path) -> None:
    code, stderr = await refused("exeunt_cli", "plan", env=environment(tmp_path, OTEL_PROPAGATORS="b3multi"))
    assert (code, stderr.count("\n")) == (2, 1), stderr
    assert stderr.startswith("exeunt: OTEL_PROPAGATORS='b3multi' cannot be used: it has to be among what is installed")


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        ("redirects", "/v1/metrics answers 308 and leads to https://sign-in.example.com/, where nothing is sent"),
        ("shows a page", "/v1/metrics answers with a page for people: no collector is there"),
        ("rejects", "the collector has rejected 7: quota exceeded"),
    ],
)
async def test_an_export_that_only_looks_like_a_success_is_reported(
    tmp_path: Path, manner: Manner, message: str
) -> None:
    log = tmp_path / "log"
    async with Collector(manner) as collector:
        env = environment(tmp_path, **collector.env)
        async with kubelet.running("timeout-scheduler", log, **env), asyncio.timeout(30):
            while message not in log.read_text():  # noqa: ASYNC110 - a file tells nobody that it has grown
                await asyncio.sleep(0.1)
