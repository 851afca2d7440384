package main

import "testing"

// TestBuild finds an example server that has changed under its variants before somebody
// wants to measure it.
func TestBuild(t *testing.T) {
	t.Parallel()
	for _, v := range variants {
		t.Run(string(v), func(t *testing.T) {
			t.Parallel()
			if _, err := build(t.Context(), t.TempDir(), v, true); err != nil {
				t.Error(err)
			}
		})
	}
}
