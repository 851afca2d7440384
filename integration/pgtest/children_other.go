//go:build unix && !linux

package pgtest

import "context"

// childrenOf returns the ids of a process's children.
func childrenOf(ctx context.Context, parent int) ([]int, error) { return listed(ctx, parent) }
