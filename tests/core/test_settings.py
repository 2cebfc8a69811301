from datetime import timedelta

import msgspec
import pytest

from exeunt.errors import UsageError
from exeunt.settings import PREFIX, Settings, read_settings

DURATIONS = [field.name for field in msgspec.structs.fields(Settings) if field.type is timedelta]


@pytest.mark.parametrize(
    "name", ["ack_wait", "history", "livekit_look_interval", "overdue_after", "retry_budget", "sweep_interval"]
)
@pytest.mark.parametrize("text", ["0s", "0", "-0s", "-1s"])
def test_what_is_done_again_and_again_takes_longer_than_nothing(name: str, text: str) -> None:
    """A sweep every 0 seconds never rests, an ack wait of 0 seconds spins, a retry budget of 0 fails every call."""
    variable = PREFIX + name.upper()
    with pytest.raises(UsageError, match=f"^{variable}='{text}' cannot be used: "):
        read_settings({variable: text})
    assert getattr(read_settings({variable: "1ms"}), name) == timedelta(milliseconds=1)


@pytest.mark.parametrize("name", ["heartbeat_stale_after", "shutdown_timeout", "fence_wait", "second_look"])
def test_off_or_at_once_is_zero(name: str) -> None:
    assert getattr(read_settings({PREFIX + name.upper(): "0s"}), name) == timedelta(0)


def test_the_defaults_may_be_written_out() -> None:
    assert all(getattr(Settings(), name) > timedelta(0) for name in DURATIONS if name != "heartbeat_stale_after")


def test_the_bots_of_a_call_are_a_list_that_may_be_empty() -> None:
    assert Settings().livekit_not_callers == ("bubu-agent*",)
    given = read_settings({"EXEUNT_LIVEKIT_NOT_CALLERS": "bubu-agent*, recorder-?"})
    assert given.livekit_not_callers == ("bubu-agent*", "recorder-?")
    assert read_settings({"EXEUNT_LIVEKIT_NOT_CALLERS": ""}).livekit_not_callers == ()


def test_never_is_no_shutdown_timeout() -> None:
    assert read_settings({"EXEUNT_SHUTDOWN_TIMEOUT": "8760h"}).shutdown_timeout == timedelta(days=365)
    with pytest.raises(UsageError, match="cannot be longer than a year"):
        read_settings({"EXEUNT_SHUTDOWN_TIMEOUT": "2562047h"})
