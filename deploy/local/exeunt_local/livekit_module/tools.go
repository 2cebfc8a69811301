//go:build tools

// Keeps the module of the server in go.mod: it is built as it is published, see binaries.py.
package livekit

import _ "github.com/livekit/livekit-server/cmd/server"
