#!/usr/bin/env bash
# Guessed: WebSocket is an extra of nats-py (nats-py[aiohttp]), so a program that speaks NATS over TCP loads no HTTP client,
#   whatever else is installed beside it.
# Seen (nats-py 2.16.0, aiohttp 3.14.5): `import nats` imports aiohttp as soon as it is installed, for whatever reason, and
#   aiohttp reads all certificate authorities of the machine then: 6 to 12 MiB and more CPU than nats-py itself takes.
#   Hiding aiohttp while nats is imported (None in sys.modules) leaves a client over TCP whole.
# Exits 1 when that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nats-py==2.16.0 aiohttp==3.14.5
cat > "$folder/look.py" <<'PYTHON'
import resource
import sys
from importlib.metadata import version

if sys.argv[1] == "hidden":
    sys.modules["aiohttp"] = None
import nats

loaded = sorted(name for name, module in sys.modules.items() if module and name.partition(".")[0] == "aiohttp")
used = resource.getrusage(resource.RUSAGE_SELF)
print(
    f"nats-py {version('nats-py')}, aiohttp {sys.argv[1]}: {len(loaded)} modules of aiohttp loaded,"
    f" {used.ru_maxrss // 1024} MiB, {used.ru_utime + used.ru_stime:.2f} s of CPU"
)
assert callable(nats.connect)
sys.exit(bool(loaded) != (sys.argv[1] == "installed"))
PYTHON
"$folder/venv/bin/python" "$folder/look.py" installed  # the first time compiles
"$folder/venv/bin/python" "$folder/look.py" installed
"$folder/venv/bin/python" "$folder/look.py" hidden
