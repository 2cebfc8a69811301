"""What NATS said, or that it said nothing. The tree, by what the caller should do then:

BusError
├── BusUnavailable       no answer, or "not now": the same call may work later
│   └── NoResponders     nobody serves the subject: stream or consumer is missing, or JetStream is starting
├── BusClosed            the connection is gone for good: end the process, the next one connects anew
├── PermissionDenied     the server's permissions forbid it: the operator must grant the subject
├── ApiRefused           JetStream understood the call and declined it
├── PublishRefused       the stream will never store this message
└── StreamMisconfigured  a stream or consumer exists with settings that would lose data
"""

from exeunt.errors import ExeuntError


class BusError(ExeuntError):
    """Base of every error that this package raises on purpose."""


class BusUnavailable(BusError):
    """NATS did not answer in time or asked to come back later; nothing is known about what it stored."""


class NoResponders(BusUnavailable):
    """Nobody listens on the subject: stream or consumer does not exist, or JetStream is still starting."""


class BusClosed(BusError):
    """The client has given the connection up, after a fatal protocol error or because we closed it."""


class PermissionDenied(BusError):
    """The server reported a permissions violation; the message names the subject to grant."""


class ApiRefused(BusError):
    """A JetStream API call was declined. `err_code` is JetStream's own, as 10059: stream not found."""

    def __init__(self, call: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"JetStream refused {call}: {description} ({code}/{err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class PublishRefused(BusError):
    """The message will not be stored however often it is sent; the message of the error says why."""


class StreamMisconfigured(BusError):
    """A stream or consumer is set so that it would lose data; the message says what to run to mend it."""
