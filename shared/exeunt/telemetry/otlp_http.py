"""The HTTP session of the OTLP exporters: through the proxy that `exeunt.net.proxies` decides on, with an eye on
answers.

By itself requests sends to $HTTP_PROXY what is for a collector on loopback, takes a network in NO_PROXY for IPv4 alone,
and an `example.com` there for `notexample.com` too.
"""

from typing import Any

import requests
from requests.adapters import HTTPAdapter

from exeunt.net.proxies import Proxy
from exeunt.telemetry.collector_answers import look_at_answers


def session(proxy: Proxy | None) -> requests.Session:
    """For one exporter."""
    made = _Session(proxy)
    look_at_answers(made)
    return made


class _Session(requests.Session):
    """One whose proxy does not depend on the environment; the rest of it (REQUESTS_CA_BUNDLE, .netrc) does."""

    def __init__(self, proxy: Proxy | None) -> None:
        super().__init__()
        self._proxy = proxy
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(proxy))

    def merge_environment_settings(self, *args: Any) -> dict[str, Any]:
        settings: dict[str, Any] = super().merge_environment_settings(*args)
        return settings | {"proxies": dict.fromkeys(("http", "https"), self._proxy.url) if self._proxy else {}}


class _Adapter(HTTPAdapter):
    def __init__(self, proxy: Proxy | None) -> None:
        self._authorization = proxy.authorization if proxy else None
        super().__init__()

    def proxy_headers(self, proxy: str) -> dict[str, str]:  # noqa: ARG002 - there is only ours
        return {"Proxy-Authorization": self._authorization} if self._authorization else {}
