"""Words, names and label values the way bobrapet 0.1.12 writes them (contract §2.3, 2.4, 3.1, 4.5).

Written down a second time, apart from `exeunt.run.bobrapet`: a slip in one of the two then fails a test instead of
agreeing with itself.
"""

import re
from hashlib import sha256

CANCEL_OBSERVED_AT = "storyrun.bubustack.io/graceful-cancel-observed-at"
TRIGGER_TOKEN = "storyrun.bubustack.io/trigger-token"
REDRIVE_TOKEN = "storyrun.bubustack.io/redrive-token"
REDRIVE_OBSERVED = "storyrun.bubustack.io/redrive-observed"
STEP_TIMERS = "runs.bubustack.io/step-timers"
STEP_CANCEL_REQUESTED = "bubustack.io/cancel-requested"
RUN_LABEL = "bubustack.io/storyrun"
RUN_FINALIZER = "storyrun.bubustack.io/finalizer"
STEP_RUN_FINALIZER = "steprun.bubustack.io/finalizer"
TERMINAL = frozenset({"Succeeded", "Failed", "Finished", "Canceled", "Compensated", "Timeout", "Aborted", "Skipped"})

_LONGEST = 63
_DIGITS = 10


def compose_name(*parts: str) -> str:
    """The name of an object that belongs to a run: the parts joined, hashed at the end when that is too long."""
    return _shortened("-".join(parts))


def label_value(name: str) -> str:
    """The value of the label that selects a run's StepRuns: two names can share one, as `a--b` and `a-b` do."""
    return _shortened(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"))


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST - _DIGITS - 1]}-{sha256(text.encode()).hexdigest()[:_DIGITS]}"
