"""How far two clocks are apart, as far as that is certain."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exeunt.net.clock_offset import Range, agreed, certain, range_of, worse

NOW = datetime(2026, 11, 24, 18, 14, tzinfo=UTC)


def test_what_is_reported_in_whole_seconds_leaves_a_second_and_the_round_trip_open() -> None:
    received = NOW + timedelta(seconds=60.7)
    assert range_of(NOW, resolution=1, received=received, round_trip=0.2) == pytest.approx(Range(59.5, 60.7))


def test_what_ranges_have_in_common_is_narrower_and_what_contradicts_a_newer_one_is_forgotten() -> None:
    assert agreed([Range(0.1, 1.1), Range(-0.5, 0.5), Range(0.0, 1.0)]) == Range(0.1, 0.5)
    stepped = [Range(-0.2, 0.8), Range(59.5, 60.5), Range(0.1, 0.2)]
    assert agreed(stepped) == Range(-0.2, 0.8)
    assert agreed([]) is None


@pytest.mark.parametrize(
    ("ahead", "for_sure"), [(Range(-0.4, 0.6), 0), (Range(59.5, 60.5), 59.5), (Range(-3.0, -2.0), -2.0)]
)
def test_clocks_that_may_show_the_same_are_not_said_to_differ(ahead: Range, for_sure: float) -> None:
    assert certain(ahead) == for_sure


def test_the_one_that_differs_most_counts_whichever_its_direction() -> None:
    assert worse(-3, 2) == -3
    assert worse(0.5, 0.1) == 0.5


ANSWERS = st.lists(st.tuples(st.floats(0, 60), st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=8)
"""When the other clock was read, how long the round trip was, and how much of that came afterwards."""


@given(st.floats(-100, 100), ANSWERS)
def test_the_truth_is_within_and_never_more_is_published_than_it(
    ahead: float, answers: list[tuple[float, float, float]]
) -> None:
    ranges = []
    for after, round_trip, part in answers:
        theirs = NOW + timedelta(seconds=after)
        received = theirs + timedelta(seconds=ahead + part * round_trip)
        reported = theirs.replace(microsecond=0)
        ranges.append(range_of(reported, resolution=1, received=received, round_trip=round_trip))
    common = agreed(ranges)
    assert common is not None
    assert common.least - 1e-4 <= ahead <= common.most + 1e-4
    assert abs(certain(common)) <= abs(ahead) + 1e-4
