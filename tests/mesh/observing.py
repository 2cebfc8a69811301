"""The lines of `actors.collector.tree` that more than one test expects."""

from typing import Final

ROOT: Final = "watcher: send cancel-requested"

_RUNS: Final = "/apis/runs.bubustack.io/v1alpha1/namespaces/{namespace}"
_BINDINGS: Final = "/apis/transport.bubustack.io/v1alpha1/namespaces/{namespace}/transportbindings"

READ: Final = f"terminator: GET {_RUNS}/storyruns/{{name}}"
PATCH: Final = f"terminator: PATCH {_RUNS}/storyruns/{{name}}/status"
DELETE: Final = f"terminator: DELETE {_RUNS}/stepruns/{{name}}"
LIST_STEP_RUNS: Final = f"terminator: GET {_RUNS}/stepruns"
LIST_BINDINGS: Final = f"terminator: GET {_BINDINGS}"
