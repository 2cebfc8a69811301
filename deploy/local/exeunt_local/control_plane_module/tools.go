//go:build tools

// Keeps the modules of the two commands in go.mod: both are built as they are published, see binaries.py.
package controlplane

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
