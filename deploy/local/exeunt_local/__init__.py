"""Exeunt without a cluster: the real servers and the real services, as processes of this machine.

`binaries` finds the servers or has them built (`go_build`), `processes` owns what is started, `control_plane` is
Kubernetes, `nats_server` is NATS and `livekit_server` is LiveKit, in whose rooms `livekit_participant` is somebody;
`mesh` runs the services beside them, `prometheus` scrapes those, `up` puts it all together for trying by hand, with the
`page` that says how, and `topology_signal` for who has left.
`crds/` holds this project's own definitions of the kinds that it reads and writes, `base/` what it needs of
deploy/base: the namespace and the rights of the services.
"""

from pathlib import Path

CRDS = Path(__file__).parent / "crds"
BASE = Path(__file__).parent / "base"
