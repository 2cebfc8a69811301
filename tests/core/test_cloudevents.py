import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins

from exeunt.errors import PoisonEvent
from exeunt.events.cloudevents import Attributes, from_headers, to_headers

HEADERS = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/s", "ce-type": "t"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def test_the_example_of_the_specification_is_encoded_and_decoded() -> None:
    headers = to_headers(Attributes(id="Euro € 😀", source="/s", type="t"))
    assert headers["ce-id"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"
    assert from_headers(headers).id == "Euro € 😀"


def test_attributes_travel_in_binary_mode() -> None:
    attributes = Attributes(
        id="uid/token/fact", source="/exeunt/watcher", type="io.x.v1", subject="voice/call", time="2026-11-24T18:13:32Z"
    )
    assert to_headers(attributes) == {
        "ce-specversion": "1.0",
        "ce-id": "uid/token/fact",
        "ce-source": "/exeunt/watcher",
        "ce-type": "io.x.v1",
        "ce-subject": "voice/call",
        "ce-time": "2026-11-24T18:13:32Z",
    }


def test_what_is_optional_and_empty_is_not_sent() -> None:
    assert {"ce-subject", "ce-time", "ce-datacontenttype"}.isdisjoint(
        to_headers(Attributes(id="7", source="/s", type="t"))
    )


@given(st.builds(Attributes, id=TEXT, source=TEXT, type=TEXT, subject=TEXT, time=TEXT, datacontenttype=TEXT))
def test_any_attributes_survive_as_printable_ascii(attributes: Attributes) -> None:
    headers = to_headers(attributes)
    assert all(re.fullmatch(r"[!-~]+", value) for value in headers.values())
    assert from_headers(headers) == attributes


@pytest.mark.parametrize("spell", [str.upper, str.title, str.lower])
def test_names_of_any_case_are_read(spell: "type[str]") -> None:
    attributes = Attributes(id="7", source="/s", type="t", subject="voice/call")
    foreign = {spell(name): value for name, value in to_headers(attributes).items()}
    assert from_headers(foreign | {"traceparent": "00-1-1-01", "Nats-Sequence": "3"}) == attributes


def test_foreign_encodings_are_read() -> None:
    read = from_headers(HEADERS | {"ce-id": "%e2%82%ac", "ce-subject": "100% plain"})
    assert (read.id, read.subject) == ("€", "100% plain")


@pytest.mark.parametrize("name", ["ce-specversion", "ce-id", "ce-source", "ce-type"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_header_is_named(name: str, value: str | None) -> None:
    headers = {key: text for key, text in HEADERS.items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(PoisonEvent, match=f"header {name} is missing"):
        from_headers(headers)


def test_all_missing_headers_are_named() -> None:
    with pytest.raises(PoisonEvent, match="header ce-specversion, ce-id, ce-source, ce-type is missing"):
        from_headers({"id": "7", "Content-Type": "application/json"})


@pytest.mark.parametrize("version", ["0.3", "2.0", "10", "one"])
def test_a_foreign_version_is_named(version: str) -> None:
    with pytest.raises(PoisonEvent, match=f"CloudEvents {version} is not understood"):
        from_headers(HEADERS | {"ce-specversion": version})


def test_later_minor_versions_are_read() -> None:
    assert from_headers(HEADERS | {"ce-specversion": "1.1", "ce-extension": "ignored"}).id == "7"


def test_a_value_that_is_no_utf_8_is_shown() -> None:
    with pytest.raises(PoisonEvent, match="'%FF%FE' is not percent-encoded UTF-8"):
        from_headers(HEADERS | {"ce-id": "%FF%FE"})


def test_every_attribute_has_a_header() -> None:
    filled = Attributes(id="1", source="2", type="3", subject="4", time="5", datacontenttype="6")
    assert {name.removeprefix("ce-") for name in to_headers(filled)} == {*to_builtins(filled), "specversion"}
