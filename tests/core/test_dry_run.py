"""A decision that was to be recorded only: it is reported as one, ends nothing, and is decided again like any other."""

from pathlib import Path
from typing import Final

from msgspec.structs import replace

from exeunt.events.event_types import DRY_RUN
from exeunt.history.rendering import cause_in_words, render
from exeunt.history.stops import Ending, Stop
from exeunt_cli.check import check
from exeunt_cli.picture import lanes, waits
from exeunt_cli.source import read_file, understood
from exeunt_cli.what_if import otherwise, read_setting

FILE: Final = Path(__file__).parents[1] / "histories" / "cancel-then-gone.jsonl"


def dry_stop() -> Stop:
    """The stop as a terminator under EXEUNT_DRY_RUN would have recorded it, up to its last decision."""
    *records, outcome, _terminal = sorted(read_file(str(FILE)).records, key=lambda record: "terminal" in record.subject)
    assert ".outcome." in outcome.subject
    data = outcome.data.replace(b'"result":"written"', b'"result":"dry run"')
    assert data != outcome.data
    (stop,) = understood([*records, replace(outcome, data=data)]).stops
    return stop


def test_it_is_reported_as_what_it_is() -> None:
    stop = dry_stop()
    assert (stop.ending, stop.finalizing, stop.ended_at) == (Ending.STOPPING, None, None)
    assert cause_in_words(stop) == "topology-gone (dry run)"
    assert [event.what for event in render(stop).events][-1] == "finalize (dry run)"
    assert stop.outcomes[-1].outcome.dry_run
    assert not stop.outcomes[0].outcome.dry_run
    assert DRY_RUN in "".join(lanes(stop, 900, "x").itertext())
    picture = waits(stop, 900, "x")
    assert picture is not None
    assert "so far" in "".join(picture.itertext())


def test_it_is_decided_again_like_any_other() -> None:
    checked = check([dry_stop()])
    assert checked.passed
    assert checked.outcomes == 2


def test_what_would_have_been_is_reported_by_what_if() -> None:
    found = otherwise(dry_stop(), read_setting("shutdown-timeout=10s"))
    assert found is not None
    assert found.recorded_latency_ms is None
    assert found.latency_ms is not None
    assert found.latency_ms < 100
    assert found.cause == "topology-gone"
