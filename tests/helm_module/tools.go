//go:build tools

// Keeps the module of the program in go.mod: it is built as it is published, see tests/actors/helm.py.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
