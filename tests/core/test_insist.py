"""Waiting out a dependency, in virtual time."""

import asyncio
import itertools

import pytest

from exeunt.bus.errors import BusUnavailable
from exeunt.process.insist import insist


@pytest.mark.looptime
async def test_it_is_tried_until_it_answers_and_only_failures_are_reported() -> None:
    failures: list[float] = []
    answers = iter([BusUnavailable("away")] * 12 + ["here"])

    async def call() -> str:
        answer = next(answers)
        if isinstance(answer, BusUnavailable):
            raise answer
        return answer

    def failed() -> None:
        failures.append(asyncio.get_running_loop().time())

    assert await insist("ask", call, on_failure=failed) == "here"
    assert len(failures) == 12
    waits = [after - before for before, after in itertools.pairwise(failures)]
    assert all(0 < wait <= 10 for wait in waits)
    assert max(waits) > 5

    failures.clear()
    answers = iter(["here"])
    assert await insist("ask", call, on_failure=failed) == "here"
    assert failures == []


async def test_any_other_error_is_the_callers() -> None:
    async def call() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await insist("ask", call)
