package hydranpm

import "syscall"

// attributes has a process end with the test that has started it, whatever happens to
// that.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
