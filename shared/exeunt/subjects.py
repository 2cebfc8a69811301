"""Streams and subjects: where everything is said. Pure.

RUNS holds each run's history. A subject names the run, the episode and the fact, so "the last sequence on this subject
must be 0" makes an event exactly-once (ADR 3), and one run's history is found without a scan.

    exeunt.runs.<namespace>.<name>.<uid>.<episode>.<fact>            facts (watcher, timeout-scheduler)
    exeunt.runs.<namespace>.<name>.<uid>.<episode>.outcome.<fact>    what the terminator decided from that fact
    exeunt.deadlines.armed.<namespace>.<name>.<uid>.<episode>        a pending message schedule
    exeunt.deadlines.due.<namespace>.<name>.<uid>.<episode>          a schedule that has come due
    exeunt.signals.<namespace>.<name>                                "its topology is gone", said by others (`signals`)
    exeunt.deadletters.<consumer>                                    messages set aside, with their reason

Object names may hold dots, which separate subject tokens; they are written as "_", which no object name may hold.
"""

from typing import Final

from exeunt.episodes import Episode
from exeunt.events import Fact

RUNS: Final = "RUNS"
DEADLINES: Final = "DEADLINES"
SIGNALS: Final = "SIGNALS"
DEADLETTERS: Final = "DEADLETTERS"


def _tokens(episode: Episode) -> str:
    return f"{episode.namespace}.{episode.name.replace('.', '_')}.{episode.uid}.{episode.token}"


def fact_subject(episode: Episode, fact: Fact) -> str:
    return f"exeunt.runs.{_tokens(episode)}.{fact}"


def outcome_subject(episode: Episode, cause: Fact) -> str:
    return f"exeunt.runs.{_tokens(episode)}.outcome.{cause}"


def every(fact: Fact) -> str:
    """The consumer filter for one fact of every run."""
    return f"exeunt.runs.*.*.*.*.{fact}"


def armed_subject(episode: Episode) -> str:
    return f"exeunt.deadlines.armed.{_tokens(episode)}"


def due_subject(episode: Episode) -> str:
    return f"exeunt.deadlines.due.{_tokens(episode)}"


def signal_subject(namespace: str, name: str) -> str:
    return f"exeunt.signals.{namespace}.{name.replace('.', '_')}"


EVERY_DUE: Final = "exeunt.deadlines.due.>"
EVERY_SIGNAL: Final = "exeunt.signals.>"
