"""TCP keepalive: a peer that is gone without a word is found in about 20 s, whether we wait or have sent something.

Without it, a connection that waits never ends, and one that has sent something is given up by Linux after 15 minutes.
"""

import socket
from typing import Any, Final

_IDLE: Final = 10  # seconds without a word before the peer's kernel is asked
_INTERVAL: Final = 5  # seconds between two questions
_UNANSWERED: Final = 2
_GIVEN_UP_AFTER: Final = _IDLE + _INTERVAL * _UNANSWERED  # seconds, also for what was sent and not acknowledged

_OPTIONS: Final = {
    "TCP_KEEPIDLE": _IDLE,
    "TCP_KEEPALIVE": _IDLE,  # its name on macOS
    "TCP_KEEPINTVL": _INTERVAL,
    "TCP_KEEPCNT": _UNANSWERED,
    "TCP_USER_TIMEOUT": _GIVEN_UP_AFTER * 1000,  # of Linux
}


def keep_alive(connection: Any) -> None:
    """Have the kernel look after a TCP socket; as well as it can, where it knows only some of the options."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS.items():
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def kept_alive(address: tuple[Any, ...]) -> socket.socket:
    """A socket for an address as getaddrinfo gives it, to be connected: aiohttp's `socket_factory`."""
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    keep_alive(made)
    return made
