"""Waiting for a turn, and no more waiting for it."""

import asyncio

from exeunt.bus.shares import Share
from exeunt.bus.turns import Crowded, Turns


async def test_who_is_sent_away_and_cancelled_at_once_has_had_no_place() -> None:
    turns, fails = Turns(4), asyncio.Event()

    async def work(number: int) -> None:
        async with turns.turn(Share("team", str(number))) as turn:
            await fails.wait()
            turn.failed = True

    tasks = [asyncio.create_task(work(number)) for number in range(152)]
    await asyncio.sleep(0)
    fails.set()
    await asyncio.sleep(0)  # the first two fail, and send away whoever waits behind a hundred others
    for task in tasks[2:]:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(each) for each in ended} <= {type(None), asyncio.CancelledError, Crowded}
    places = [turns.turn(Share(f"team-{number}", "")) for number in range(5)]
    for place in places[:4]:
        await asyncio.wait_for(place.__aenter__(), 1)
    try:
        await asyncio.wait_for(places[4].__aenter__(), 0.01)
    except TimeoutError:
        return
    raise AssertionError("there are more places than there were")
