"""Who wrote which fields of an object, and when, as `metadata.managedFields` tells it. Pure.

Times are cut to whole seconds there, as they are in a status: what two terminators write in one second is the same to
the letter. So each stop writes in a name of its own, and the run tells whose write it was that has ended it.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec import Raw, Struct

from exeunt.clock import readable_instant
from exeunt.run import bobrapet

FIELD_MANAGER: Final = "exeunt-terminator"
"""In whose name the terminators write. What ends a run is written in that of a stop: this one, `/`, and something that
no other stop has.
"""

_OURS: Final = f'"{FIELD_MANAGER}'.encode()
_PHASE: Final = b'"f:phase"'
_CANCEL: Final = b'"f:cancelRequested"'
_CANCEL_OR_REDRIVE: Final = (_CANCEL, *(f'"f:{observed}"'.encode() for _, observed in bobrapet.REDRIVE))


class _Written(Struct, rename="camel"):
    manager: str = ""
    subresource: str | None = None
    time: str | None = None
    fields_v1: Raw = Raw(b"{}")


_WRITTEN: Final = msgspec.json.Decoder(list[_Written])


def ended_by(managed_fields: Raw) -> str | None:
    """The name in which a terminator has written the phase; None where somebody else has written it since, or ever. It
    may own other fields of a run all the same.
    """
    if _OURS not in bytes(managed_fields):
        return None
    for written in _WRITTEN.decode(managed_fields):
        ours = written.manager.partition("/")[0] == FIELD_MANAGER
        if ours and written.subresource == "status" and _PHASE in bytes(written.fields_v1):
            return written.manager
    return None


def cancel_written_by(managed_fields: Raw, otherwise: datetime) -> datetime:
    """By when the cancel was written; in an attempt that a redrive began, not before that redrive was carried out.

    A redriven run is still canceled by the old write (contract §4.5), and bobrapet needs its time for the new
    cancel_observed_at. Kubernetes cuts these times to whole seconds, so a second is added: nothing that waits for it
    may be early. That is also why a time that cannot be read counts as `otherwise`.
    """
    if _CANCEL not in bytes(managed_fields):
        return otherwise
    times = (
        readable_instant(written.time)
        for written in _WRITTEN.decode(managed_fields)
        if written.time and any(field in bytes(written.fields_v1) for field in _CANCEL_OR_REDRIVE)
    )
    return max((time + timedelta(seconds=1) if time else otherwise for time in times), default=otherwise)


def tells_something(managed_fields: Raw) -> bool:
    """Whether any of that is told."""
    written = bytes(managed_fields)
    return _CANCEL in written or _OURS in written
