"""Where each kind lives on the kube-apiserver, and how its bytes become a model.

The constants at the end are all that Exeunt reads or writes (contract §1). The models are in `models`;
`client` sends requests for a resource and `list_watch` follows one.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from exeunt.kube.errors import Undecodable
from exeunt.run.models import KubeObject, StepRun, Story, StoryRun, TransportBinding

T = TypeVar("T", bound=KubeObject)


@dataclass(frozen=True)
class Resource(Generic[T]):
    """One namespaced kind: `plural` is its name in URLs and in RBAC rules."""

    group: str
    version: str
    plural: str
    model: type[T]

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}"

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of an object, of its subresource, or of a collection (of all namespaces when None)."""
        parts = ["/apis", self.group, self.version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)

    def decode(self, body: bytes | msgspec.Raw) -> T:
        """One object from its JSON; raises Undecodable when that is not an object of this kind.

        Kubernetes reads a null as an absent field. The decoder does not, so an object that it refuses gets a
        second chance without its nulls: rare, hence not worth a slower first attempt.
        """
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            problem = error
        try:
            return self._decoder.decode(msgspec.json.encode(_without_nulls(msgspec.json.decode(body))))
        except msgspec.DecodeError:
            raise _undecodable(body, f"no {self}: {problem}") from problem

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[T]:
        return msgspec.json.Decoder(self.model)


class _Identity(msgspec.Struct, rename="camel"):
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""


class _Identified(msgspec.Struct):
    metadata: _Identity


def _undecodable(body: bytes | msgspec.Raw, problem: str) -> Undecodable:
    try:
        identity = msgspec.json.decode(body, type=_Identified).metadata
    except msgspec.DecodeError:
        identity = _Identity()
    return Undecodable(problem, **msgspec.structs.asdict(identity))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


STORY_RUNS = Resource("runs.bubustack.io", "v1alpha1", "storyruns", StoryRun)
STEP_RUNS = Resource("runs.bubustack.io", "v1alpha1", "stepruns", StepRun)
TRANSPORT_BINDINGS = Resource("transport.bubustack.io", "v1alpha1", "transportbindings", TransportBinding)
STORIES = Resource("bubustack.io", "v1alpha1", "stories", Story)
EVENTS = Resource("events.k8s.io", "v1", "events", KubeObject)
