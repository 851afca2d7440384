package postgres

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// endWithParent has the kernel ask the server for a fast shutdown when the thread
// that started it ends.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }

// removeStalePIDFile removes a postmaster.pid whose process id now belongs to
// something else, as happens after a reboot or in a new container. The server
// itself removes one whose process id is free, but takes any other process of the
// same user for a server in this directory.
func removeStalePIDFile(data string) {
	file := filepath.Join(data, "postmaster.pid")
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return
	}
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if cwd, err := os.Readlink(filepath.Join(proc, "cwd")); err == nil {
		// A server's working directory is its data directory.
		if cwd != data {
			_ = os.Remove(file) // if it stays, the server says what is wrong
		}
		return
	}
	// In a container, even root may not see where other users' processes are. What
	// they are everyone can see.
	if command, err := os.ReadFile(filepath.Join(proc, "cmdline")); err == nil {
		program, _, _ := strings.Cut(string(command), "\x00")
		if name := filepath.Base(program); name != "postgres" && name != "postmaster" {
			_ = os.Remove(file)
		}
	}
}
