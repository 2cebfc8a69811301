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


@pytest.mark.parametrize("text", ["*", "team a", "team-a;team-b", "Team-A", "a_b", "team/a", "a,..", ",", " "])
def test_namespaces_that_cannot_be_are_refused(text: str) -> None:
    """Nothing is in such a namespace, which the kube-apiserver says as it does of an empty one."""
    with pytest.raises(UsageError, match=r"^EXEUNT_NAMESPACES=.* cannot be used: .*(no namespace)"):
        read_settings({"EXEUNT_NAMESPACES": text})


def test_namespaces_as_people_write_them() -> None:
    assert read_settings({"EXEUNT_NAMESPACES": " a, b-1,\n a ,"}).namespaces == ("a", "b-1")
    assert read_settings({"EXEUNT_NAMESPACES": ""}).namespaces == ()


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("DRY_RUN", "yes", "true or false"),
        ("NATS_TLS_FIRST", "on", "true or false"),
        ("LOG_LEVEL", "INFO", "one of debug, info, warning, error"),
    ],
)
def test_what_it_may_hold_is_reported(name: str, text: str, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"^EXEUNT_{name}='{text}' cannot be used: it has to be {wanted}$"):
        read_settings({f"EXEUNT_{name}": text})
