"""What people, impulses and the hub do: calls that begin, are canceled, opted out, redriven, deleted and made anew;
Stories that are edited and deleted; topologies that go and come back; signals that are taken back.
"""

from typing import Final

import msgspec
from msgspec.structs import replace

from core.objects import NAMESPACE, story
from exeunt.clock import format_instant, format_status_time
from exeunt.events import cloudevents
from exeunt.events.event_types import EventType
from exeunt.events.messages import Message
from exeunt.events.signals import TOPOLOGY_GONE, TOPOLOGY_UP, SignalBody
from exeunt.events.subjects import signal_subject
from exeunt.run import bobrapet
from exeunt.run.models import Story, StoryPolicy, StoryTimeouts
from simulation.apiserver import BINDING, STORY, ApiServer, is_terminal
from simulation.clockwork import Clockwork, instant
from simulation.jetstream import JetStream
from simulation.livekit import LiveKit
from simulation.operator import ASKED, Operator, new_run

STORIES: Final[dict[str, tuple[str, str | None, bool]]] = {
    "talk": ("realtime", None, True),
    "quick": ("realtime", "5s", True),
    "patient": ("realtime", "2m0s", True),
    "left": ("realtime", None, False),
    "batch": ("batch", "5s", True),
}
"""By name: pattern, timeout, and whether it is Exeunt's business, until somebody says otherwise."""
TIMEOUTS: Final = ("3s", "10s", "40s", "nonsense")
_MOST_ATTEMPTS: Final = 3


class People:
    def __init__(self, clock: Clockwork, api: ApiServer, nats: JetStream, operator: Operator, livekit: LiveKit) -> None:
        self.clock = clock
        self.api = api
        self.nats = nats
        self.operator = operator
        self.livekit = livekit
        self._made = 0
        operator.batch = {name for name, (pattern, *_) in STORIES.items() if pattern == "batch"}
        for name in STORIES:
            self.make_story(name)

    def make_story(self, name: str) -> None:
        pattern, timeout, enabled = STORIES[name]
        annotations = {} if enabled else {bobrapet.ENABLED: "false"}
        self.api.put(STORY, story(name, pattern=pattern, timeout=timeout, annotations=annotations))

    # What may be done to the run `name`. What is not possible now does nothing.

    def create(self, name: str, story: str, *, recreated: bool = False, parent: str | None = None) -> None:
        if name in self.api.documents:
            return
        self._made += 1
        token = self.livekit.open(name) if STORIES[story][0] == "realtime" else None
        annotations = {"kept": "yes"} | ({bobrapet.TRIGGER_TOKEN: token} if token else {})
        document = new_run(name, f"uid-{name}-{self._made}", story, annotations)
        if recreated:
            document["metadata"]["recreated"] = True
        if parent is not None:
            owner = {"kind": "StoryRun", "name": parent, "uid": self.api.documents[parent]["metadata"]["uid"]}
            document["metadata"]["ownerReferences"] = [owner]
        self.api.write_run(document)

    def cancel(self, name: str) -> None:
        document = self.api.documents.get(name)
        if document is not None and not document["spec"].get("cancelRequested"):
            self.api.cancel_run(name)

    def create_child(self, name: str, number: int) -> None:
        """A step of it starts another Story."""
        if name in self.api.documents and not is_terminal(self.api.documents[name]):
            self.create(f"{name}-child", ("quick", "batch")[number % 2], parent=name)

    def opt(self, name: str, said: str | None) -> None:
        if name in self.api.documents:
            self.api.annotate(name, **{bobrapet.ENABLED: said})

    def delete(self, name: str) -> None:
        document = self.api.documents.get(name)
        if document is not None:
            self.api.change_run(name, "metadata", deletionTimestamp=format_status_time(self.clock.at))

    def make_anew(self, name: str, number: int) -> None:
        """Somebody deletes it, and creates another of its name."""
        document = self.api.documents.get(name)
        if document is not None and not document["metadata"].get("deletionTimestamp"):
            story, recreated = document["spec"]["storyRef"]["name"], number % 2 == 0
            self.delete(name)
            self.clock.after(self.clock.little(1, 6), lambda: self.create(name, story, recreated=recreated))

    def redrive(self, name: str, *, uncancel: bool) -> None:
        document = self.api.documents.get(name)
        if document is None or not is_terminal(document) or document["metadata"].get("attempt", 1) >= _MOST_ATTEMPTS:
            return
        if uncancel:
            self.api.change_run(name, "spec", cancelRequested=None)
        self.api.annotate(name, **{ASKED: f"token-{self.clock.now}"})

    def end_and_redrive(self, name: str) -> None:
        """bobrapet's drain is over, and somebody has the run done again, which is canceled still."""
        document = self.api.documents.get(name)
        if document is not None and document["spec"].get("cancelRequested") and not is_terminal(document):
            self.operator.end(name)
            self.redrive(name, uncancel=False)

    # Its topology.

    def delete_bindings(self, name: str, number: int) -> None:
        """Somebody deletes them; the StepRun controller makes them again."""
        for each in self.api.bindings(name)[number % 3 :]:
            self.api.remove(BINDING, each.metadata.name)
            self.operator.connect_later(each.metadata.name.removesuffix("-transport"), 0.2, 6)

    def stop_engrams(self, name: str) -> None:
        """For good."""
        for each in self.api.step_runs(name):
            self.operator.stopped_by_itself.add(each.metadata.uid)
        for binding in self.api.bindings(name):
            self.api.remove(BINDING, binding.metadata.name)

    def complete(self, name: str, number: int) -> None:
        for each in self.api.step_runs(name)[number % 2 :]:
            self.operator.complete(each.metadata.name)

    def late_step_run(self, name: str, number: int) -> None:
        """The hub makes one that nobody owns."""
        document = self.api.documents.get(name)
        realtime = document is not None and STORIES[document["spec"]["storyRef"]["name"]][0] == "realtime"
        if (
            document is not None
            and realtime
            and not is_terminal(document)
            and (document.get("status") or {}).get("phase")
        ):
            self.operator.create_step_run(name, f"late-{number}", owned=number % 2 == 0, connects=number % 3 == 0)

    def hub_says_gone(self, name: str) -> None:
        if name in self.api.documents:
            self.operator.hub_says_gone(name)

    def stale_conditions(self, name: str, number: int) -> None:
        if name in self.api.documents:
            self.operator.write_stale_conditions(name, number)

    def signal(self, name: str, *, gone: bool, of_uid: bool) -> None:
        """By its name, with its uid or without."""
        document = self.api.documents.get(name)
        if document is None:
            return
        body = SignalBody(namespace=NAMESPACE, name=name, uid=document["metadata"]["uid"] if of_uid else None)
        attributes = cloudevents.Attributes(
            id=f"{name}/{self.clock.now}",
            source="/somebody",
            type=TOPOLOGY_GONE if gone else TOPOLOGY_UP,
            time=format_instant(instant(self.clock.now)),
        )
        message = Message(
            subject=signal_subject(NAMESPACE, name),
            payload=msgspec.json.encode(body),
            headers=cloudevents.to_headers(attributes),
        )
        if not self.nats.away:
            self.nats.store(message, "somebody")

    def poison(self, name: str, number: int) -> None:
        """Somebody publishes what is no event and no signal."""
        subject = (
            signal_subject(NAMESPACE, name),
            f"exeunt.runs.{NAMESPACE}.{name}.uid.first.{EventType.CANCEL_REQUESTED}",
        )
        headers = ({}, {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/x", "ce-type": "nonsense"})[
            number // 2 % 2
        ]
        if not self.nats.away:
            self.nats.store(Message(subject=subject[number % 2], payload=b"{", headers=headers), "somebody")

    def flap(self, name: str) -> None:
        """It is up again, and gone for good some time later."""
        self.signal(name, gone=False, of_uid=False)
        self.clock.after(self.clock.little(5, 20), lambda: self.signal(name, gone=True, of_uid=False))

    def come_back(self, name: str) -> None:
        """Everybody connects again; that they are gone for good is only said."""
        for each in self.api.step_runs(name):
            self.operator.stopped_by_itself.discard(each.metadata.uid)
            self.operator.connect(each.metadata.name)
        self.clock.after(self.clock.little(5, 20), lambda: self.signal(name, gone=True, of_uid=False))

    # Its Story.

    def edit_story(self, name: str, number: int) -> None:
        found = self.api.objects[STORY].get(self._story(name))
        if isinstance(found, Story):
            timeouts = StoryTimeouts(graceful_shutdown_timeout=TIMEOUTS[number % len(TIMEOUTS)])
            self.api.put(STORY, replace(found, spec=replace(found.spec, policy=StoryPolicy(timeouts=timeouts))))

    def opt_story(self, name: str, said: str | None) -> None:
        found = self.api.objects[STORY].get(self._story(name))
        if found is not None:
            annotations = {} if said is None else {bobrapet.ENABLED: said}
            self.api.put(STORY, replace(found, metadata=replace(found.metadata, annotations=annotations)))

    def delete_story(self, name: str) -> None:
        if (story := self._story(name)) in self.api.objects[STORY]:
            self.api.remove(STORY, story)

    def restore_story(self, name: str) -> None:
        if (story := self._story(name)) not in self.api.objects[STORY]:
            self.make_story(story)

    def settle(self, name: str) -> None:
        """What somebody has begun is brought to its end: nothing stays without a Story."""
        self.restore_story(name)

    def _story(self, name: str) -> str:
        found = self.api.run(name)
        return found.spec.story_ref.name if found else "talk"
