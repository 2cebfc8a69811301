"""The names that spans and metrics carry, pinned in one place.

The upper part is OpenTelemetry's (semantic conventions 1.44; those for messaging are still in development, so they are
written down here and not imported). `bobrapet.*` names the operator's objects, `exeunt.*` what only Exeunt knows.
"""

from typing import Final

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION_TEMPLATE: Final = "messaging.destination.template"
MESSAGING_CONVERSATION_ID: Final = "messaging.message.conversation_id"
"""The uid of the run."""
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
"""The CloudEvents id."""
MESSAGING_CONSUMER_GROUP: Final = "messaging.consumer.group.name"
"""The durable consumer."""

HTTP_METHOD: Final = "http.request.method"
HTTP_STATUS_CODE: Final = "http.response.status_code"
URL_TEMPLATE: Final = "url.template"
SERVER_ADDRESS: Final = "server.address"
ERROR_TYPE: Final = "error.type"

SERVICE_NAME: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
SERVICE_INSTANCE: Final = "service.instance.id"

LIVEKIT_ROOM: Final = "livekit.room.name"
LIVEKIT_SID: Final = "livekit.room.sid"
LIVEKIT_EVENT: Final = "livekit.webhook.event"

K8S_NAMESPACE: Final = "k8s.namespace.name"
STORY_RUN_NAME: Final = "bobrapet.storyrun.name"
STORY_RUN_PHASE: Final = "bobrapet.storyrun.phase"
STORY_NAME: Final = "bobrapet.story.name"

CANCELLATION: Final = "exeunt.episode"
DELIVERY: Final = "exeunt.delivery"
"""Which delivery of its message this is, from 1."""
EVIDENCE: Final = "exeunt.evidence"
DEADLINE: Final = "exeunt.deadline"
VERDICT: Final = "exeunt.verdict"
RULE: Final = "exeunt.rule"
WHY: Final = "exeunt.why"
RESULT: Final = "exeunt.result"
STOP_LATENCY: Final = "exeunt.stop.latency"
"""Seconds from the cause of the stop to its end."""
LATE: Final = "exeunt.late"
"""True on the span that knows that a stop or a deadline was late: what tail sampling in a collector goes by."""
