"""What a request to the kube-apiserver leaves behind: a span within its hop, and a measured duration."""

from collections.abc import Awaitable
from time import perf_counter

from exeunt.kube.connection import Call
from exeunt.kube.errors import ApiError, ApiUnavailable, Conflict, NotFound, Unprocessable
from exeunt.telemetry.metrics import KUBE_REQUEST_DURATION
from exeunt.telemetry.semconv import HTTP_STATUS_CODE
from exeunt.telemetry.tracing import calling


async def observed(call: Call, server: str, attempt: Awaitable[bytes]) -> bytes:
    """Await one attempt, which sends the call and reads the answer."""
    began = perf_counter()
    code = "none"
    with calling(call.method, call.template, server) as hop:
        try:
            answer = await attempt
            code = "200"
            hop.attribute(HTTP_STATUS_CODE, 200)
        except ApiError as error:
            code = str(error.status)
            hop.attribute(HTTP_STATUS_CODE, error.status)
            if not _is_an_answer(error):
                hop.failed(error)
            raise
        except ApiUnavailable as error:
            hop.failed(error)
            raise
        else:
            return answer
        finally:
            KUBE_REQUEST_DURATION.record(
                perf_counter() - began, code=code, resource=call.resource.plural, verb=call.verb
            )


def _is_an_answer(error: ApiError) -> bool:
    """A condition that did not hold, or an object that is gone: what conditional writes are there for."""
    return isinstance(error, (NotFound, Conflict)) or (isinstance(error, Unprocessable) and error.failed_test)
