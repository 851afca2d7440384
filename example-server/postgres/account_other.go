//go:build unix && !linux

package postgres

import "syscall"

// endWithParent does nothing: only Linux can end a process with its parent. The
// next Start on the directory ends a server that was left behind.
func endWithParent(*syscall.SysProcAttr) {}

// removeStalePIDFile leaves the file to the server's own judgement.
func removeStalePIDFile(string) {}
