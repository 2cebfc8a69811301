"""What is handed to the bus: a message as a value. Pure, so that deciding code can make one."""

from msgspec import Struct


class Message(Struct, frozen=True, kw_only=True):
    """One message to publish.

    `expected_last_subject_sequence` 0 means "only when nothing was ever said on this subject": exactly once
    (ADR 3). None publishes unconditionally.
    """

    subject: str
    payload: bytes
    headers: dict[str, str]
    expected_last_subject_sequence: int | None = None
