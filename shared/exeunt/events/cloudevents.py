"""CloudEvents 1.0 over NATS, binary mode: attributes in `ce-` headers, the payload untouched. Pure.

No library binds CloudEvents to NATS from Python; this is the binding's text (nats-protocol-binding 1.0.3-wip) and no
more. Header values are percent-encoded, names are read case-insensitively, because other clients write them so.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from exeunt.errors import PoisonEvent

_REQUIRED: Final = ("specversion", "id", "source", "type")
_NOT_PLAIN: Final = re.compile(
    r"[^!#$&-~]"
)  # printable ASCII is plain, but for the space, the quote and the percent sign


class Attributes(Struct, frozen=True, kw_only=True):
    """The context attributes of one event. `time` is RFC 3339. What is not said is not sent: of Exeunt's own events
    their schema says that they are JSON.
    """

    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    datacontenttype: str = ""


def to_headers(attributes: Attributes) -> dict[str, str]:
    """The NATS headers that carry `attributes`."""
    headers = {
        "ce-specversion": "1.0",
        "ce-id": _encoded(attributes.id),
        "ce-source": _encoded(attributes.source),
        "ce-type": _encoded(attributes.type),
    }
    if attributes.datacontenttype:
        headers["ce-datacontenttype"] = _encoded(attributes.datacontenttype)
    if attributes.subject:
        headers["ce-subject"] = _encoded(attributes.subject)
    if attributes.time:
        headers["ce-time"] = _encoded(attributes.time)
    return headers


def from_headers(headers: Mapping[str, str]) -> Attributes:
    """Read the attributes back. Raises PoisonEvent when the message is no CloudEvent of version 1."""
    found = {name.lower().removeprefix("ce-"): value for name, value in headers.items()
             if name.lower().startswith("ce-")}  # fmt: skip
    missing = [f"ce-{name}" for name in _REQUIRED if not found.get(name)]
    if missing:
        raise PoisonEvent(f"no CloudEvent in binary mode: header {', '.join(missing)} is missing")
    if not found["specversion"].startswith("1."):
        raise PoisonEvent(f"CloudEvents {found['specversion']} is not understood, only 1.x is")
    return Attributes(
        id=_decoded(found["id"]),
        source=_decoded(found["source"]),
        type=_decoded(found["type"]),
        subject=_decoded(found.get("subject", "")),
        time=_decoded(found.get("time", "")),
        datacontenttype=_decoded(found.get("datacontenttype", "")),
    )


def _encoded(value: str) -> str:
    return _NOT_PLAIN.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), value)


def _decoded(value: str) -> str:
    if "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError as error:
        raise PoisonEvent(f"header value {value!r} is not percent-encoded UTF-8") from error
