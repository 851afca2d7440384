//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// pause stops every process of the server: it then neither answers nor hangs up.
func (s *localServer) pause(ctx context.Context) error {
	// The main process first: it then starts no further ones.
	if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
		return err
	}
	return s.signalChildren(ctx, syscall.SIGSTOP)
}

// unpause lets the server go on.
func (s *localServer) unpause(ctx context.Context) error {
	return errors.Join(s.signalChildren(ctx, syscall.SIGCONT), syscall.Kill(s.PID(), syscall.SIGCONT))
}

// killProcesses kills every process of the server. With the main process alone, the
// others would go on for as long as they have something to do, and answer.
func (s *localServer) killProcesses(ctx context.Context) error {
	if err := s.pause(ctx); err != nil {
		return err
	}
	return errors.Join(s.signalChildren(ctx, syscall.SIGKILL), syscall.Kill(s.PID(), syscall.SIGKILL))
}

func (s *localServer) signalChildren(ctx context.Context, signal syscall.Signal) error {
	children, err := childrenOf(ctx, s.PID())
	if err != nil {
		return err
	}
	for _, pid := range children {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// listed returns the process ids in what "ps -A -o pid= -o ppid=" prints whose
// parent is the given one.
func listed(ctx context.Context, parent int) ([]int, error) {
	out, err := exec.CommandContext(ctx, "ps", "-A", "-o", "pid=", "-o", "ppid=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w", err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(fields[0])
			if err != nil {
				return nil, err
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
