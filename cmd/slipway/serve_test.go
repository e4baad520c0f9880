package main

import (
	"testing"

	"slipway.dev/slipway/configs"
	"slipway.dev/slipway/pxe/seed"
	"slipway.dev/slipway/pxe/seed/serve"
)

// TestSinceThisStart: a seed that starts again prints no line twice.
func TestSinceThisStart(t *testing.T) {
	c, err := configs.ParseCluster("cluster.yaml", []byte("apiVersion: slipway.dev/v1alpha1\nkind: Cluster\nmetadata: {name: site}\nspec: {nodes: [{role: control-plane, count: 1}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, text := range []string{"first", "second"} {
		s, err := seed.Open(dir, c, seed.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s.Record(seed.Step{Stage: seed.StageSeed, Text: text})
		got, err := since(serve.New(serve.Options{Cluster: c, Seed: s}))(t.Context(), 0)
		if n := len(got.Steps); err != nil || n != 2 || got.Steps[1].Text != text {
			t.Errorf("%s: %+v %v", text, got.Steps, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
