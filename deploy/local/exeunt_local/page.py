"""What `exeunt up` prints: a command for each part of a call, each to be pasted as it is.

No operator runs on this machine, so whoever tries plays the operator's few writes. Tests run every command of the page.
"""

import shlex
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent / "example.yaml"

_PAGE = """\
Exeunt is up. In another terminal:

  export PATH={bin}:$PATH
  export KUBECONFIG={kubeconfig}
  export EXEUNT_NATS_URL={nats_url}

Start a call. No operator runs here, so you write what it would write:

  kubectl apply -f {example}
  kubectl patch storyrun call --subresource=status --type=merge -p '{{"status": {{"phase": "Running",
      "startedAt": "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'"}}}}'

Let everybody leave, as a bridge publishes it, or as bobrapet's hub writes it. Or let nobody leave: then the call ends
when the shutdown timeout of its Story, 5 s, has run out:

  {python} -m exeunt_local.topology_signal default/call \\
      --uid=$(kubectl get storyrun call -o jsonpath='{{.metadata.uid}}')
  kubectl patch storyrun call --subresource=status --type=merge -p '{{"status": {{"conditions": [
      {{"type": "Ready", "status": "False", "reason": "Running", "message": "",
       "lastTransitionTime": "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'"}},
      {{"type": "Degraded", "status": "True", "reason": "TopologyTerminated", "message": "all streams have ended",
       "lastTransitionTime": "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'"}}]}}}}'

Cancel it, and acknowledge that in the same breath, which is the operator's to do:

  kubectl patch storyrun call --type=merge -p '{{"spec": {{"cancelRequested": true}}, "metadata": {{"annotations":
      {{"storyrun.bubustack.io/graceful-cancel-observed-at": "'$(date -u +%Y-%m-%dT%H:%M:%SZ)'"}}}}}}'

Look at how it ended, and why:

  kubectl wait storyrun call --for=jsonpath='{{.status.phase}}'=Finished --timeout=30s
  exeunt runs
  exeunt explain call
  exeunt timeline call

For another call, delete this one:

  kubectl delete -f {example} --ignore-not-found

"""

_LIVEKIT = """\
Or let a real call end. Alice joins a room of LiveKit, in a terminal of her own; the line `leave` hangs up:

  {python} -m exeunt_local.livekit_participant --url={url} --keys={keys} voice alice

Start a call as above, and say that it is the one of her room:

  kubectl annotate storyrun call storyrun.bubustack.io/trigger-token=$({python} \\
      -m exeunt_local.livekit_participant --url={url} --keys={keys} voice --sid)

Cancel it as above: it ends when she leaves, or at once when she has left.

"""

_PROMETHEUS = """\
Prometheus, to be queried over HTTP or as a data source of Grafana: {url}
It has Exeunt's alerting rules; an alert that fires is reported here.

"""

_END = """\
Logs: {logs}
A service that dies is reported here, and started again. Ctrl-C stops everything.
"""


def page(
    *, kubeconfig: Path, nats_url: str, logs: Path, livekit: tuple[str, Path] | None, prometheus: str | None
) -> str:
    """`livekit` is its URL and its key file, `prometheus` its URL, where they run."""
    found = Path(sys.executable)
    python = "python" if found.with_name("python").exists() else shlex.quote(str(found))
    text = _PAGE.format(
        bin=shlex.quote(str(found.parent)),
        kubeconfig=shlex.quote(str(kubeconfig)),
        nats_url=nats_url,
        example=shlex.quote(str(EXAMPLE)),
        python=python,
    )
    if livekit:
        url, keys = livekit
        text += _LIVEKIT.format(python=python, url=url, keys=shlex.quote(str(keys)))
    if prometheus:
        text += _PROMETHEUS.format(url=prometheus)
    return text + _END.format(logs=logs)
