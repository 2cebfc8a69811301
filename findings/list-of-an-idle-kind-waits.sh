#!/usr/bin/env bash
# Guessed: a LIST as of now costs one question to etcd more than one from the watch cache, some two milliseconds, whatever
#   happens beside it.
# Seen (kube-apiserver 1.37.2): so it is for a kind that was written just now. A list of a kind that is idle waits for up to a
#   tenth of a second when something of another kind was written since: the cache has to hear of that revision, asks etcd for a
#   sign of progress, and does so ten times a second at the most. With resourceVersionMatch=NotOlderThan, and a version of that
#   kind, nothing waits. So lists of one idle kind after another write elsewhere take turns of 100 ms.
# Exits 1 when that has changed. Needs Go 1.26 or later; builds for some minutes the first time.
set -euo pipefail
VERSION=37.2
folder=$(mktemp -d)
running=()
# KILL: a kube-apiserver that is asked to stop waits for an etcd that is gone.
trap '{ kill -KILL "${running[@]}"; wait; } 2> /dev/null || true; rm -rf "$folder"' EXIT
mkdir "$folder/build" && cd "$folder/build"
export GOWORK=off GOFLAGS=-mod=mod CGO_ENABLED=0
go mod init finding 2>/dev/null
source=$(go mod download -json "k8s.io/kubernetes@v1.$VERSION" | python3 -c 'import json, sys; print(json.load(sys.stdin)["GoMod"])')
# shellcheck disable=SC2013
for module in $(sed -n 's|^\t\(k8s.io/[a-z-]*\) => ./staging/.*|\1|p' "$source"); do
  go mod edit -replace="$module=$module@v0.$VERSION"
done
go get "k8s.io/kubernetes/cmd/kube-apiserver@v1.$VERSION" go.etcd.io/etcd/server/v3@v3.7.3 2>/dev/null
stamps="-s -w -X k8s.io/component-base/version.gitVersion=v1.$VERSION"
go build -trimpath -ldflags="$stamps" -o "$folder/" k8s.io/kubernetes/cmd/kube-apiserver
go build -trimpath -ldflags="-s -w" -o "$folder/etcd" go.etcd.io/etcd/server/v3
cd "$folder"

read -r etcd peer port < <(python3 -c '
import socket
taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(each.getsockname()[1] for each in taken))')
./etcd --data-dir data --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
  --listen-peer-urls "http://127.0.0.1:$peer" > etcd.log 2>&1 &
running+=($!)
openssl genrsa -out key.pem 2048 2> /dev/null
echo 'token,admin,admin,"system:masters"' > tokens
./kube-apiserver --etcd-servers "http://127.0.0.1:$etcd" --bind-address 127.0.0.1 --secure-port "$port" --cert-dir certificates \
  --token-auth-file tokens --authorization-mode RBAC --service-cluster-ip-range 10.0.0.0/24 --service-account-key-file key.pem \
  --service-account-signing-key-file key.pem --service-account-issuer https://issuer.example > kube-apiserver.log 2>&1 &
running+=($!)
for _ in $(seq 120); do ! curl --silent --fail --insecure --header "Authorization: Bearer token" "https://127.0.0.1:$port/readyz" > /dev/null || break; sleep 1; done

./kube-apiserver --version
PORT=$port python3 - <<'PYTHON'
import http.client, json, os, ssl, statistics, sys, time

api = http.client.HTTPSConnection("127.0.0.1", int(os.environ["PORT"]), context=ssl._create_unverified_context())


def ask(method, path, body=None):
    headers = {"Authorization": "Bearer token", "Content-Type": "application/json"}
    api.request(method, path, body and json.dumps(body), headers)
    answer = api.getresponse()
    content = json.load(answer)
    assert answer.status < 300, content
    return content


def lists(path, query=""):
    """Milliseconds of each of 20 lists; before each, a ConfigMap is written."""
    taken = []
    for number in range(20):
        made = {"metadata": {"generateName": "x-"}}
        ask("POST", "/api/v1/namespaces/default/configmaps", made)
        began = time.perf_counter()
        ask("GET", f"{path}{query}")
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken)


leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
ask("POST", leases, {"metadata": {"name": "x"}})
version = ask("GET", leases)["metadata"]["resourceVersion"]
written = lists("/api/v1/namespaces/default/configmaps")
idle = lists(leases)
not_older = lists(leases, f"?resourceVersion={version}&resourceVersionMatch=NotOlderThan")
print(f"median of 20 lists, a ConfigMap written before each: ConfigMaps {written:.1f} ms, Leases {idle:.1f} ms,")
print(f"Leases not older than a version that was seen {not_older:.1f} ms")
sys.exit(0 if idle > 20 and idle > 4 * written and idle > 4 * not_older else 1)
PYTHON
