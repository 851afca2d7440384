//go:build unix && !linux

package pgtest

import (
	"context"
	"syscall"
)

// endWithParent does nothing: only Linux can end a process with its parent.
func endWithParent(*syscall.SysProcAttr) {}

// childrenOf returns the ids of a process's children.
func childrenOf(ctx context.Context, parent int) ([]int, error) { return listed(ctx, parent) }
