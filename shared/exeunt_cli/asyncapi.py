"""The contract of the events, generated from the types that carry them: an AsyncAPI document and JSON Schemas.

`make docs` writes them to docs/. Addresses come from `exeunt.events.subjects`, meanings from the docstrings of the
types, so that nothing here can say anything else than the code does.
"""

from collections.abc import Iterator
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Annotated, Any, Final, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Meta, Raw, Struct

import exeunt
from exeunt.events import event_types, signals
from exeunt.events.codec import TYPE_PREFIX, VERSION
from exeunt.events.event_types import EventType, Outcome
from exeunt.events.subjects import armed_subject, due_subject, event_subject, outcome_subject, trigger_token_subject
from exeunt.run.cancellations import Cancellation
from exeunt.run.snapshot import Snapshot
from exeunt_cli.docstrings import member_docstrings
from exeunt_timeout_scheduler.deadlines import Deadline

Json = dict[str, Any]

PAYLOADS: Final[dict[str, Any]] = {
    "Snapshot": Snapshot,
    "Outcome": Outcome,
    "Deadline": Deadline,
    "Signal": signals.SignalBody,
}
_SIGNALS: Final = {"topology-gone": signals.TOPOLOGY_GONE, "topology-up": signals.TOPOLOGY_UP}
_ANY: Final = Cancellation("{namespace}", "{name}", "{uid}", "{episode}")
_PARAMETERS: Final = {
    "namespace": "Namespace of the StoryRun.",
    "name": 'Name of the StoryRun, its dots written as "_".',
    "uid": "uid of the StoryRun.",
    "episode": 'The cancel_observed_at, its dots written as "_"; before that, a token for the attempt of the run.',
    "fact": "The event that was answered.",
    "trigger_token": "The annotation storyrun.bubustack.io/trigger-token of the run; what is not a letter, a digit, "
    '"_" or "-" is percent-encoded.',
    "consumer": "The durable consumer that set the message aside.",
}


def documents() -> Iterator[tuple[str, str]]:
    """The generated files, by their names in docs/."""
    yield "asyncapi.json", _written(asyncapi())
    for name, payload in PAYLOADS.items():
        heading = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"urn:exeunt:{name}:{VERSION}"}
        yield f"schemas/{name.lower()}.{VERSION}.json", _written(heading | msgspec.json.schema(_described(payload)))


def _written(document: Json) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def asyncapi() -> Json:
    """The AsyncAPI 3.0 document."""
    meanings = member_docstrings(EventType)
    channels = {str(event_type): _event_channel(event_type, meanings[event_type.name]) for event_type in EventType} | {
        "outcome": _channel(
            outcome_subject(_ANY, EventType.CANCEL_REQUESTED).replace(str(EventType.CANCEL_REQUESTED), "{fact}"),
            "How the terminator answered an event. Exactly one for each event of a cancellation.",
            "outcome",
        ),
        "armed": _channel(
            armed_subject(_ANY), "A pending message schedule of JetStream. Internal to the mesh.", "deadline"
        ),
        "due": _channel(due_subject(_ANY), "A schedule that has come due. Internal to the mesh.", "deadline"),
        "signal": _channel(
            "exeunt.signals.{namespace}.{name}",
            "Anyone who may publish here publishes about a run that its topology is gone, or up again. See "
            "docs/signals.md.",
            *_SIGNALS,
        ),
        "signal-by-trigger-token": _channel(
            trigger_token_subject("").removesuffix(".") + ".{trigger_token}",
            "The same, of the runs that were started for a trigger token, such as the sid of a LiveKit room.",
            *_SIGNALS,
        ),
        "deadletter": _channel(
            "exeunt.deadletters.{consumer}",
            "A message that was set aside, as it came; the headers Exeunt-* say why and from where.",
            "deadletter",
        ),
    }
    answer = [*map(str, EventType), "outcome", "armed", "deadletter"]
    heard = ["due", "signal", "signal-by-trigger-token"]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Exeunt",
            "version": exeunt.__version__,
            "description": "What the watcher, the terminator and the timeout-scheduler publish to each other on NATS "
            "JetStream, as CloudEvents 1.0 in binary mode.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": {
            **{f"say-{name}": _operation("send", name) for name in answer},
            **{f"hear-{name}": _operation("receive", name) for name in heard},
        },
        "components": {
            "messages": _messages(),
            "parameters": {name: {"description": meaning} for name, meaning in _PARAMETERS.items()}
            | {
                "fact": {
                    "description": _PARAMETERS["fact"],
                    "enum": [str(event_type) for event_type in event_types.ANSWERED_EVENT_TYPES],
                }
            },
            "schemas": _schemas(),
        },
    }


def _event_channel(event_type: EventType, meaning: str) -> Json:
    return _channel(event_subject(_ANY, event_type), f"{meaning} Exactly one for each cancellation.", str(event_type))


def _channel(address: str, description: str, *messages: str) -> Json:
    parameters = [name for name in _PARAMETERS if f"{{{name}}}" in address]
    return {
        "address": address,
        "description": description,
        "parameters": {name: {"$ref": f"#/components/parameters/{name}"} for name in parameters},
        "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
    }


def _operation(action: str, channel: str) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _messages() -> Json:
    event_types = {
        str(event_type): _message(f"{TYPE_PREFIX}{event_type}.{VERSION}", "Snapshot") for event_type in EventType
    }
    return event_types | {
        "outcome": _message(f"{TYPE_PREFIX}outcome.{VERSION}", "Outcome"),
        **{name: _message(kind, "Signal") for name, kind in _SIGNALS.items()},
        "deadline": {"name": "deadline", "payload": {"$ref": "#/components/schemas/Deadline"}},
        "deadletter": {"name": "deadletter", "payload": {}},
    }


def _message(kind: str, payload: str) -> Json:
    text: Json = {"type": "string"}
    return {
        "name": kind,
        "headers": {
            "type": "object",
            "required": ["ce-specversion", "ce-id", "ce-source", "ce-type"],
            "properties": {
                "ce-specversion": {"type": "string", "const": "1.0"},
                "ce-type": {"type": "string", "const": kind},
                "ce-id": text,
                "ce-source": text,
                "ce-subject": text,
                "ce-time": {"type": "string", "format": "date-time"},
                "ce-datacontenttype": text,
                "traceparent": text,
                "tracestate": text,
            },
        },
        "payload": {"$ref": f"#/components/schemas/{payload}"},
    }


def _schemas() -> Json:
    """The payloads and all that they are made of."""
    types = [_described(payload) for payload in PAYLOADS.values()]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    return {name: {**schema, "title": name} for name, schema in components.items()}


def _described(kind: Any) -> Any:
    """A type whose schema says what its fields mean. Raw JSON, for which msgspec has no schema, may be anything."""
    if kind is Raw:
        return Any
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _described_struct(kind)
    arguments = tuple(_described(argument) for argument in get_args(kind))
    if get_origin(kind) is UnionType:
        return reduce(or_, arguments)
    return get_origin(kind)[arguments] if get_origin(kind) is tuple else kind


@cache
def _described_struct(struct: type[Struct]) -> type[Struct]:
    meanings = member_docstrings(struct)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(struct):
        kind = _described(field.type)
        if meaning := meanings.get(field.name):
            kind = Annotated[kind, Meta(description=meaning)]
        default = None if field.type is Raw else field.default
        fields.append((field.encode_name, kind) if default is NODEFAULT else (field.encode_name, kind, default))
    name = next((name for name, payload in PAYLOADS.items() if payload is struct), struct.__name__)
    return msgspec.defstruct(name, fields, namespace={"__doc__": struct.__doc__}, kw_only=True)
