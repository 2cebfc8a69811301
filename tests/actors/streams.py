"""What is in a stream, as its server tells it."""

from exeunt.bus.connection import Bus


async def subjects(bus: Bus, stream: str, subject_filter: str = ">") -> dict[str, int]:
    """The subjects that match, and how many messages each holds; as many as fit into one answer (100,000)."""
    info = await bus.api(f"STREAM.INFO.{stream}", {"subjects_filter": subject_filter})
    found: dict[str, int] = info["state"].get("subjects") or {}
    return found
