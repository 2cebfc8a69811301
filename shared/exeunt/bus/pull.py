"""Taking messages from a durable consumer, many at a time, over every restart of the server.

nats-py's own fetch stalls on orphaned pulls and waits its whole timeout over a restart. This loop keeps pulls
of its own waiting at the server, on one inbox, and re-issues them when the connection is new, when the server
ends them, or when its heartbeats stay away. Each message is handled in a task of its own; `delivery` is what
handlers see and say, `acknowledge` tells the server.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from exeunt.back_off import BackOff
from exeunt.bus.acknowledge import acknowledge
from exeunt.bus.connection import Bus
from exeunt.bus.delivery import DeadLetter, Delivery, DeliveryAnswer, Retry, again
from exeunt.bus.errors import BusUnavailable, NoResponders, PublishRefused
from exeunt.bus.lag import look_for_a_majority, report_lag
from exeunt.bus.shares import Share
from exeunt.bus.turns import Crowded, Turns
from exeunt.errors import PoisonEvent
from exeunt.telemetry.metrics import expect_deliveries

HEARTBEAT = 0.8  # seconds between the server's signs of life on an idle pull
SILENCE = 2.5 * HEARTBEAT  # without any of them, the pull is taken for lost
_GRACE = 0.01  # seconds more, so that whoever wakes when it is over finds that it is
PULL_EXPIRES = 3.0  # seconds a pull waits at the server, which may deliver on it to where we cannot be reached any more
BACK_OFF = BackOff(0.05, 1)  # between two tries to get the consumer back
_RECREATE_PATIENCE = 1.0  # seconds for looking after a missing stream or consumer between two of them
_MOST_GIVEN_BACK = 20_000  # as many as a consumer may have without an answer

log = structlog.get_logger(__name__)

Handler = Callable[[Delivery], Awaitable[DeliveryAnswer]]


class PullLoop:
    """Handles the messages of one durable consumer, at most `max_in_flight` at once. Run it once.

    `share` says to whom a delivery belongs and what it is about: places are shared fairly, and no two that are about
    the same are handled at once; who fails has fewer (`shares`). So that one can be seen behind many of another's, up
    to `max_waiting` more are taken than there are places; when the loop ends, those are given back unseen. Without
    `share` it is first come, first served.

    `consumer` is its name at the server where that is not `durable`, as for one that each process has of its own:
    logs and metrics go by `durable`.

    `ack_wait` (seconds) is the consumer's; a handler that takes longer keeps its message, up to `max_hold`
    seconds, and is then cancelled and retried. A message delivered more than `max_deliveries` times is set
    aside unseen, unless its handler has given it back here before: either it ends processes, or it waits for something
    that is away, and only the latter leaves somebody who remembers. `ack_sync` waits for the server to confirm an ack:
    on a workqueue that makes it survive the server's death. `recreate` makes stream and consumer anew, called whenever
    they seem to be missing.

    `unavailable_reason` says why nothing arrives or nothing is acknowledged, None when all is well; `last_progress` is
    the loop time of the last sign of life, infinite before `run`: what has not begun cannot be stuck.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        *,
        max_in_flight: int,
        recreate: Callable[[], Awaitable[None]],
        ack_wait: float,
        max_deliveries: int,
        max_hold: float = 600.0,
        ack_sync: bool = False,
        consumer: str | None = None,
        share: Callable[[Delivery], Share] | None = None,
        max_waiting: int = 0,
    ) -> None:
        self._unavailable_reason: str | None = "not started"
        self._standing: str | None = None  # what the server says of the consumer while its pulls look well
        self.last_progress = float("inf")
        self.alone_since: float | None = None
        """Since when (loop time) the consumer's leader does not hear the others; it may look well all the same."""
        self.silent_since: float | None = None
        """The loop time of the consumer's last word, once it has said nothing for too long."""
        self._bus = bus
        self._stream = stream
        self._durable = durable
        self._consumer = consumer or durable
        self._next_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{self._consumer}"
        self._max_taken = max_in_flight + max_waiting
        self._recreate = recreate
        self._ack_wait = ack_wait
        self._max_hold = max_hold
        self._max_deliveries = max_deliveries
        self._ack_sync = ack_sync

        self._inbox = bus.nc.new_inbox()
        self._subscription: Subscription | None = None
        self._accepting = False  # whether arriving messages may still be handled
        self._largest_pull = self._max_taken  # of messages; the server may allow fewer
        self._asked_for = 0  # messages that pulls waiting at the server may still send
        self._in_flight: dict[Delivery, asyncio.Task[None]] = {}
        # Not every message was counted: a pull that was taken for lost may deliver after all.
        self._turns = Turns(max_in_flight)
        self._shares_places = share is not None
        self._share = share or (lambda delivery: Share(delivery.ack_subject, ""))
        self._begun: set[Delivery] = set()  # of those in flight
        self._given_back: dict[int, None] = {}  # sequences of messages that a handler has given back, oldest first
        self._wake = asyncio.Event()  # for the puller: there is something to ask for or to repair
        self._ended_pull: BusUnavailable | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._heard = 0.0  # loop time of the last word from the server
        self._failures = 0  # in a row, since the last such word
        self._stop_by = float("inf")
        expect_deliveries(durable)

    @property
    def unavailable_reason(self) -> str | None:
        if self._unavailable_reason or self._standing:
            return self._unavailable_reason or self._standing
        if self._bus.are_acks_denied(self._stream, self._consumer):
            return (
                f"permission denied for the acks of consumer {self._durable}: grant this user"
                f" $JS.ACK.{self._stream}.{self._durable}.> and $JS.ACK.*.*.{self._stream}.{self._durable}.>"
            )
        return None

    @property
    def lost(self) -> str | None:
        """Why nothing is heard of the consumer; None while its server speaks for it, whatever else `unavailable_reason`
        says of it.
        """
        if self._unavailable_reason is None and self.alone_since is not None:
            return f"the leader of consumer {self._durable} has no majority"
        return self._unavailable_reason

    async def run(self, handle: Handler) -> None:
        """Handle messages until `stop`. An exception from `handle` is a bug: the rest is cancelled.

        PoisonEvent and PublishRefused are none: their messages become dead letters. Raises an ExceptionGroup of it, or
        of BusClosed, or of what `recreate` raised besides BusUnavailable.
        """
        self._beat()
        self._ended.clear()
        unhook = self._bus.on_session(self._wake.set)
        try:
            async with asyncio.TaskGroup() as tasks:
                puller = tasks.create_task(self._pull(tasks, handle), name=f"pull-{self._durable}")
                keeper = tasks.create_task(self._keep(), name=f"keep-{self._durable}")
                lag = tasks.create_task(
                    report_lag(self._bus, self._stream, self._consumer, self._durable, self._stands)
                )
                majority = tasks.create_task(
                    look_for_a_majority(self._bus, self._stream, self._consumer, self._leads_nobody)
                )
                await self._stopping.wait()
                puller.cancel()
                await self._wind_down()
                keeper.cancel()
                lag.cancel()
                majority.cancel()
        finally:
            self._accepting = False
            self._unavailable_reason, self._standing = "stopped", None
            unhook()
            await self._unsubscribe()
            self._ended.set()

    async def stop(self, budget: float) -> None:
        """Take no more messages, let handlers finish for `budget` seconds at the most, give back the rest."""
        self._stop_by = asyncio.get_running_loop().time() + budget
        self._stopping.set()
        await self._ended.wait()

    # ---- asking

    async def _pull(self, tasks: asyncio.TaskGroup, handle: Handler) -> None:
        """Keep pulls at the server. Trouble is reported, waited out with back-off, and followed by `recreate`."""
        self._accepting = True
        while not self._stopping.is_set():
            try:
                await self._connection()
                if self._subscription is None:
                    self._subscription = await self._subscribe(tasks, handle)
                await self._ask_while_connected()
            except BusUnavailable as unavailable_reason:
                self._beat()
                if str(unavailable_reason) != self._unavailable_reason:
                    log.warning("pull interrupted", consumer=self._durable, trouble=str(unavailable_reason))
                self._unavailable_reason = str(unavailable_reason)
                self._failures += 1
                await asyncio.sleep(BACK_OFF.wait(self._failures - 1))

    async def _make_anew(self) -> None:
        """While a leader is elected nobody answers this: no reason to wait for long, and a pull is there already."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECREATE_PATIENCE):
                await self._recreate()

    async def _connection(self) -> None:
        """Wait for the connection as long as it takes, with signs of life."""
        while (down := self._bus.unavailable_reason) is not None:
            self._unavailable_reason = down
            self._beat()
            with contextlib.suppress(BusUnavailable):
                await self._bus.wait_connected(1.0)

    async def _subscribe(self, tasks: asyncio.TaskGroup, handle: Handler) -> Subscription:
        """Listen on our inbox. What comes there starts a task at once: one loop turn less than a queue."""

        async def arrive(message: Msg) -> None:
            self._beat()
            if not message.reply.startswith("$JS.ACK."):
                self._on_status(message.headers or {})
                return
            self._all_is_well()
            self._asked_for = max(0, self._asked_for - 1)
            delivery = Delivery.of(message, self._bus.nc)
            if not self._accepting:
                await delivery.nak()
                return
            self._in_flight[delivery] = tasks.create_task(self._handle_one(delivery, handle))
            self._wake_if_room()

        try:
            return await self._bus.nc.subscribe(self._inbox, cb=arrive)
        except nats.errors.Error as error:
            raise BusUnavailable(f"cannot listen on {self._inbox}: {error}") from error

    async def _ask_while_connected(self) -> None:
        """Returns when the connection is another one or lost; raises BusUnavailable when the pulls are."""
        loop = asyncio.get_running_loop()
        session, self._asked_for, self._ended_pull = self._bus.session, 0, None
        started = self._heard = loop.time()
        if self._failures:
            await self._ask()
            await self._make_anew()
            if self._ended_pull is not None:  # before there was something to pull from again
                self._asked_for, self._ended_pull = 0, None
        while self._bus.session == session and self._bus.unavailable_reason is None:
            self._wake.clear()
            if self._ended_pull is not None:
                self._bus.change.unanswered(self._next_subject, str(self._ended_pull), since=self._heard)
                raise self._ended_pull
            await self._ask()
            until = min(loop.time() + HEARTBEAT, self._heard + SILENCE + _GRACE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            # It owes us no sign of life when all slots are taken. When this process was held up, it may have given one
            # that is not read yet.
            if self._asked_for == 0 or loop.time() > until + HEARTBEAT:
                self._heard = loop.time()
                self._beat()
            elif loop.time() - self._heard > SILENCE:
                self.silent_since = self.silent_since or self._heard
                silent = f"consumer {self._durable} is silent at {self._bus.server}"
                if self._bus.is_denied(self._next_subject, since=started):
                    raise BusUnavailable(f"{silent}: permission denied for subject {self._next_subject}")
                self._bus.change.unanswered(self._next_subject, silent, since=self._heard)
                raise BusUnavailable(f"{silent}: no heartbeat")

    async def _ask(self) -> None:
        """Ask for as many messages as there is room for, once half of the room is not asked for yet."""
        while room := min(self._room(), self._largest_pull):
            pull = {"batch": room, "expires": int(PULL_EXPIRES * 1e9), "idle_heartbeat": int(HEARTBEAT * 1e9)}
            self._asked_for += room
            try:
                await self._bus.nc.publish(self._next_subject, msgspec.json.encode(pull), reply=self._inbox)
            except nats.errors.Error as error:
                raise BusUnavailable(f"cannot pull from {self._durable}: {error}") from error

    def _room(self) -> int:
        free = self._max_taken - len(self._in_flight)
        return free - self._asked_for if free > 0 and self._asked_for <= free // 2 else 0

    def _wake_if_room(self) -> None:
        if self._room():
            self._wake.set()

    def _on_status(self, headers: dict[str, str]) -> None:
        """What the server says about a pull: 100 alive, 408 expired, 409 ended (why), 503 nobody there."""
        status, text = headers.get("Status", ""), headers.get("Description", "")
        match status:
            case "100":
                self._all_is_well()
            case "408":
                self._asked_for = max(0, self._asked_for - int(headers.get("Nats-Pending-Messages", "0")))
                self._wake_if_room()
            case "503":
                self._ended_pull = NoResponders(
                    f"consumer {self._durable} is missing at {self._bus.server}, or has no leader (yet)"
                )
                self._wake.set()
            case _:
                if most := re.search(
                    r"Exceeded MaxRequestBatch of (\d+)", text
                ):  # the limit of a server, or somebody's
                    self._largest_pull = max(1, int(most[1]))
                self._ended_pull = BusUnavailable(f"consumer {self._durable} ended a pull: {status} {text}")
                self._wake.set()

    def _all_is_well(self) -> None:
        self._heard, self._failures, self._unavailable_reason, self.silent_since = self.last_progress, 0, None, None
        self._bus.change.answered(self._next_subject)

    def _leads_nobody(self, since: float | None) -> None:
        self.alone_since = since

    def _stands(self, unavailable_reason: str | None) -> None:
        self._standing = unavailable_reason

    def _beat(self) -> None:
        self.last_progress = asyncio.get_running_loop().time()

    # ---- handling

    async def _handle_one(self, delivery: Delivery, handle: Handler) -> None:
        try:
            async with self._turns.turn(self._share(delivery)) as turn:
                self._begun.add(delivery)
                answer = await self._answer_of(delivery, handle)
                turn.failed = self._shares_places and isinstance(answer, Retry) and answer.failed
                await acknowledge(self._bus, delivery, answer, durable=self._durable, sync=self._ack_sync)
        except Crowded as crowded:
            self._remember(delivery)
            answer = again(delivery.num_delivered, crowded)
            await acknowledge(self._bus, delivery, answer, durable=self._durable, sync=self._ack_sync)
        except asyncio.CancelledError:
            # The loop ends: give it back, for another instance. First unsubscribe, or it would come to us again.
            await self._unsubscribe()
            await delivery.nak()
            raise
        except Exception:
            self._accepting = False  # no NAK: what broke us shall not break the next instance at once
            raise
        finally:
            del self._in_flight[delivery]
            self._begun.discard(delivery)
            self._wake_if_room()

    async def _answer_of(self, delivery: Delivery, handle: Handler) -> DeliveryAnswer:
        sequence = delivery.stream_sequence
        if delivery.num_delivered > self._max_deliveries and sequence not in self._given_back:
            return DeadLetter(f"not acknowledged in {self._max_deliveries} deliveries")
        self._given_back.pop(sequence, None)
        hold = asyncio.timeout(self._max_hold)
        try:
            async with hold:
                answer = await handle(delivery)
        except TimeoutError:
            if not hold.expired():
                raise
            return Retry(0.0, f"the handler took longer than {self._max_hold:g} s")
        except (PoisonEvent, PublishRefused) as error:  # what follows from it can never be stored: poison, too
            return DeadLetter(str(error))
        if isinstance(answer, Retry):
            self._remember(delivery)
        return answer

    def _remember(self, delivery: Delivery) -> None:
        """That it is given back."""
        self._given_back[delivery.stream_sequence] = None
        if len(self._given_back) > _MOST_GIVEN_BACK:
            del self._given_back[next(iter(self._given_back))]

    async def _keep(self) -> None:
        """Hold on to the messages that are being handled: answer the server thrice in each ack wait."""
        while True:
            await asyncio.sleep(self._ack_wait / 3)
            for delivery in list(self._in_flight):
                await delivery.in_progress()

    # ---- ending

    async def _wind_down(self) -> None:
        self._accepting = False
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            async with asyncio.timeout_at(self._stop_by):
                if self._subscription is not None and self._bus.unavailable_reason is None:
                    # Messages under way to us still arrive, and `arrive` gives them back.
                    await self._subscription.drain()  # type: ignore[no-untyped-call]
        for delivery, task in list(self._in_flight.items()):
            if delivery not in self._begun:
                task.cancel()
        if self._in_flight:
            budget = max(0.0, self._stop_by - asyncio.get_running_loop().time())
            await asyncio.wait(self._in_flight.values(), timeout=budget)
        for task in list(self._in_flight.values()):
            task.cancel()

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):  # drained or closed already
                await subscription.unsubscribe()
