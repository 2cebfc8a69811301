"""A process: it crashes and starts again, freezes and thaws, and has a clock of its own. What it was waiting for when
it crashed never comes.
"""

from collections.abc import Callable
from datetime import datetime
from functools import partial

from simulation.clockwork import Clockwork, instant
from simulation.faults import Troubles


class Process:
    """One instance of a service. `name` is its own, `offset` the seconds that its clock is ahead."""

    def __init__(self, clock: Clockwork, troubles: Troubles, name: str) -> None:
        self.clock = clock
        self.troubles = troubles
        self.name = name
        self.offset = 0.0
        self.alive = False
        self.incarnation = 0
        self.at_work: set[object] = set()
        """The deliveries in its hands, which it tells NATS about."""
        self._frozen_until = 0.0

    def now(self) -> datetime:
        return instant(self.clock.now + self.offset)

    @property
    def frozen(self) -> bool:
        return self.clock.now < self._frozen_until

    def later(self, delay: float, act: Callable[[], None]) -> None:
        """Have this process do it, if it lives as long."""
        self.clock.after(delay, partial(self._act, self.incarnation, act))

    def _act(self, incarnation: int, act: Callable[[], None]) -> None:
        if not self.alive or incarnation != self.incarnation:
            return
        if self.frozen:
            self.clock.after(self._frozen_until - self.clock.now, partial(self._act, incarnation, act))
            return
        act()

    def start(self) -> None:
        if not self.alive:
            self.alive = True
            self.clock.note(self.name, "starts")
            self.begin()

    def begin(self) -> None:
        """What it does first."""
        raise NotImplementedError

    def crash(self, down_for: float) -> None:
        if self.alive:
            self.clock.note(self.name, "crashes")
            self.alive = False
            self.incarnation += 1
            self.at_work.clear()
            self._frozen_until = 0.0
            self.clock.after(down_for, self.start)

    def freeze(self, lasting: float) -> None:
        self.clock.note(self.name, f"freezes for {lasting:.1f} s")
        self._frozen_until = max(self._frozen_until, self.clock.now + lasting)
