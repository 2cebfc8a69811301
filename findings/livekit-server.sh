#!/usr/bin/env bash
# Guessed: a livekit-server that cannot start, because its port is taken or its configuration has a typing error, ends with
#   an exit code that is not 0, so that systemd (Restart=on-failure), a container runtime or a test sees a failure.
# Seen (livekit-server 1.9.11): it prints one line to stdout and ends with exit code 0, as after an orderly stop.
# Exits 1 when that has changed. Needs Go 1.24 or later; builds for some minutes the first time.
set -euo pipefail
VERSION=v1.9.11
folder=$(mktemp -d)
trap 'kill "${listener:-}" 2>/dev/null || true; rm -rf "$folder"' EXIT

GOBIN="$folder" CGO_ENABLED=0 go install -trimpath -ldflags="-s -w" "github.com/livekit/livekit-server/cmd/server@$VERSION"
"$folder/server" --version

python3 -c '
import socket, sys, time
taken = socket.create_server(("127.0.0.1", 0))
print(taken.getsockname()[1], flush=True)
time.sleep(120)
' > "$folder/port" &
listener=$!
until [ -s "$folder/port" ]; do sleep 0.1; done
port=$(cat "$folder/port")

changed=0
try() { # title, configuration
  echo "--- $1"
  code=0
  timeout 60 "$folder/server" --config-body "$2" > "$folder/output" 2>&1 || code=$?
  tail -n 1 "$folder/output"
  echo "exit code $code"
  [ "$code" = 0 ] || changed=1
}

keys='"keys": {"key": "0123456789abcdef0123456789abcdef"}'
loopback='"bind_addresses": ["127.0.0.1"], "rtc": {"use_external_ip": false, "node_ip": "127.0.0.1"}'
try "a port that is taken" "{\"port\": $port, $loopback, $keys}"
try "an unknown option" "{\"prot\": 7880, $keys}"
try "no keys" "{\"port\": $port}"
exit $changed
