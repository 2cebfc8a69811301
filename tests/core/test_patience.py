"""When a terminator goes on without the bus, and when it trusts it again."""

from itertools import count

import pytest

from exeunt_terminator.patience import BACK_AFTER, Patience

LOOK = 0.25


def looks(patience: Patience, words: str) -> str:
    """A look every quarter of a second, "+" where JetStream works; "W" where it is away then."""
    return "".join(
        "W" if patience.look(works=word == "+", now=number * LOOK) else "." for number, word in zip(count(), words)
    )


@pytest.mark.parametrize(
    ("seen", "away"),
    [
        ("++++-----", "........W"),  # as long as the patience
        ("+---+---+---", "............"),  # blips, which do not add up
        ("-----+-----", "....WWWWWWW"),  # back for a moment only
        ("-----++++++++-++++++++++", "....WWWWWWWWWWWWWWWWWW.."),  # two seconds without a failure
    ],
)
def test_neither_a_blip_of_trouble_nor_one_of_health_counts(seen: str, away: str) -> None:
    assert looks(Patience(1.0), seen) == away


def test_it_may_be_away_again_at_once() -> None:
    patience = Patience(1.0)
    back = int(BACK_AFTER / LOOK) + 1
    assert looks(patience, "-----" + "+" * back + "-----").endswith("....W")


def test_what_somebody_has_known_for_longer_counts_from_then() -> None:
    patience = Patience(2.0)
    assert not patience.look(works=False, now=10, since=9)
    assert patience.look(works=False, now=11)
    assert patience.look(works=False, now=11, since=3)  # how it came back is for nobody else to say
    assert patience.look(works=True, now=12)
    assert not patience.look(works=True, now=14)
    assert patience.look(works=False, now=20, since=18)
