"""What a command may end with, beside the errors of the parts that it stands on."""

from exeunt.errors import ExeuntError


class NotFound(ExeuntError):
    """What was asked for is not there; the message says where was looked, and where else to look."""
