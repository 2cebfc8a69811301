"""The drain window is read where a Story says it, and whatever else stands there is no trouble."""

from typing import Any

import pytest

from exeunt.run.drain import drain_of


def transport(settings: Any = None, streaming: Any = None) -> dict[str, Any]:
    layers = {"settings": settings, "streaming": streaming}
    return {"name": "voice"} | {
        layer: {"lifecycle": {"drainTimeoutSeconds": seconds}}
        for layer, seconds in layers.items()
        if seconds is not None
    }


@pytest.mark.parametrize(
    ("transports", "drain"),
    [
        (None, None),
        ([], None),
        ([transport()], None),
        ([transport(120)], 120.0),
        ([transport(120, 30)], 30.0),
        ([transport(120, 0)], 0.0),
        ([transport(30), transport(), transport(5, 60)], 60.0),
    ],
)
def test_the_longest_of_all_transports_counts_and_streaming_goes_over_settings(
    transports: Any, drain: float | None
) -> None:
    assert drain_of(transports) == drain


@pytest.mark.parametrize(
    "odd", ["voice", {"settings": 1}, [None], [7], [{"settings": {"lifecycle": "x"}}], [transport("2m")],
            [transport(True)], [transport(-1)], [transport(float("nan"))], [transport(10**30)]]
)  # fmt: skip
def test_what_is_no_number_of_seconds_is_not_there(odd: Any) -> None:
    assert drain_of(odd) is None
