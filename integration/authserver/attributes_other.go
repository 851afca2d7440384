//go:build !linux

package authserver

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }
