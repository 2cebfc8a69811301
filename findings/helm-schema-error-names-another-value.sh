#!/usr/bin/env bash
# Guessed: an error of a JSON Schema names the value that is wrong, so in a values.schema.json `propertyNames` may say which keys
# a map must not have.
# Seen: with the validator that Helm 4.3 has, an error of `propertyNames` names whichever value was looked at after it, another one
# from run to run; a key that is refused by `patternProperties` (`false`) is named rightly. Exit code 1: not any more.
set -euo pipefail
folder=$(mktemp -d)
trap 'chmod -R u+w "$folder"; rm -rf "$folder"' EXIT
export GOPATH="$folder/go" GOCACHE="$folder/cache" GOWORK=off
cd "$folder"
cat > main.go <<'GO'
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

const schema = `{"properties": {
  "labels": {"propertyNames": {"pattern": "^[a-z]+$"}},
  "names": {"patternProperties": {"[^a-z]": false}},
  "a": {"type": "object"}, "b": {"type": "object"}, "c": {"type": "object"}, "d": {"type": "object"}}}`

func locations(document string) map[string]int {
	parsed, _ := jsonschema.UnmarshalJSON(strings.NewReader(schema))
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("schema.json", parsed); err != nil {
		panic(err)
	}
	compiled := compiler.MustCompile("schema.json")
	seen := map[string]int{}
	for range 100 {
		instance, _ := jsonschema.UnmarshalJSON(strings.NewReader(document))
		err := compiled.Validate(instance).(*jsonschema.ValidationError)
		seen["/"+strings.Join(err.Causes[0].InstanceLocation, "/")]++
	}
	return seen
}

func main() {
	others := `"a": {}, "b": {}, "c": {}, "d": {}}`
	wrong := locations(`{"labels": {"NOT": "allowed"}, ` + others)
	right := locations(`{"names": {"NOT": "allowed"}, ` + others)
	fmt.Println("/labels breaks propertyNames; how often the error names which value, of 100 times:", wrong)
	fmt.Println("/names breaks patternProperties:", right)
	if wrong["/labels"] == 100 || right["/names/NOT"] != 100 {
		os.Exit(1)
	}
}
GO
go mod init finding >/dev/null 2>&1
go get github.com/santhosh-tekuri/jsonschema/v6@v6.0.3 >/dev/null 2>&1
go version && go list -m github.com/santhosh-tekuri/jsonschema/v6
go run .
