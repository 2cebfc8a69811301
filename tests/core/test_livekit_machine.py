"""One look: told step by step, and many of them at once in rooms where anything may happen in between."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exeunt_livekit_bridge.last_signal import LastSignal, read_last_signal
from exeunt_livekit_bridge.look import Look
from exeunt_livekit_bridge.machine import (
    PAUSE,
    Begin,
    Command,
    Done,
    Failed,
    Input,
    LastSignalRead,
    ListParticipants,
    ListRooms,
    LookAgain,
    Looking,
    Overtaken,
    Participants,
    Pause,
    PauseOver,
    Publish,
    Published,
    ReadLastSignal,
    Result,
    Rooms,
)
from exeunt_livekit_bridge.room import Participant

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
LOOK = Look(sid="RM_1", room="call-42", event="participant_left", who="alice")
ALICE, BOT = Participant("alice"), Participant("bubu-agent-1")
INTERVAL = 10.0
NOTHING, OVER, UP = LastSignal(), LastSignal(3, gone=True, at=AT), LastSignal(4, gone=False, at=AT)
HERE, ELSEWHERE, NOWHERE = Rooms(("RM_1",), AT), Rooms(("RM_2",), AT), Rooms((), AT)


def looking(*, by_timer: bool = False) -> Looking:
    return Looking(LOOK, by_timer=by_timer, not_callers=("bubu-agent*",), interval=INTERVAL)


def walk(look: Looking, *heard: Input) -> list[Command]:
    return [look.receive(each) for each in (Begin(), *heard)]


def listed(*participants: Participant) -> Participants:
    return Participants(participants, AT)


READ, ROOMS, WHO = ReadLastSignal("RM_1"), ListRooms("call-42"), ListParticipants("call-42")
AGAIN = LookAgain(INTERVAL)


def test_nobody_is_left_is_published_when_it_was_seen_twice_and_the_room_is_still_the_same() -> None:
    look = looking()
    *asked, published = walk(look, LastSignalRead(NOTHING), HERE, listed(BOT), PauseOver(), listed(BOT), HERE)
    assert asked == [READ, ROOMS, WHO, Pause(PAUSE), WHO, ROOMS]
    assert isinstance(published, Publish)
    assert published.gone
    assert published.message.expected_last_subject_sequence == 0
    assert published.detail == "room call-42 (RM_1): participant_left alice; still there: bubu-agent-1"
    # And whoever came while it was said is not missed.
    assert [look.receive(heard) for heard in (Published(5), HERE, listed(BOT))] == [ROOMS, WHO, AGAIN]
    assert look.result is Result.GONE


def test_who_comes_back_within_the_pause_was_never_away() -> None:
    look = looking()
    *_, last = walk(look, LastSignalRead(NOTHING), HERE, listed(BOT), PauseOver(), listed(BOT, ALICE))
    assert last == AGAIN
    assert look.result is Result.KNOWN


def test_who_comes_while_it_is_published_takes_it_back_at_once() -> None:
    look = looking()
    walk(look, LastSignalRead(NOTHING), HERE, listed(), PauseOver(), listed(), HERE, Published(5))
    *asked, published = (look.receive(heard) for heard in (HERE, listed(ALICE), HERE))
    assert asked == [WHO, ROOMS]
    assert isinstance(published, Publish)
    assert not published.gone
    assert published.message.expected_last_subject_sequence == 5
    assert published.message.headers["ce-time"] > "2026-11-30T12:00:00.000000Z"


@pytest.mark.parametrize("rooms", [NOWHERE, ELSEWHERE])
@pytest.mark.parametrize("published", [NOTHING, UP])
def test_a_sid_that_is_gone_is_over_whoever_is_in_the_room_of_its_name_now(rooms: Rooms, published: LastSignal) -> None:
    look = looking()
    *asked, publish = walk(look, LastSignalRead(published), rooms)
    assert asked == [READ, ROOMS]
    assert isinstance(publish, Publish)
    assert publish.gone
    assert publish.detail.endswith("; the room is no more")
    assert look.receive(Published(5)) == Done()


def test_a_sid_that_is_gone_and_said_to_be_is_forgotten() -> None:
    assert walk(looking(), LastSignalRead(OVER), NOWHERE) == [READ, ROOMS, Done()]


def test_a_list_that_may_be_of_another_room_of_the_name_says_nothing_of_its_people() -> None:
    *_, published = walk(looking(), LastSignalRead(OVER), HERE, listed(ALICE), ELSEWHERE)
    assert published == Done()  # alice is in RM_2
    *_, published = walk(looking(), LastSignalRead(NOTHING), HERE, listed(), PauseOver(), listed(), ELSEWHERE)
    assert isinstance(published, Publish)
    assert published.detail.endswith("; the room is no more")


def test_a_call_that_goes_on_costs_two_questions_to_livekit() -> None:
    for published in (NOTHING, UP):
        assert walk(looking(by_timer=True), LastSignalRead(published), HERE, listed(ALICE)) == [READ, ROOMS, WHO, AGAIN]
    assert walk(looking(by_timer=True), LastSignalRead(OVER), HERE, listed(BOT)) == [READ, ROOMS, WHO, AGAIN]


def test_whoever_is_overtaken_reads_what_was_published_and_looks_anew() -> None:
    look = looking()
    walk(look, LastSignalRead(NOTHING), HERE, listed(), PauseOver(), listed(), HERE)
    heard = (Overtaken(), LastSignalRead(OVER), HERE, listed())
    assert [look.receive(each) for each in heard] == [READ, ROOMS, WHO, AGAIN]
    assert look.result is Result.KNOWN


def test_a_room_faster_than_the_look_is_left_to_the_next_one() -> None:
    look = looking()
    look.receive(Begin())
    for _ in range(100):
        if look.receive(LastSignalRead(NOTHING)) == AGAIN:
            return
        assert isinstance(look.receive(NOWHERE), Publish)
        look.receive(Overtaken())
    raise AssertionError("it never ends")


@pytest.mark.parametrize("asked", range(6))
@pytest.mark.parametrize(("away_for", "after"), [(0.0, 0.5), (4.0, 4.0), (3600.0, 10.0)])
def test_what_is_not_answered_is_asked_again_later(asked: int, away_for: float, after: float) -> None:
    look = looking()
    walk(look, *(LastSignalRead(NOTHING), HERE, listed(), PauseOver(), listed(), HERE)[:asked])
    assert look.receive(Failed(away_for)) == LookAgain(after)
    assert look.result is Result.FAILED


class World:
    """A LiveKit with one room name, a stream of signals about its first sid, and the looks at it that are going on."""

    def __init__(self) -> None:
        self.sid: str | None = "RM_1"
        self.people: set[str] = {"alice"}
        self.attempts = 1
        self.published: list[Publish] = []
        self.now = AT
        self.empty_since: datetime | None = None

    @property
    def over(self) -> bool:
        return self.sid != "RM_1" or "alice" not in self.people

    def happen(self, what: str) -> None:
        self.now += timedelta(milliseconds=1)
        match what:
            case "leave":
                self.people.discard("alice")
            case "join":
                if self.sid is None:
                    self.attempts += 1
                    self.sid = f"RM_{self.attempts}"
                self.people.add("alice")
            case "close":
                self.sid, self.people = None, set()

    def answer(self, command: Command) -> Input:
        self.now += timedelta(milliseconds=1)
        match command:
            case ReadLastSignal():
                return LastSignalRead(self.last_signal())
            case ListRooms():
                return Rooms((self.sid,) if self.sid else (), self.now)
            case ListParticipants():
                return Participants(tuple(map(Participant, sorted(self.people))), self.now)
            case Pause():
                return PauseOver()
            case Publish(message):
                if message.expected_last_subject_sequence != len(self.published):
                    return Overtaken()
                self.published.append(command)
                return Published(len(self.published))
        raise AssertionError(command)

    def last_signal(self) -> LastSignal:
        if not self.published:
            return LastSignal()
        last = self.published[-1].message
        return read_last_signal(
            last.subject, last.headers, last.payload, sequence=len(self.published), stored_at=self.now
        )


def steps(world: World, name: str) -> Iterator[str]:
    """One look, a command at a time; what it says of a call is checked against what it can have seen."""
    look = Looking(LOOK, by_timer=False, not_callers=(), interval=INTERVAL)
    command = look.receive(Begin())
    was_over = was_up = False
    while not isinstance(command, Done | LookAgain):
        before = len(world.published)
        heard = world.answer(command)
        if len(world.published) > before:
            assert was_over if world.published[-1].gone else was_up, f"{name} said what it never saw"
            was_over = was_up = False
        command = look.receive(heard)
        yield name
        # Between two of its steps anything may happen, so what held at any of them it may have seen.
        was_over, was_up = was_over or world.over, was_up or not world.over


@settings(max_examples=500)
@given(st.lists(st.sampled_from(["leave", "join", "close", "a", "b", "a", "b", "new a", "new b"]), max_size=80))
def test_whatever_happens_in_between_the_last_word_is_true(happenings: list[str]) -> None:
    """Two instances look at the same sid while people come and go and rooms are closed and made anew."""
    world = World()
    looks = {name: steps(world, name) for name in "ab"}
    for happening in happenings:
        if happening in looks:
            next(looks[happening], None)
        elif happening.startswith("new "):  # a webhook: the look that is under way goes on beside it
            name = happening[-1]
            looks[f"{name}{len(looks)}"], looks[name] = looks[name], steps(world, name)
        else:
            world.happen(happening)
    for look in (*looks.values(), steps(world, "timer"), steps(world, "timer")):
        for _ in look:
            pass
    assert world.last_signal().gone == world.over
    assert [published.gone for published in world.published] == [
        index % 2 == 0 for index in range(len(world.published))
    ]
    times = [published.message.headers["ce-time"] for published in world.published]
    assert times == sorted(set(times))
    assert len({published.message.headers["ce-id"] for published in world.published}) == len(times)
