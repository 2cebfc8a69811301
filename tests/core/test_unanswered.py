from math import inf

from exeunt.bus.unanswered import Unanswered, asked_of


def due(unanswered: Unanswered, now: float) -> float:
    return unanswered.leave_at(now, servers=3)


def test_a_server_is_left_for_what_goes_unanswered_while_the_rest_is_answered() -> None:
    unanswered = Unanswered()
    assert due(unanswered, 10) == inf
    unanswered.unanswered("publish", "no answer", since=10, now=11)
    unanswered.unanswered("publish", "no answer", since=11, now=12)
    unanswered.unanswered("pull", "silent", since=11, now=13)
    unanswered.answered("pull")
    assert due(unanswered, 13) == 13
    assert unanswered.unavailable_reason(12.9) is None
    assert unanswered.unavailable_reason(14) == "no answer, for 4 s"
    unanswered.answered("publish")
    assert due(unanswered, 14) == inf
    assert unanswered.unavailable_reason(14) is None


def test_nobody_leaves_a_server_that_is_not_cut_off() -> None:
    unanswered = Unanswered()
    unanswered.unanswered("publish", "no answer", since=10, now=11)
    unanswered.proven(12)
    assert due(unanswered, 13) == 14.5
    assert unanswered.unavailable_reason(13) is not None  # it does not serve us all the same


def test_what_nobody_has_asked_for_since_tells_nothing() -> None:
    unanswered = Unanswered()
    unanswered.unanswered("publish", "no answer", since=10, now=11)
    assert due(unanswered, 80) == inf
    assert unanswered.unavailable_reason(80) is None
    unanswered.unanswered("publish", "no answer", since=79, now=80)
    assert due(unanswered, 80) == 82


def test_where_no_server_is_any_better_it_is_changed_ever_more_rarely() -> None:
    unanswered = Unanswered()
    now, waits = 0.0, []
    for _ in range(12):
        unanswered.unanswered("publish", "no answer", since=now, now=now)
        waits.append(due(unanswered, now) - now)
        now += waits[-1]
        unanswered.leave(now)
    assert waits == [3, 3, 3, 6, 6, 6, 12, 12, 12, 24, 24, 24]
    now += 100
    unanswered.unanswered("publish", "no answer", since=now, now=now)
    assert due(unanswered, now) == now + 3


def test_what_is_served_by_the_same_is_one() -> None:
    assert asked_of("exeunt.runs.a.b.c") == asked_of("exeunt.runs.d")
    assert asked_of("$JS.API.STREAM.INFO.RUNS") != asked_of("$JS.API.STREAM.INFO.SIGNALS")
    assert asked_of("$JS.API.DIRECT.GET.RUNS.exeunt.runs.a") == asked_of("$JS.API.DIRECT.GET.RUNS")
    assert asked_of("$JS.ACK.RUNS.terminator.1.2.3") == asked_of("$JS.ACK.RUNS.terminator.4.5.6")


def test_that_the_store_was_full_is_reported_until_something_is_stored() -> None:
    unanswered = Unanswered()
    unanswered.unanswered("exeunt.runs", "insufficient resources (503/10023)", since=10, now=10)
    unanswered.leave(13)
    unanswered.unanswered("exeunt.runs", "nobody answers", since=13, now=17)
    full = "nobody answers, for 4 s, since the JetStream store was full (503/10023): see ExeuntStopStuck"
    assert unanswered.unavailable_reason(17) == full
    unanswered.answered("$JS.API.STREAM.INFO.RUNS")
    assert unanswered.unavailable_reason(17) == full
    unanswered.answered("exeunt.runs")
    unanswered.unanswered("exeunt.runs", "nobody answers", since=20, now=24)
    assert unanswered.unavailable_reason(24) == "nobody answers, for 4 s"
