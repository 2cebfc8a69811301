"""Who is next where places are few: alone half of them, one for each thing, and always one for whoever has none."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from exeunt.bus.shares import Share, Shares


def in_line(shares: Shares[str], group: str, *things: str) -> None:
    for thing in things:
        shares.wait(f"{group}/{thing}", Share(group, thing))


def given_now(shares: Shares[str]) -> list[str]:
    """Who gets the places that there are now."""
    found = []
    while (one := shares.next()) is not None:
        found.append(one[0])
    return found


def test_one_group_alone_has_half_of_the_places_and_first_come_is_first_served() -> None:
    shares = Shares[str](8)
    in_line(shares, "a", *"123456")
    assert given_now(shares) == ["a/1", "a/2", "a/3", "a/4"]
    shares.done(Share("a", "2"))
    assert given_now(shares) == ["a/5"]


def test_who_has_none_is_next_and_then_who_has_the_fewest_in_turn() -> None:
    shares = Shares[str](8)
    in_line(shares, "a", *"123456")
    assert len(given_now(shares)) == 4
    in_line(shares, "b", *"123")
    in_line(shares, "c", *"123")
    assert given_now(shares) == ["b/1", "c/1", "b/2"]  # and one stays free
    shares.done(Share("a", "1"))
    assert given_now(shares) == ["c/2"]
    shares.done(Share("a", "2"))
    shares.done(Share("a", "3"))
    assert given_now(shares) == ["a/5"]


def test_three_groups_that_are_greedy_share_alike_and_leave_as_much_for_a_fourth() -> None:
    shares = Shares[str](64)
    for group in "abc":
        in_line(shares, group, *map(str, range(100)))
    given = given_now(shares)
    assert [sum(one.startswith(group) for one in given) for group in "abc"] == [16, 16, 16]
    assert shares.free == 16


def test_two_about_one_thing_have_no_places_at_the_same_time_and_hold_nobody_up() -> None:
    shares = Shares[str](8)
    in_line(shares, "a", "1", "1", "2")
    assert given_now(shares) == ["a/1", "a/2"]
    shares.done(Share("a", "1"))
    assert given_now(shares) == ["a/1"]


def test_groups_of_one_take_all_places_in_the_order_in_which_they_came() -> None:
    shares = Shares[str](3)
    for group in "dbca":
        in_line(shares, group, "")
    assert given_now(shares) == ["d/", "b/", "c/"]
    shares.done(Share("c", ""))
    assert given_now(shares) == ["a/"]


def test_a_group_has_half_as_many_places_after_each_failure_and_one_more_after_each_success() -> None:
    shares = Shares[str](16)
    in_line(shares, "a", *map(str, range(100)))
    assert len(given_now(shares)) == 8
    for number in range(4):
        shares.done(Share("a", str(number)), failed=True)
    assert given_now(shares) == []  # it has four, and may have one
    for number in range(4, 8):
        shares.done(Share("a", str(number)))
    assert given_now(shares) == ["a/8"]
    shares.done(Share("a", "8"), failed=True)
    assert given_now(shares) == ["a/9"]
    in_line(shares, "b", *"12345678")
    assert len(given_now(shares)) == 8
    shares.done(Share("a", "9"), failed=False)
    assert given_now(shares) == ["a/10", "a/11"]
    shares.done(Share("a", "10"), failed=False)
    assert given_now(shares) == ["a/12", "a/13"]


def test_of_a_group_in_trouble_only_so_many_wait() -> None:
    shares = Shares[str](4)
    in_line(shares, "a", *map(str, range(300)))
    assert given_now(shares) == ["a/0", "a/1"]
    away = shares.done(Share("a", "0"), failed=True)
    assert (len(away), away[0]) == (198, "a/299")
    assert not shares.wait("", Share("a", "300"))
    assert shares.wait("", Share("b", "300"))
    assert given_now(shares) == ["", "a/2"]


def test_what_a_group_does_in_vain_does_not_grow_with_what_waits_and_ends_soon_once_it_is_not() -> None:
    """500 runs that cannot be written, each tried for two seconds: played, a tenth of a second at a time."""
    shares, line, at_work, tried, ended = Shares[str](64), deque(range(500)), list[tuple[float, int]](), 0, 0
    back: list[tuple[float, int]] = []
    now = 0.0
    for step in range(1, 1200):
        now = step / 10
        heals = now > 60
        for at, number in [each for each in at_work if each[0] <= now]:
            at_work.remove((at, number))
            away = shares.done(Share("troubled", str(number)), failed=not heals)
            back += [(now + 20, int(each)) for each in away] + ([] if heals else [(now + 20, number)])
            ended += heals
        line += [number for at, number in back if at <= now]
        back = [each for each in back if each[0] > now]
        while line:
            if not shares.wait(str(line[0]), Share("troubled", str(line[0]))):
                back.append((now + 20, line[0]))
            line.popleft()
        assert shares.wait("well", Share("well", "run"))
        while (one := shares.next()) is not None:
            if one[0] == "well":
                shares.done(one[1], failed=False)
                continue
            tried += not heals
            at_work.append((now + (0.1 if heals else 2), int(one[0])))
        if now == 60:
            assert tried < 100
        if ended == 500:
            break
    assert ended == 500
    assert now < 90


@given(
    st.integers(1, 6),
    st.lists(
        st.tuples(st.booleans(), st.sampled_from([None, True, False]), st.sampled_from("abc"), st.sampled_from("xy")),
        max_size=60,
    ),
)
def test_nobody_is_forgotten_and_whoever_has_none_waits_only_for_a_free_place(
    places: int, steps: list[tuple[bool, bool | None, str, str]]
) -> None:
    shares, waiting, holding = Shares[str](places), list[Share](), list[Share]()
    for leaves, failed, group, thing in steps:
        if leaves and holding:
            assert shares.done(holding.pop(0), failed=failed) == []
        else:
            waiting.append(Share(group, thing))
            shares.wait("", waiting[-1])
        while (one := shares.next()) is not None:
            waiting.remove(one[1])
            holding.append(one[1])
        assert len(set(holding)) == len(holding) == places - shares.free
        poor = [share for share in waiting if share.group not in {held.group for held in holding}]
        assert not (poor and shares.free)
    while holding:
        shares.done(holding.pop())
        while (one := shares.next()) is not None:
            waiting.remove(one[1])
            holding.append(one[1])
    assert not waiting
    assert shares.free == places
