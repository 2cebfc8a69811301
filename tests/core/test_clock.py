from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.clock import format_duration, format_instant, format_status_time, parse_duration, parse_instant

US = timedelta(microseconds=1)
LONGEST = timedelta(microseconds=(2**63 - 1) // 1000)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        # from Go's documentation of time.ParseDuration, and its tests
        ("300ms", timedelta(milliseconds=300)),
        ("-1.5h", -timedelta(hours=1, minutes=30)),
        ("2h45m", timedelta(hours=2, minutes=45)),
        ("1h10m10s", timedelta(hours=1, minutes=10, seconds=10)),
        ("1h15m30.918273s", timedelta(hours=1, minutes=15, seconds=30, microseconds=918_273)),
        ("0", timedelta(0)),
        ("+0", timedelta(0)),
        ("-0", timedelta(0)),
        ("+5s", timedelta(seconds=5)),
        ("5.s", timedelta(seconds=5)),
        (".5s", timedelta(seconds=0.5)),
        ("10.5s4m", timedelta(minutes=4, seconds=10.5)),
        ("12µs", timedelta(microseconds=12)),
        ("12μs", timedelta(microseconds=12)),
        ("12us", timedelta(microseconds=12)),
        ("1s1s", timedelta(seconds=2)),
    ],
)
def test_go_duration_text_is_read(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "-",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        "1d",
        " 1s",
        "1s ",
        "1 s",
        "five minutes",
        "1e3s",
        "1_0s",
        "--1s",
        "1.2.3s",
        "1s\n",
        "٣s",  # a digit to Python, not to Go
    ],
)
def test_what_go_refuses_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no Go duration such as 20s") as refusal:
        parse_duration(text)
    assert repr(text) in str(refusal.value)


def test_nanoseconds_of_a_duration_are_rounded_up() -> None:
    assert parse_duration("1ns") == US
    assert parse_duration("1000ns") == US
    assert parse_duration("1001ns") == 2 * US
    assert parse_duration("1.0000001s") == timedelta(seconds=1) + US


def test_a_duration_is_at_most_what_go_can_hold() -> None:
    assert parse_duration("9223372036854775807ns") == LONGEST + US
    assert parse_duration("2562047h47m16.854775807s") == LONGEST + US
    for text in ("9223372036854775808ns", "2562047h47m16.854775808s", "2562048h"):
        with pytest.raises(ValueError, match="longer than a Go duration can be"):
            parse_duration(text)


@pytest.mark.parametrize(
    "text", ["1" * 1_000_000, "1s" * 500_000, "0." + "0" * 1_000_000 + "1s", "9" * 1_100_000 + "s"]
)
def test_text_of_any_length_is_judged_at_once_and_quoted_shortly(text: str) -> None:
    with pytest.raises(ValueError, match="is no Go duration") as refusal:
        parse_duration(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (US, "1µs"),
        (1100 * US, "1.1ms"),
        (timedelta(milliseconds=250), "250ms"),
        (timedelta(seconds=2.2), "2.2s"),
        (timedelta(seconds=45), "45s"),
        (timedelta(minutes=2, seconds=13), "2m13s"),
        (timedelta(minutes=3, seconds=30.5), "3m30.5s"),
        (timedelta(hours=1, seconds=5), "1h0m5s"),
        (timedelta(hours=25), "25h0m0s"),
        (timedelta(days=100), "2400h0m0s"),
        (-timedelta(minutes=1, milliseconds=1), "-1m0.001s"),
    ],
)
def test_a_duration_is_written_as_go_writes_it(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text


@given(st.timedeltas(min_value=-LONGEST, max_value=LONGEST))
def test_a_duration_survives_being_written_and_read(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-11-24T18:13:32Z", 0),
        ("2026-11-24T18:13:32.5Z", 500_000),
        ("2026-11-24T18:13:32.123456Z", 123_456),
        ("2026-11-24T18:13:32.123456000Z", 123_456),
        ("2026-11-24T18:13:32.123456001Z", 123_457),
        ("2026-11-24T18:13:32.123456999Z", 123_457),
        ("2026-11-24t18:13:32.1z", 100_000),
        (" 2026-11-24T18:13:32.000001Z ", 1),
        ("2026-11-24T20:13:32.0000001+02:00", 1),
        ("2026-11-24T12:43:32.000-05:30", 0),
    ],
)
def test_an_instant_is_read_in_utc_and_rounded_up(text: str, microsecond: int) -> None:
    instant = parse_instant(text)
    assert instant == datetime(2026, 11, 24, 18, 13, 32, microsecond, tzinfo=UTC)
    assert instant.tzinfo is UTC


def test_an_instant_is_rounded_up_over_the_second() -> None:
    assert parse_instant("2026-12-31T23:59:59.999999001Z") == datetime(2027, 1, 1, tzinfo=UTC)


@given(st.datetimes(min_value=datetime(1678, 1, 1), max_value=datetime(2261, 12, 30)), st.integers(0, 999))  # noqa: DTZ001
def test_no_instant_is_read_as_an_earlier_one(naive: datetime, nanoseconds: int) -> None:
    written = f"{naive:%Y-%m-%dT%H:%M:%S.%f}{nanoseconds:03}Z"
    exact = naive.replace(tzinfo=UTC)
    assert parse_instant(written) == (exact + US if nanoseconds else exact)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-24",
        "2026-11-24T18:13:32",
        "2026-11-24 18:13:32Z",
        "2026-11-24*18:13:32Z",  # Python takes any character there; in a subject this one is a wildcard
        "2026-11-24>18:13:32Z",
        "20261124T181332Z",
        "2026-W48-2T18:13:32Z",
        "2026-13-24T18:13:32Z",
        "2026-11-24T18:13:60Z",
        "2026-11-24T18:13:32.Z",
        "2026-11-24T18:13:32,5Z",
        "٢٠٢٦-11-24T18:13:32Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59.9999999Z",
        "2026-11-24T18:13:32." + "0" * 1_000_000 + "Z",
    ],
)
def test_what_is_no_usable_rfc_3339_instant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refusal:
        parse_instant(text)
    assert len(str(refusal.value)) < 200


def test_any_readable_instant_takes_any_readable_duration() -> None:
    for instant in ("1678-01-01T00:00:00+14:00", "2261-12-31T23:59:59.999999999-12:00"):
        for duration in ("2562047h", "-2562047h"):
            assert isinstance(parse_instant(instant) + parse_duration(duration), datetime)


def test_instants_are_written_in_utc() -> None:
    instant = datetime(2026, 11, 24, 20, 13, 32, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert format_instant(instant) == "2026-11-24T18:13:32.999999Z"
    assert format_status_time(instant) == "2026-11-24T18:13:32Z"


@given(st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2261, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_an_instant_survives_being_written_and_read(instant: datetime) -> None:
    assert parse_instant(format_instant(instant)) == instant
