"""Where the kube-apiserver is and how to prove who we are, as kubernetes_asyncio reads it.

Two sources: the service account of the pod, or a kubeconfig (client certificates, tokens, token files, OIDC,
exec plugins). Credentials age: `refresh` is cheap and meant for every minute, `reload` starts over after a
refusal; `client` decides when. Reading is blocking file access of a few kilobytes; an exec plugin is a child
process.
"""

import asyncio
import os
import ssl
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from exeunt.kube.errors import ConfigurationError

_DEADLINE: Final = 30.0  # seconds for an exec plugin or an OIDC issuer to answer
_KEEPALIVE: Final = 75.0  # seconds; the kube-apiserver closes idle connections after 90
_LONGEST_LINE: Final = 2**21  # bytes; an event of a watch is one line, etcd takes objects of up to 1.5 MiB
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class Credentials:
    """One source of configuration, and what was read from it last.

    `kubeconfig` is a path, or several joined as in $KUBECONFIG; without one, the service account in the
    folder `service_account` is used. Nothing is read before `reload`. A session is good for as long as
    `fingerprint` stays the same.
    """

    def __init__(self, kubeconfig: str | None, *, service_account: Path = _SERVICE_ACCOUNT) -> None:
        self.source = kubeconfig or f"the service account in {service_account}"
        self.configuration = Configuration()
        self.fingerprint: tuple[object, ...] = ()
        self._kubeconfig = kubeconfig
        self._service_account = service_account
        self._loader: KubeConfigLoader | InClusterConfigLoader | None = None

    @classmethod
    def find(cls, kubeconfig: str | None) -> "Credentials":
        """An explicit kubeconfig, else $KUBECONFIG, else the pod's service account, else ~/.kube/config.

        Raises ConfigurationError when there is none of these.
        """
        kubeconfig = kubeconfig or os.environ.get("KUBECONFIG")
        if not kubeconfig and os.environ.get("KUBERNETES_SERVICE_HOST"):
            return cls(None)
        kubeconfig = kubeconfig or str(Path("~/.kube/config").expanduser())
        if not any(Path(path).expanduser().is_file() for path in kubeconfig.split(os.pathsep) if path):
            raise ConfigurationError(
                f"no way to the kube-apiserver: there is no kubeconfig at {kubeconfig}, and "
                "KUBERNETES_SERVICE_HOST is not set as it is in a pod; set KUBECONFIG"
            )
        return cls(kubeconfig)

    async def reload(self) -> None:
        """Read everything anew and run an exec plugin again.

        Raises ConfigurationError and keeps what was read before.
        """
        self._loader = None
        await self.refresh()

    async def refresh(self) -> None:
        """Read token files again and renew what is about to expire; errors as for `reload`."""
        configuration = Configuration()
        try:
            async with asyncio.timeout(_DEADLINE):
                if self._loader is None:
                    self._loader = self._open()
                if isinstance(self._loader, KubeConfigLoader):
                    await self._loader.load_and_set(configuration)
                else:
                    self._loader.load_and_set(configuration)
            self.fingerprint = _fingerprint(configuration)
        except Exception as error:  # the loaders let out whatever YAML, files, plugins and issuers raise
            raise ConfigurationError(f"cannot use {self.source}: {error!r}") from error
        self.configuration = configuration

    def open_session(self) -> aiohttp.ClientSession:
        """A session with our CA and client certificate; raises ConfigurationError when they are no good.

        Not that of kubernetes_asyncio: it looks up proxies and .netrc in a thread for every single request.
        """
        configuration = self.configuration
        try:
            tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
            if configuration.cert_file:
                tls.load_cert_chain(configuration.cert_file, configuration.key_file)
        except OSError as error:  # ssl.SSLError is one, too
            raise ConfigurationError(f"cannot use the certificates of {self.source}: {error!r}") from error
        if not configuration.verify_ssl:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        # Python 3.13 wants extensions that the CAs of many clusters lack; Kubernetes' own clients do not.
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return aiohttp.ClientSession(
            # Each watch holds a connection, so a limit (aiohttp's is 100) would starve the requests of whoever watches
            # many namespaces. Watches, lists and messages in flight are bounded where they are made.
            connector=aiohttp.TCPConnector(ssl=tls, keepalive_timeout=_KEEPALIVE, limit=0),
            read_bufsize=_LONGEST_LINE,
        )

    @property
    def proxy(self) -> str | None:
        """The proxy of the kubeconfig, else that of the environment ($HTTPS_PROXY, $NO_PROXY)."""
        server = urlsplit(str(self.configuration.host))
        configured: str | None = self.configuration.proxy
        if configured or proxy_bypass(server.hostname or ""):
            return configured
        return getproxies().get(server.scheme)

    def _open(self) -> KubeConfigLoader | InClusterConfigLoader:
        if self._kubeconfig is None:
            return InClusterConfigLoader(
                token_filename=str(self._service_account / "token"),
                cert_filename=str(self._service_account / "ca.crt"),
                try_refresh_token=False,  # that is what `refresh` does
            )
        files = KubeConfigMerger(self._kubeconfig)
        return KubeConfigLoader(files.config, config_base_path=None, config_persister=files.save_changes)

    @property
    def authorization(self) -> str | None:
        """The Authorization header; None when a client certificate says it all."""
        value: str | None = self.configuration.api_key.get("BearerToken")
        return value.strip() if value else None  # files tend to end in a newline


def _fingerprint(configuration: Configuration) -> tuple[object, ...]:
    """What a session is built from."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    return (
        configuration.host,
        configuration.tls_server_name,
        configuration.verify_ssl,
        configuration.proxy,
        *(sha256(Path(path).read_bytes()).digest() if path else None for path in files),
    )
