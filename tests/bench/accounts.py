"""What processes have used, from the operating system's accounts: a busy machine makes them late, not dearer."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Self

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_FORGET_PEAK: Final = "5"
"""Written to clear_refs; proc(5)."""
MIB: Final = 1024 * 1024


class Account(NamedTuple):
    """Seconds on a processor so far, in user and kernel mode, and resident memory in bytes."""

    cpu: float
    resident: int

    @classmethod
    def of(cls, pid: int) -> Self:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return cls((int(fields[11]) + int(fields[12])) / _TICKS, pages * _PAGE)


def cpu(pids: Iterable[int]) -> float:
    """Seconds on a processor of all of them together, so far."""
    return sum(Account.of(pid).cpu for pid in pids)


def forget_peak(pid: int) -> None:
    """`peak` begins anew."""
    Path(f"/proc/{pid}/clear_refs").write_text(_FORGET_PEAK)


def peak(pid: int) -> int:
    """The most resident memory, in bytes, since it began or since `forget_peak`."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])
