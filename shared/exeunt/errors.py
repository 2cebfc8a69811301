"""The error tree, by whose fault it is and what happens then.

    ExeuntError
    ├── UsageError          the operator's settings or command line: the start stops with the message
    ├── PoisonEvent         a message that no retry will mend: set aside with its reason (dead letter)
    ├── kube.errors.*       what the kube-apiserver said (ApiError), or that it said nothing (ApiUnavailable)
    └── bus.errors.*        what NATS said, or that it said nothing (BusUnavailable)

Anything else that is raised is a bug: it ends the process, loudly.
"""


class ExeuntError(Exception):
    """Base of every error that Exeunt raises on purpose."""


class UsageError(ExeuntError):
    """A setting or an argument is wrong; the message says which, what was found and what is allowed."""


class PoisonEvent(ExeuntError):
    """A message that cannot be understood; the message says what is wrong with it."""


def said_by(error: Exception) -> str:
    """What an error says; of one of the system's without its number and the file, which whoever quotes it names."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
