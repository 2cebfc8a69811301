#!/usr/bin/env bash
# Guessed: prometheus_client takes names with dots, quoting them where Prometheus 3 is asked for UTF-8 names, or refuses them; so an
#   exemplar's label "trace.id" is quoted or refused as well.
# Seen (prometheus_client 0.26.0, Prometheus' parser v0.316.0): the names of metrics and labels are quoted (or get underscores, for
#   a Prometheus that asks for those), the exemplar's label is taken and written as it is, {trace.id="1"}. Prometheus' parser then
#   fails at that line, so a whole Prometheus has the target down (`up` is 0, no series of it arrive) from the first such exemplar
#   on. Quoted, it is read.
# Exits 1 when that has changed. Needs Go 1.25 or later.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check prometheus_client==0.26.0
mkdir "$folder/parser" && cd "$folder/parser"
export GOWORK=off GOFLAGS=-mod=mod
cat > main.go <<'GO'
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
)

func main() {
	body, _ := io.ReadAll(os.Stdin)
	parser, err := textparse.New(body, os.Args[1], labels.NewSymbolTable(), textparse.ParserOptions{})
	for err == nil {
		_, err = parser.Next()
	}
	if err == io.EOF {
		fmt.Println("read to its end")
		return
	}
	fmt.Println("error:", err)
}
GO
go mod init finding 2>/dev/null
go get github.com/prometheus/prometheus/model/textparse@v0.316.0 2>/dev/null
go list -m github.com/prometheus/prometheus
go build -o "$folder/parse" .
cd "$folder"
cat > expose.py <<'PYTHON'
import subprocess, sys
from importlib.metadata import version
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

def parsed(body, content_type):
    return subprocess.run(["./parse", content_type], input=body, capture_output=True, check=True).stdout.decode().strip()

registry = CollectorRegistry()
requests = Counter("http.requests", "Requests.", ["http.method"], registry=registry)
print("prometheus_client", version("prometheus_client"))
results = {}
for exemplar in (None, {"trace.id": "1"}):
    requests.labels("GET").inc(exemplar=exemplar)
    for escaping in ("allow-utf-8", "underscores"):
        encode, content_type = choose_encoder(f"application/openmetrics-text;version=1.0.0;escaping={escaping}")
        body = encode(registry)
        results[bool(exemplar), escaping] = parsed(body, content_type)
        print(escaping, "|", next(line for line in body.decode().splitlines() if "_total" in line))
        print("   ", results[bool(exemplar), escaping])
quoted = parsed(body.replace(b"{trace.id", b'{"trace.id"'), content_type)
print("the last one with quotes:", quoted)
well = all(results[False, escaping] == "read to its end" for escaping in ("allow-utf-8", "underscores"))
fails = all(results[True, escaping].startswith("error") for escaping in ("allow-utf-8", "underscores"))
sys.exit(0 if well and fails and quoted == "read to its end" else 1)
PYTHON
venv/bin/python expose.py
