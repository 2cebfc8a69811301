"""A task that was cancelled ends, at whatever moment that was."""

import asyncio

import pytest

from exeunt.cancelled import cancellation_kept

STEPS = range(8)
"""Of the event loop between a failure and the cancellation: every order of the two is among them."""


async def _fails_while_cancelled(waiting: asyncio.Task[None], steps: int) -> None:
    asyncio.create_task(_cancel(waiting, steps), name="canceller")  # noqa: RUF006 - ends by itself
    raise OSError


async def _cancel(task: asyncio.Task[None], steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()


async def _handle_errors_of_a_group(steps: int) -> None:
    async with cancellation_kept():
        try:
            async with asyncio.TaskGroup() as tasks:
                waiting = asyncio.current_task()
                assert waiting
                tasks.create_task(_fails_while_cancelled(waiting, steps))
        except* OSError:
            pass
    for _ in STEPS:
        await asyncio.sleep(0)


async def _wait_for_an_answer(steps: int) -> None:
    waiting, answer = asyncio.current_task(), asyncio.get_running_loop().create_future()
    assert waiting
    async with cancellation_kept():
        answer.set_result(None)
        asyncio.create_task(_cancel(waiting, steps), name="canceller")  # noqa: RUF006 - ends by itself
        await asyncio.wait_for(asyncio.shield(answer), 10)
    for _ in STEPS:
        await asyncio.sleep(0)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("body", [_handle_errors_of_a_group, _wait_for_an_answer])
async def test_a_cancellation_is_kept(body, steps: int) -> None:  # type: ignore[no-untyped-def]
    task = asyncio.create_task(body(steps))
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()


async def test_an_error_without_a_cancellation_is_that_error() -> None:
    with pytest.raises(OSError, match="broken"):
        async with cancellation_kept():
            raise OSError("broken")


async def test_who_is_cancelled_from_outside_of_it_goes_on_inside() -> None:
    async def cleaning_up() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            async with cancellation_kept():
                await asyncio.sleep(0)
            return "clean"
        return "not cancelled"

    task = asyncio.create_task(cleaning_up())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "clean"
