"""What a terminator takes for not stored, from what others have said."""

from exeunt.bus.unstored import Unstored, Word


def test_it_is_so_until_it_is_stored_after_all() -> None:
    unstored = Unstored()
    unstored.hear(Word("a", "full"), 10)
    unstored.hear(Word("b", "no leader"), 11)
    assert unstored.unavailable_reason(12) == "events are not stored: no leader"
    unstored.hear(Word("b"), 12)
    assert unstored.unavailable_reason(12) == "events are not stored: full"
    unstored.hear(Word("a"), 12)
    unstored.hear(Word("a"), 12)
    assert unstored.unavailable_reason(12) is None


def test_who_says_it_no_more_may_be_dead() -> None:
    unstored = Unstored()
    unstored.hear(Word("a", "full"), 10)
    assert unstored.unavailable_reason(16) is not None
    unstored.hear(Word("a", "full"), 16)
    assert unstored.unavailable_reason(22) is not None
    assert unstored.unavailable_reason(26) is None


def test_what_is_remembered_is_bounded() -> None:
    unstored = Unstored()
    for number in range(5_000):
        unstored.hear(Word(str(number), "full"), 10)
    for number in range(4_000, 5_000):
        unstored.hear(Word(str(number)), 10)
    assert unstored.unavailable_reason(10) is None
