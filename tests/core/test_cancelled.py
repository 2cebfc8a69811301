"""A task that was cancelled ends, at whatever moment that was."""

import asyncio

import pytest

from exeunt.cancelled import as_own_task, cancellation_kept

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
    waiting = asyncio.current_task()
    assert waiting

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_fails_while_cancelled(waiting, steps))

    try:
        await as_own_task(group())
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


@pytest.mark.parametrize("steps", STEPS)
async def test_who_handles_the_errors_of_a_group_goes_on(steps: int) -> None:
    """Whether the group is still in its body by then, or waits for its tasks."""

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fails())
            tasks.create_task(asyncio.sleep(10))
            for _ in range(steps):
                await asyncio.sleep(0)

    async def fails() -> None:
        await asyncio.sleep(0)
        raise OSError

    async def handling() -> str:
        for _ in range(2):
            try:
                await as_own_task(group())
            except* OSError:
                pass
            await asyncio.sleep(0)
        return "goes on"

    assert await asyncio.create_task(handling()) == "goes on"


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
