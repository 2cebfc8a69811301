"""The waits between tries."""

from collections.abc import Callable

from exeunt.back_off import BackOff, spread

BACK_OFF = BackOff(0.25, 30)


def drawn(wait: Callable[[], float]) -> tuple[float, float]:
    waits = [wait() for _ in range(500)]
    return min(waits), max(waits)


def test_waits_double_up_to_the_longest_and_are_never_the_same() -> None:
    for failures, most in ((0, 0.25), (1, 0.5), (6, 16), (7, 30), (10_000, 30)):
        least, longest = drawn(lambda failures=failures: BACK_OFF.wait(failures))  # type: ignore[misc]
        assert most / 2 <= least < 0.6 * most
        assert 0.9 * most < longest <= most


def test_what_the_server_asks_for_is_waited_and_a_little_more() -> None:
    least, longest = drawn(lambda: BACK_OFF.wait(0, asked=7))
    assert 7 <= least < 7.2
    assert 8 < longest <= 8.4
    assert drawn(lambda: BACK_OFF.wait(7, asked=1))[0] >= 15


def test_an_interval_is_spread() -> None:
    least, longest = drawn(lambda: spread(10))
    assert 8 <= least < 8.5
    assert 11.5 < longest <= 12
