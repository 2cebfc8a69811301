"""Plays the connector beside an engram: it keeps the Ready condition of its TransportBinding fresh (contract §3.2)."""

from actors.kubernetes import BINDING, Kubernetes
from actors.statuses import now


async def beat(kubernetes: Kubernetes, namespace: str, binding: str, *, at: str | None = None) -> None:
    """One heartbeat: Ready is written with the current lastTransitionTime, or that of `at` (RFC 3339)."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "TransportReady",
        "message": "connector is streaming",
        "lastTransitionTime": at or now(),
    }
    await kubernetes.acting_as("bobravoz-connector").patch_status(BINDING, namespace, binding, {"conditions": [ready]})
