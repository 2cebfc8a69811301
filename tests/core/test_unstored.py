"""What a terminator takes for not stored, from what others have said."""

from exeunt.bus.unstored import Unstored, Word
from exeunt.events.messages import Message


def word(subject: str, why: str = "", failing_for: float = 0.0) -> Word:
    return Word(Message(subject=subject, payload=b"", headers={}), why, failing_for)


def test_it_is_so_until_it_is_stored_after_all() -> None:
    unstored = Unstored()
    unstored.hear(word("a", "full", 2), 10)
    unstored.hear(word("b", "no leader", 1), 11)
    assert unstored.unavailable_reason(12) == "events are not stored: no leader"
    assert unstored.since(12) == 8
    assert [message.subject for message in unstored.messages(12)] == ["a", "b"]
    unstored.hear(word("b"), 12)
    assert unstored.unavailable_reason(12) == "events are not stored: full"
    unstored.hear(word("a"), 12)
    unstored.hear(word("a"), 12)
    assert (unstored.unavailable_reason(12), unstored.since(12), unstored.messages(12)) == (None, None, [])


def test_who_says_it_no_more_may_be_dead() -> None:
    unstored = Unstored()
    unstored.hear(word("a", "full"), 10)
    assert unstored.unavailable_reason(20) is not None
    unstored.hear(word("a", "full"), 20)
    assert unstored.unavailable_reason(30) is not None
    assert unstored.unavailable_reason(36) is None


def test_what_is_remembered_is_bounded() -> None:
    unstored = Unstored()
    for number in range(5_000):
        unstored.hear(word(str(number), "full"), 10)
    assert len(unstored.messages(10)) == 1_000
    for number in range(4_000, 5_000):
        unstored.hear(word(str(number)), 10)
    assert unstored.unavailable_reason(10) is None
