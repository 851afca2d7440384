//go:build !linux

package hydranpm

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }
