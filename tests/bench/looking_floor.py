"""The floor, looking: the least that a stop can cost that lists its evidence again before it writes.

`python -m bench.looking_floor NAMESPACE` in tests/, with $KUBECONFIG. Exeunt has to look (ADR 23): what this costs
beyond the floor it cannot save; what it costs beyond this is NATS, the history, and three processes instead of one.
"""

import asyncio
import sys
from typing import Final
from urllib.parse import urlencode

from bench.api import Api
from bench.floor import Floor
from exeunt.kube.resources import TRANSPORT_BINDINGS
from exeunt.run.snapshot import RunState

_NOT_OLDER: Final = {"resourceVersionMatch": "NotOlderThan", "limit": "500"}


class LookingFloor(Floor):
    """Lists the bindings of a run, no older than the run as it is known, as the terminator does, before it ends it."""

    async def look(self, run: RunState) -> None:
        of_run = {"fieldSelector": f"spec.storyRunRef.name={run.name}", "resourceVersion": run.resource_version}
        await self.api.send("GET", f"{TRANSPORT_BINDINGS.path(run.namespace)}?{urlencode(of_run | _NOT_OLDER)}")


async def main(namespace: str) -> None:
    async with Api.connected() as api:
        await LookingFloor(api, namespace).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
