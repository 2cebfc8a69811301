"""What can go wrong between Exeunt and the kube-apiserver.

    ExeuntError
    ├── UsageError
    │   └── ConfigurationError  no usable in-cluster or kubeconfig configuration
    ├── ApiUnavailable          no answer, or none but 429 and 5xx, for as long as the request may be retried
    │   └── Silent              a watch that was accepted and brings nothing
    ├── ApiError                an answer that no retry will change
    │   ├── Unauthorized        401, with freshly loaded credentials too
    │   ├── Forbidden           403: the message names the missing permission
    │   ├── NotFound            404
    │   ├── Conflict            409: a delete found another uid of that name, a create a taken name, a patch a rival
    │   ├── Gone                410: a resourceVersion or continue token that expired
    │   ├── Unprocessable       422: a failed `test` of a JSON Patch, or a refusal by schema or CEL rule
    │   └── ResourceVersionTooLarge  504: a list that may not be so old as what this server knows
    ├── Undecodable             an object that does not have its kind's shape
    └── Rewound                 the cluster is as it was before: etcd was restored from a backup

`client` raises these but for the last, which is `list_watch`'s; that survives all others but ConfigurationError.
"""

import msgspec

from exeunt.errors import ExeuntError, UsageError


class ConfigurationError(UsageError):
    """No usable configuration to reach the kube-apiserver; the message says what to set."""


class ApiUnavailable(ExeuntError):
    """The kube-apiserver does not answer or does not serve; what was asked for may still have happened.

    `retry_after` is how long (s) it has asked to be left alone, if it has; a little more, so that not all come at once.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Silent(ApiUnavailable):
    """A watch on which nothing arrives, not even the bookmark of each minute: it shows nothing, whatever happens."""


class Rewound(ExeuntError):
    """A list is older than what was seen before it, so what was seen never happened."""


class Undecodable(ExeuntError):
    """An object has not the shape of its kind; its identity is reported as far as it is readable, else empty."""

    def __init__(self, problem: str, *, namespace: str, name: str, uid: str, resource_version: str) -> None:
        super().__init__(f"{namespace}/{name}: {problem}")
        self.namespace = namespace
        self.name = name
        self.uid = uid
        self.resource_version = resource_version


class ApiError(ExeuntError):
    """An answer other than success.

    `status` is the HTTP code, `reason` Kubernetes' word for it ("Invalid"), `causes` are "field: message" for
    each of `details.causes`, `retry_after` is in seconds, None when the server did not say. `perhaps_done`: an earlier
    try of the same request got no answer, or a 5xx, so that what was asked for may have happened before this one.
    """

    perhaps_done = False

    def __init__(
        self,
        message: str,
        *,
        status: int,
        reason: str,
        causes: list[str],
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = causes
        self.retry_after = retry_after


class Unauthorized(ApiError):
    """401: who we are was not accepted."""


class Forbidden(ApiError):
    """403: we may not do this; the message says which RBAC rule would allow it."""


class NotFound(ApiError):
    """404: no such object, or no such kind on this server."""


class Conflict(ApiError):
    """409: the object is not in the state that the request demanded."""


class Gone(ApiError):
    """410: the history since this resourceVersion, or the rest of this list, is compacted away."""


class Unprocessable(ApiError):
    """422: the change was understood and refused."""

    @property
    def failed_test(self) -> bool:
        """Whether a `test` operation failed, rather than schema or CEL validation (contract §10)."""
        return not self.causes


class ResourceVersionTooLarge(ApiError):
    """504: this server has not seen that resourceVersion in the 3 s of its waiting: it lags, or etcd was restored."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Unprocessable,
}


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""
    field: str = ""


class _Details(msgspec.Struct, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: int | None = None


class _Status(msgspec.Struct):
    """Kubernetes' own form of an error, as a response body and as the object of an ERROR event."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_STATUS = msgspec.json.Decoder(_Status)


def api_error(
    body: bytes | msgspec.Raw, *, action: str, status: int = 0, retry_after: str | None = None, hint: str = ""
) -> ApiError:
    """The error for an answer to `action`; its class goes by `status`, or by the body's own code without one.

    `retry_after` is the header; only its form in seconds is known to Kubernetes. A `hint` tells what to do.
    """
    try:
        answer = _STATUS.decode(body)
    except msgspec.DecodeError:  # a proxy's page, not the kube-apiserver's
        answer = _Status(message=bytes(body[:200]).decode(errors="replace"))
    status = status or answer.code
    details = answer.details or _Details()
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else details.retry_after_seconds
    kind = _BY_STATUS.get(status, ApiError)
    if any(cause.reason == ResourceVersionTooLarge.__name__ for cause in details.causes or []):
        kind = ResourceVersionTooLarge
    return kind(
        f"{action}: {status} {answer.reason}: {answer.message}".rstrip(": ") + hint,
        status=status,
        reason=answer.reason,
        causes=[f"{cause.field}: {cause.message}" for cause in details.causes or []],
        retry_after=seconds,
    )
