"""A task that was cancelled ends, also where Python or a library forgets that it was.

asyncio.wait_for forgets a cancellation in the moment of an answer (until Python 3.12), asyncio.TaskGroup one that comes
while a task of the group has failed (until 3.13): what follows is the error of that task alone, and a loop that handles
it goes on for ever.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


@asynccontextmanager
async def cancellation_kept() -> AsyncIterator[None]:
    """Ends in CancelledError if the task was cancelled inside, whatever became of that."""
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
