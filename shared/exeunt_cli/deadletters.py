"""`exeunt deadletters`: what services have set aside, to look at, to republish, to drop.

`list` and `show` only read. `republish` publishes a message again where it came from and then takes it off the stream
DEADLETTERS, in this order: interrupted and repeated, it is published once (`dead_letter`). Needs the rights for that.
"""

import asyncio
import sys
from typing import Annotated

from cyclopts import App, Parameter

from exeunt.bus.connection import Bus
from exeunt.bus.errors import ApiRefused
from exeunt.bus.publisher import AlreadyStored, Stored, message_at, publish
from exeunt.clock import parse_instant
from exeunt.errors import UsageError
from exeunt.events.subjects import DEADLETTERS
from exeunt.history.reading import read
from exeunt_cli.dead_letter import EVERY_DEAD_LETTER, DeadLetter, dead_letter, render_letter, republished
from exeunt_cli.errors import NotFound
from exeunt_cli.options import Output, Where, Window, examples
from exeunt_cli.output import Columns, console, print_all, print_json, print_note, print_one
from exeunt_cli.source import connected

deadletters = App(
    name="deadletters",
    help="Look at messages that were set aside, republish them, or drop them.",
    help_epilogue=examples("exeunt deadletters list -A --since 7d", "exeunt deadletters republish 1"),
)

_EVERYWHERE, _ALWAYS = Where(), Window()
_DEADLINE = 10.0
"""Seconds to republish one message."""

Sequence = Annotated[int, Parameter(help="Sequences in the stream DEADLETTERS, as `list` shows them.")]
All = Annotated[bool, Parameter(name="--all", negative="", help="All of them; with -n, all of that namespace.")]


@deadletters.command(name="list", help_epilogue=examples("exeunt deadletters list -A --since 7d"))
async def show_all(*, where: Where = _EVERYWHERE, window: Window = _ALWAYS, output: Output = "table") -> None:
    """List what is set aside, the newest last."""
    async with connected(where) as bus:
        letters = [letter for letter in await _letters(bus, where) if window.holds(parse_instant(letter.set_aside_at))]
    if print_all([render_letter(letter) for letter in letters], output):
        return
    if letters:
        header = ("SEQ", "SET ASIDE", "CONSUMER", "RUN", "EVENT", "DELIVERIES", "REASON")
        wide = output == "wide"
        columns = Columns((*header[:-1], "STREAM", "STREAM SEQ", "SUBJECT", header[-1]) if wide else header)
        console().print(*columns.lines(_row(letter, wide=wide) for letter in letters), sep="\n")
    else:
        print_note("nothing is set aside")


def _row(letter: DeadLetter, *, wide: bool) -> tuple[str, ...]:
    row = (
        str(letter.sequence),
        f"{parse_instant(letter.set_aside_at):%Y-%m-%dT%H:%M:%SZ}",
        letter.consumer,
        letter.run,
        letter.event,
        str(letter.deliveries or "-"),
    )
    came_from = (letter.stream or "-", str(letter.stream_sequence or "-"), letter.subject or "-")
    return (*row, *(came_from if wide else ()), letter.reason or "-")


@deadletters.command(help_epilogue=examples("exeunt deadletters show 1"))
async def show(sequence: int, /, *, where: Where = _EVERYWHERE, output: Output = "table") -> None:
    """Show one message with its reason, its headers and its payload."""
    async with connected(where) as bus:
        letter = await _letter(bus, sequence)
    rendered = render_letter(letter)
    if print_one(rendered, output):
        return
    rows = [(f"{name.replace('_', ' ').capitalize()}:", str(rendered[name])) for name in _SHOWN if rendered[name]]
    rows += [(f"{name}:", value) for name, value in letter.headers.items()]
    console().print(*Columns(("", "")).lines(rows, header=False), "", sep="\n")
    if "data" in rendered:
        print_json(rendered["data"])
    else:
        sys.stdout.write(f"{letter.data!r}\n")


_SHOWN = ("sequence", "set_aside_at", "reason", "run", "event", "consumer", "stream", "subject", "stream_sequence",
          "deliveries", "cut_from")  # fmt: skip


@deadletters.command(help_epilogue=examples("exeunt deadletters republish 1"))
async def republish(*sequences: Sequence, every: All = False, where: Where = _EVERYWHERE) -> None:
    """Republish messages where they came from, and take them off the list. Safe to repeat.

    All consumers of that stream hear them; none of them does anything twice.
    """
    left = 0
    async with connected(where) as bus:
        for letter in await _chosen(bus, sequences, where, every=every):
            try:
                answer = await _republish(bus, letter)
            except UsageError as error:
                if not every:
                    raise
                print_note(str(error))
                left += 1
                continue
            what = "republished" if isinstance(answer, Stored) else "was republished before"
            await _take_off(bus, letter)
            console().print(f"{letter.sequence}: {what} on {letter.subject}, sequence {answer.sequence}")
    if left:
        raise UsageError(f"{left} of the dead letters cannot be republished, as shown above")


@deadletters.command(help_epilogue=examples("exeunt deadletters drop 1"))
async def drop(
    *sequences: Sequence,
    every: All = False,
    where: Where = _EVERYWHERE,
    yes: Annotated[bool, Parameter(negative="", help="Do not ask.")] = False,
) -> None:
    """Drop messages for good."""
    if not yes and not sys.stdin.isatty():
        raise UsageError("dropping is for good, and nobody can be asked here: say --yes")
    async with connected(where) as bus:
        for letter in await _chosen(bus, sequences, where, every=every):
            question = (
                f"Drop {letter.sequence} ({letter.event} of {letter.run}: {letter.reason or 'no reason'})? [y/N] "
            )
            if yes or (await asyncio.to_thread(input, question)).strip().lower() in ("y", "yes"):
                await _take_off(bus, letter)
                console().print(f"{letter.sequence}: dropped")


async def _chosen(bus: Bus, sequences: tuple[int, ...], where: Where, *, every: bool) -> list[DeadLetter]:
    """The letters that are meant, all of them looked up before anything is done. Raises UsageError, NotFound."""
    if every == bool(sequences):
        raise UsageError("say which ones: sequences, as `exeunt deadletters list` shows them, or --all")
    if every:
        return await _letters(bus, where)
    return [await _letter(bus, sequence) for sequence in dict.fromkeys(sequences)]


async def _letters(bus: Bus, where: Where) -> list[DeadLetter]:
    found = [
        dead_letter(record.sequence, parse_instant(record.time), record.subject, record.headers, record.data)
        async for record in read(bus, EVERY_DEAD_LETTER, stream=DEADLETTERS)
    ]
    return [letter for letter in found if where.namespace in (None, letter.namespace)]


async def _letter(bus: Bus, sequence: int) -> DeadLetter:
    found = await message_at(bus, DEADLETTERS, sequence)
    if found is None:
        raise NotFound(
            f"there is no dead letter {sequence}: republished, dropped, or too old; list shows those that are"
        )
    return dead_letter(found.sequence, found.timestamp, found.subject, found.headers, found.data)


async def _republish(bus: Bus, letter: DeadLetter) -> Stored | AlreadyStored:
    """Raises UsageError, BusUnavailable, PublishRefused, PermissionDenied."""
    again = republished(letter, expected=letter.stream_sequence)
    answer = await publish(bus, again, deadline=_DEADLINE)
    if answer != AlreadyStored(0):
        return answer
    # The original is no longer in its stream, and nothing came after it.
    return await publish(bus, republished(letter, expected=0), deadline=_DEADLINE)


async def _take_off(bus: Bus, letter: DeadLetter) -> None:
    try:
        await bus.api(f"STREAM.MSG.DELETE.{DEADLETTERS}", {"seq": letter.sequence, "no_erase": True})
    except ApiRefused:
        if await message_at(bus, DEADLETTERS, letter.sequence) is not None:
            raise
        # Somebody else was here first.
