#!/usr/bin/env bash
# Guessed: `time` is optional in CloudEvents, so an event that comes without one is read as an event that has none.
# Seen (cloudevents 2.2.0): it gets the time at which it is read, another one at each delivery, and is sent on with that, so nobody
#   behind can tell it from a time of the source: an event that waited for a day in a queue is new. cloudevents.v1 does the same.
# Exits 1 when that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cloudevents==2.2.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version

from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.v1.http import from_http

headers = {"content-type": "application/cloudevents+json"}
body = b'{"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {}}'
print("cloudevents", version("cloudevents"))
print("received twice:", body.decode())
began = datetime.now(timezone.utc)
times = []
for _ in range(2):
    event = http.from_http(http.HTTPMessage(headers, body), JSONFormat())
    times.append(event.get_time())
    print("read as of", event.get_time(), "and sent on as", http.to_structured(event, JSONFormat()).body.decode())
    time.sleep(0.1)
by_v1 = from_http(headers, body).get_attributes().get("time")
print("by cloudevents.v1:", by_v1)
sys.exit(0 if all(times) and began <= times[0] < times[1] and by_v1 else 1)
PYTHON
