"""A task that was cancelled ends, also where Python or a library forgets that it was.

asyncio.wait_for forgets a cancellation in the moment of an answer (until Python 3.12), asyncio.TaskGroup one that comes
while a task of the group has failed (until 3.13): what follows is the error of that task alone, and a loop that handles
it goes on for ever. To whoever counts cancellations a group that has failed looks the other way round: it has cancelled
its own task, and takes that back only if it was still in its body (until 3.13). So a loop has each group in a task of
its own.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def as_own_task(body: Coroutine[Any, Any, T]) -> T:
    """What comes of it, in a task of its own: what cancels that from inside does not cancel us, and what cancels us
    cancels it, and is kept.
    """
    async with cancellation_kept():
        return await asyncio.create_task(body)


class cancellation_kept:  # noqa: N801 - used as a function, as asyncio.timeout is
    """Ends in CancelledError if the task was cancelled inside, whatever became of that. Groups in it are to be in tasks
    of their own.
    """

    __slots__ = ("_before", "_task")

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        self._before = self._task.cancelling() if self._task else 0

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        task = self._task
        if task and task.cancelling() > self._before and not isinstance(error, asyncio.CancelledError):
            # Cancelled anew, not just raised: groups of Python 3.13 do the same, and a second one would disturb whoever
            # cleans up.
            task.uncancel()
            task.cancel()
            await asyncio.sleep(0)
