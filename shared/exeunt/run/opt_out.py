"""Whether a run, or its Story, is left to bobrapet: the annotation `exeunt.bubustack.io/enabled`. Pure.

"false" opts out; so does what people write instead because YAML 1.1 or Go reads it as false: 0, no, off, f, n, in any
case and with spaces around. What says neither yes nor no counts as absent, and is reported once for each stop.
"""

from collections.abc import Mapping
from typing import Final

from exeunt.run import bobrapet

_NO: Final = frozenset({"false", "f", "no", "n", "off", "0"})
_YES: Final = frozenset({"true", "t", "yes", "y", "on", "1"})


def is_enabled(annotations: Mapping[str, str]) -> bool:
    """Whether Exeunt may end the run, as far as these annotations say."""
    return _published(annotations) not in _NO


def unclear(annotations: Mapping[str, str]) -> str | None:
    """The annotation's value where it says neither yes nor no, at most 64 characters of it; None where all is well."""
    published = _published(annotations)
    return None if published is None or published in _NO | _YES else annotations[bobrapet.ENABLED][:64]


def _published(annotations: Mapping[str, str]) -> str | None:
    value = annotations.get(bobrapet.ENABLED)
    return None if value is None else value.strip().lower()
