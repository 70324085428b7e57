//go:build tools

// Package controlplane pins, in go.mod and go.sum, the programs that the tests against a real Istio run.
// Nothing imports it: `go build` is called with the paths below.
package controlplane

import (
	_ "github.com/fullstorydev/grpcurl/cmd/grpcurl"
	_ "go.etcd.io/etcd/server/v3"
	_ "helm.sh/helm/v4/cmd/helm"
	_ "istio.io/istio/istioctl/cmd/istioctl"
	_ "istio.io/istio/pilot/cmd/pilot-discovery"
	_ "istio.io/istio/pkg/test/echo/cmd/client"
	_ "istio.io/istio/pkg/test/echo/cmd/server"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kubectl"
)
