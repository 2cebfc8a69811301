//go:build tools

// Keeps the module of the two commands in go.mod: both are built as they are published, see binaries.py.
package prometheus

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
