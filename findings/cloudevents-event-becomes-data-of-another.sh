#!/usr/bin/env bash
# Guessed: the Content-Type of an HTTP request says in which mode a CloudEvent comes ("application/cloudevents...": structured), as
#   the HTTP binding has it, which lets a sender of that mode add the ce- headers of the binary one, for proxies to read.
# Seen (cloudevents 2.2.0): one ce- header is enough for from_http() to take the request for binary mode. Of such an event it makes
#   another one, with the whole envelope as its data, and raises nothing. With only ce-id, it says that the others are missing.
# Exits 1 when that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cloudevents==2.2.0
"$folder/venv/bin/python" - <<'PYTHON'
import json
import sys
from importlib.metadata import version

from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.v1.http import from_http

attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "2026-01-01T00:00:00Z"}
body = json.dumps({**attributes, "data": {"room": "a"}}).encode()
plain = {"content-type": "application/cloudevents+json"}
doubled = {**plain, **{f"ce-{name}": value for name, value in attributes.items()}}


def read(headers):
    try:
        event = http.from_http(http.HTTPMessage(headers, body), JSONFormat())
        return event.get_datacontenttype(), event.get_data()
    except Exception as error:
        return type(error).__name__, str(error)


print("cloudevents", version("cloudevents"))
alone, both, one = read(plain), read(doubled), read({**plain, "ce-id": "1"})
by_v1 = from_http(doubled, body).data
print("without ce- headers: datacontenttype, data =", alone)
print("with them:           datacontenttype, data =", both)
print("with ce-id only:    ", one)
print("with them, read by cloudevents.v1: data =", by_v1)
wrapped = both == ("application/cloudevents+json", json.loads(body))
sys.exit(0 if alone == (None, {"room": "a"}) and wrapped and one[0] == "CloudEventValidationError" and by_v1 == {"room": "a"} else 1)
PYTHON
