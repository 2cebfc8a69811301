"""Waiting for one's turn at a place, by fair shares. `shares` says who is next."""

from asyncio import CancelledError, Future, get_running_loop
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exeunt.bus.shares import Share, Shares


class Crowded(Exception):
    """Too many of a group wait whose work fails: come again later."""

    def __init__(self) -> None:
        super().__init__("what its namespace asks for fails, and enough of it waits")


class Turn:
    """A place, as long as it is had: whoever has it may say that it was for nothing (`failed`), or not."""

    failed: bool | None = None


class Turns:
    """So many `places`. A task that is cancelled while it waits, or while it has its place, leaves none taken."""

    def __init__(self, places: int) -> None:
        self._shares: Shares[Future[None]] = Shares(places)

    @asynccontextmanager
    async def turn(self, share: Share) -> AsyncIterator[Turn]:
        """Wait for a place, however long that takes, and have it. Raises Crowded."""
        come: Future[None] = get_running_loop().create_future()
        if not self._shares.wait(come, share):
            raise Crowded
        self._next()
        try:
            await come
        except CancelledError:
            if come.done() and not come.cancelled() and come.exception() is None:  # it has come in the very moment
                self._end(share)
            raise
        turn = Turn()
        try:
            yield turn
        finally:
            self._end(share, failed=turn.failed)

    def _end(self, share: Share, *, failed: bool | None = None) -> None:
        for come in self._shares.done(share, failed=failed):
            if not come.done():
                come.set_exception(Crowded())
        self._next()

    def _next(self) -> None:
        while (found := self._shares.next()) is not None:
            come, share = found
            if come.cancelled():
                self._shares.done(share)
            else:
                come.set_result(None)
