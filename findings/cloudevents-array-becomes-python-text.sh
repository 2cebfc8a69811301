#!/usr/bin/env bash
# Guessed: an event whose data is JSON keeps it when it is received in structured mode and sent on in binary mode, whatever JSON it is.
# Seen (cloudevents 2.2.0): only objects do. An array goes out as Python writes a list, [{'ok': True}], under `Content-Type:
#   application/json`; true goes out as True; the string "123" goes out without its quotes, so that the next reader has a number.
#   Nothing is raised. The SDK's old half, cloudevents.v1, sends all of them as JSON.
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
from cloudevents.v1.conversion import to_binary
from cloudevents.v1.http import from_http

STRUCTURED = {"content-type": "application/cloudevents+json"}


def is_json(text, data):
    try:
        return json.loads(text) == data
    except ValueError:
        return False


print("cloudevents", version("cloudevents"))
kept, kept_by_v1 = [], []
for data in ({"ok": True}, [{"ok": True}], True, "123"):
    attributes = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "datacontenttype": "application/json"}
    body = json.dumps({**attributes, "data": data}).encode()
    sent = http.to_binary(http.from_http(http.HTTPMessage(STRUCTURED, body), JSONFormat()), JSONFormat())
    sent_by_v1 = to_binary(from_http(STRUCTURED, body))[1]
    kept.append(is_json(sent.body, data))
    kept_by_v1.append(is_json(sent_by_v1, data))
    print(f"{json.dumps(data)}: sent {sent.body!r} as {sent.headers['content-type']}; by cloudevents.v1 {sent_by_v1!r}")
sys.exit(0 if kept == [True, False, False, False] and all(kept_by_v1) else 1)
PYTHON
