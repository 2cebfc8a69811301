"""The streams of the mesh, made or checked on start and made anew when somebody has deleted them."""

from collections.abc import Awaitable, Callable
from typing import Final

from exeunt.bus.connection import Bus
from exeunt.bus.consumers import ensure_consumer
from exeunt.bus.errors import StreamMisconfigured
from exeunt.bus.streams import UNLIMITED, Stream, ensure_stream
from exeunt.events.subjects import DEADLETTERS, DEADLINES, EVERY_LOOK, EVERY_SIGNAL, LIVEKIT, RUNS, SIGNALS
from exeunt.settings import Settings

_DAY: Final = 86_400.0
_MIB: Final = 1024 * 1024
_LARGEST_SIGNAL: Final = 64 * 1024


def runs_stream(*, max_age: float = 7 * _DAY, max_bytes: int = UNLIMITED, replicas: int = 1) -> Stream:
    """What happened, for `max_age` seconds: what makes an event unique, and what replay reads."""
    return Stream(
        name=RUNS,
        subjects=("exeunt.runs.>",),
        description="Exeunt: what happened to realtime StoryRuns, and what was decided",
        max_age=max_age,
        max_bytes=max_bytes,
        size_setting="EXEUNT_HISTORY_BYTES",
        replicas=replicas,
    )


def deadlines_stream(*, max_bytes: int = UNLIMITED, replicas: int = 1) -> Stream:
    """Pending deadlines, as message schedules. No limit of any kind if possible: limits evict pending schedules
    silently, and nats-server refuses `discard: new` where messages are scheduled (ADR 21).
    """
    return Stream(
        name=DEADLINES,
        subjects=("exeunt.deadlines.>",),
        description="Exeunt: shutdown deadlines, as message schedules",
        retention="workqueue",
        max_bytes=max_bytes,
        size_setting="EXEUNT_DEADLINES_BYTES",
        allow_msg_schedules=True,
        allow_msg_ttl=True,
        replicas=replicas,
    )


def signals_stream(*, max_age: float = _DAY, max_bytes: int = 32 * _MIB, replicas: int = 1) -> Stream:
    """What others publish about topologies. A day, because a signal that nobody heard for so long is about no live
    call; no large ones, because anything above a few hundred bytes is no signal; and no more than does no harm to the
    store.
    """
    return Stream(
        name=SIGNALS,
        subjects=(EVERY_SIGNAL,),
        description="Exeunt: topologies that others report gone",
        max_age=max_age,
        max_msg_size=_LARGEST_SIGNAL,
        max_bytes=max_bytes,
        size_setting="EXEUNT_SIGNALS_BYTES",
        replicas=replicas,
    )


def deadletters_stream(*, max_age: float = 30 * _DAY, max_bytes: int = 128 * _MIB, replicas: int = 1) -> Stream:
    """Messages that were set aside, each with the reason in its headers. Of a flood of them the newest are kept."""
    return Stream(
        name=DEADLETTERS,
        subjects=("exeunt.deadletters.>",),
        description="Exeunt: messages set aside, with the reason",
        max_age=max_age,
        max_bytes=max_bytes,
        size_setting="EXEUNT_DEADLETTERS_BYTES",
        replicas=replicas,
    )


def livekit_stream(*, replicas: int = 1) -> Stream:
    """Rooms that the LiveKit bridge has to look at, each once: a newer reason takes the place of the one before. A room
    that lives for more than a day is found again, as is one that found no room here.
    """
    return Stream(
        name=LIVEKIT,
        subjects=(EVERY_LOOK,),
        description="Exeunt: rooms that the LiveKit bridge has to look at",
        retention="workqueue",
        max_age=_DAY,
        max_msg_size=64 * 1024,
        max_msgs_per_subject=1,
        max_bytes=32 * _MIB,
        replicas=replicas,
    )


EnsureStreams = Callable[[Bus, Settings], Awaitable[None]]
"""Makes the streams of a service that are missing and checks those that are there."""


async def ensure_livekit_stream(bus: Bus, settings: Settings) -> None:
    """The LiveKit bridge's own stream; those of the others are not its business. Raises as `ensure_streams` does."""
    await ensure_stream(bus, livekit_stream(replicas=settings.stream_replicas))


async def ensure_streams(bus: Bus, settings: Settings) -> None:
    """Make what is missing and check what is there. Raises StreamMisconfigured, that tells of all streams at once,
    BusUnavailable, PermissionDenied.
    """
    if 0 < bus.nc.max_payload < _LARGEST_SIGNAL:
        raise StreamMisconfigured(
            f"NATS takes messages of {bus.nc.max_payload} bytes at the most: have its max_payload raised, to"
            f" {_LARGEST_SIGNAL} at the least; its default is 1 MiB"
        )
    replicas = settings.stream_replicas
    max_age, max_bytes = settings.history.total_seconds(), settings.history_bytes or UNLIMITED
    faults = []
    for stream in (
        runs_stream(max_age=max_age, max_bytes=max_bytes, replicas=replicas),
        deadlines_stream(max_bytes=settings.deadlines_bytes or UNLIMITED, replicas=replicas),
        signals_stream(max_bytes=settings.signals_bytes, replicas=replicas),
        deadletters_stream(max_bytes=settings.deadletters_bytes, replicas=replicas),
    ):
        try:
            await ensure_stream(bus, stream)
        except StreamMisconfigured as error:
            faults.append(str(error))
    if faults:
        raise StreamMisconfigured("; ".join(faults))


async def ensure_stream_and_consumer(
    bus: Bus,
    settings: Settings,
    stream: str,
    consumer: str,
    filter_subjects: tuple[str, ...],
    *,
    inactive_after: float = 0.0,
    ensure: EnsureStreams = ensure_streams,
) -> None:
    """What a pull loop needs; also what it calls when its stream or consumer seems to be gone.

    The consumer is durable, unless it is one process' own: `inactive_after` as in `ensure_consumer`.
    """
    await ensure(bus, settings)
    await ensure_consumer(
        bus,
        stream,
        consumer,
        filter_subjects,
        ack_wait=settings.ack_wait.total_seconds(),
        max_ack_pending=_MOST_PENDING,
        inactive_after=inactive_after,
    )


_MOST_PENDING: Final = 20_000
"""Deliveries without an answer at the server: those that are given back for a while are among them."""
