"""Credentials from a program that the kubeconfig names (client.authentication.k8s.io), as client-go runs it.

Not by kubernetes_asyncio: it cannot tell the program about the cluster, takes it for interactive when standard *output*
is a terminal, lets it outlive its deadline, and keeps no client certificate together with a token.
"""

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from exeunt.kube.errors import ConfigurationError
from exeunt.kube.kubeconfig import Exec, parsed

_GROUP: Final = "client.authentication.k8s.io"
_VERSIONS: Final = (f"{_GROUP}/v1", f"{_GROUP}/v1beta1")
_MODES: Final = ("Never", "IfAvailable", "Always")
_DEADLINE: Final = 30.0  # seconds
_DEADLINE_OF_PEOPLE: Final = 300.0  # seconds, when somebody at a terminal may be asked for something
_MOST_SHOWN: Final = 500  # characters of what a program says of its failure


@dataclass(frozen=True, slots=True)
class Issued:
    """What a plugin gave; `expires` is None when it did not say."""

    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    expires: datetime | None = None


class _Status(msgspec.Struct, rename="camel"):
    token: str | None = None
    client_certificate_data: str | None = None
    client_key_data: str | None = None
    expiration_timestamp: datetime | None = None


class _Answer(msgspec.Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _Status | None = None


async def ask(plugin: Exec, where: str, cluster: dict[str, Any]) -> Issued:
    """Run the plugin of the user `where`; `cluster` is for it to know, if it wants to (provideClusterInfo).

    Raises ConfigurationError when it cannot be run, fails, takes more than 30 s (5 minutes when it may ask somebody at
    the terminal), or answers with what are no credentials.
    """
    name = f"the exec plugin {plugin.command} of {where}"
    interactive = _interactive(plugin, where)
    spec = {"interactive": interactive} | ({"cluster": cluster} if plugin.provide_cluster_info else {})
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    environment = os.environ | {variable.name or "": variable.value or "" for variable in plugin.env or ()}
    environment["KUBERNETES_EXEC_INFO"] = msgspec.json.encode(info).decode()
    program = shutil.which(plugin.command or "")
    if program is None:
        hint = "".join(letter for letter in " ".join((plugin.install_hint or "").split()) if letter.isprintable())
        raise ConfigurationError(f"{name} is not an executable file here{f': {hint}' if hint else ': install it'}")
    output = await _run([program, *(plugin.args or ())], environment, name, interactive=interactive)
    try:
        answer = msgspec.convert(parsed(output), _Answer)
    except ValueError as error:
        raise ConfigurationError(f"{name} printed no ExecCredential: {error}") from None
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        raise ConfigurationError(
            f"{name} printed a {answer.kind or 'nothing'} of {answer.api_version or 'no apiVersion'},"
            f" not an ExecCredential of {plugin.api_version} as {where} wants it"
        )
    return _issued(answer.status or _Status(), name)


def _interactive(plugin: Exec, where: str) -> bool:
    """Whether the plugin gets our standard input. Raises ConfigurationError."""
    if plugin.api_version not in _VERSIONS:
        raise ConfigurationError(
            f"{where}: exec.apiVersion {plugin.api_version} is not supported: write {' or '.join(_VERSIONS)}"
        )
    mode = plugin.interactive_mode or ("IfAvailable" if plugin.api_version.endswith("v1beta1") else "")
    if mode not in _MODES:
        raise ConfigurationError(f"{where}: exec.interactiveMode is {mode or 'not set'}: write {', '.join(_MODES)}")
    terminal = sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()
    if mode == "Always" and not terminal:
        raise ConfigurationError(
            f"{where}: exec.interactiveMode is Always, and standard input is no terminal here: take a plugin that asks"
            " nobody"
        )
    return terminal and mode != "Never"


async def _run(command: list[str], environment: dict[str, str], name: str, *, interactive: bool) -> bytes:
    """What it printed. What it says on standard error is shown at once to whoever it may ask, else with its failure."""
    deadline = _DEADLINE_OF_PEOPLE if interactive else _DEADLINE
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=None if interactive else DEVNULL,
            stdout=PIPE,
            stderr=None if interactive else PIPE,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{name} cannot be run: {error}") from None
    try:
        async with asyncio.timeout(deadline):
            output, errors = await process.communicate()
    except TimeoutError:
        raise ConfigurationError(f"{name} did not end within {deadline:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        last = " ".join((errors or b"").decode(errors="replace").split())[-_MOST_SHOWN:]
        raise ConfigurationError(f"{name} failed with exit code {process.returncode}{f': {last}' if last else ''}")
    return output


def _issued(status: _Status, name: str) -> Issued:
    certificate, key = status.client_certificate_data, status.client_key_data
    if bool(certificate) != bool(key):
        raise ConfigurationError(f"{name} printed a certificate or a key, but not both")
    if not status.token and not certificate:
        raise ConfigurationError(f"{name} printed neither a token nor a certificate")
    expires = status.expiration_timestamp
    return Issued(
        token=status.token or None,
        certificate=certificate.encode() if certificate else None,
        key=key.encode() if key else None,
        expires=expires.replace(tzinfo=expires.tzinfo or UTC) if expires else None,
    )
