"""What a terminator did without the bus, and publishes when it is back, as `exeunt_terminator.unpublished` does."""

from collections import deque
from functools import partial

from exeunt.events.messages import Message
from exeunt.events.subjects import RUNS
from exeunt_terminator.handing_over import HandedOver, HandingOver
from exeunt_terminator.local_streams import Done
from simulation import jetstream
from simulation.jetstream import JetStream, Unavailable
from simulation.processes import Process


class Unpublished:
    def __init__(self, process: Process, nats: JetStream) -> None:
        self._process = process
        self._nats = nats
        self._kept: deque[Done] = deque()
        self._at_work = False

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, done: Done) -> None:
        self._kept.append(done)

    def publish(self) -> None:
        """The oldest; what fails is tried at the next look."""
        if self._kept and not self._at_work:
            self._at_work = True
            handing_over = HandingOver(self._kept[0])
            self._carry_out(handing_over, handing_over.begin())

    def _carry_out(self, handing_over: HandingOver, command: Message | HandedOver) -> None:
        if isinstance(command, Message):
            self._nats.publish_own(self._process, RUNS, command, partial(self._hear, handing_over))
        elif command is HandedOver.OVERTAKEN:
            self._at_work = False
        else:
            self._next()

    def _hear(self, handing_over: HandingOver, answer: jetstream.Answer) -> None:
        match answer:
            case jetstream.Stored(sequence) | jetstream.AlreadyStored(sequence):
                own = isinstance(answer, jetstream.Stored)
                self._carry_out(handing_over, handing_over.receive(sequence, own=own))
            case jetstream.NotStored():
                self._next()
            case Unavailable():
                self._at_work = False

    def _next(self) -> None:
        self._kept.popleft()
        self._at_work = False
        self.publish()
