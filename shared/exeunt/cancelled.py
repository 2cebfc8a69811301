"""A task that was cancelled ends, also where Python or a library forgets that it was.

asyncio.wait_for forgets a cancellation in the moment of an answer (until Python 3.12), asyncio.TaskGroup one that comes
while a task of the group has failed (until 3.13): what follows is the error of that task alone, and a loop that handles
it goes on for ever. To whoever counts cancellations a group that has failed looks the other way round: it has cancelled
its own task, and takes that back only if it was still in its body (until 3.13). So a loop has each group in a task of
its own.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def as_own_task(body: Coroutine[Any, Any, T]) -> T:
    """What comes of it, in a task of its own: what cancels that from inside does not cancel us, and what cancels us
    cancels it, and is kept.
    """
    async with cancellation_kept():
        return await asyncio.create_task(body)


@asynccontextmanager
async def cancellation_kept() -> AsyncIterator[None]:
    """Ends in CancelledError if the task was cancelled inside, whatever became of that. Groups in it are to be in tasks
    of their own.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before and not isinstance(sys.exception(), asyncio.CancelledError):
            # Cancelled anew, not just raised: groups of Python 3.13 do the same, and a second one would disturb whoever
            # cleans up.
            task.uncancel()
            task.cancel()
            await asyncio.sleep(0)
