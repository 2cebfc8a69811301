"""Waiting for one's turn at a place, by fair shares. `shares` says who is next."""

from asyncio import CancelledError, Future, get_running_loop
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exeunt.bus.shares import Share, Shares


class Turns:
    """So many `places`. A task that is cancelled while it waits, or while it has its place, leaves none taken."""

    def __init__(self, places: int) -> None:
        self._shares: Shares[Future[None]] = Shares(places)

    @asynccontextmanager
    async def turn(self, share: Share) -> AsyncIterator[None]:
        """Wait for a place, however long that takes, and have it."""
        come: Future[None] = get_running_loop().create_future()
        self._shares.wait(come, share)
        self._next()
        try:
            await come
        except CancelledError:
            if not come.cancelled():  # it has come in the very moment
                self._end(share)
            raise
        try:
            yield
        finally:
            self._end(share)

    def _end(self, share: Share) -> None:
        self._shares.done(share)
        self._next()

    def _next(self) -> None:
        while (found := self._shares.next()) is not None:
            come, share = found
            if come.cancelled():
                self._shares.done(share)
            else:
                come.set_result(None)
