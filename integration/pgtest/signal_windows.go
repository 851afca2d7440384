package pgtest

import (
	"context"
	"errors"
	"os"
)

var errNoPause = errors.New("a process cannot be paused on Windows: use Docker")

func (s *localServer) pause(context.Context) error { return errNoPause }

func (s *localServer) unpause(context.Context) error { return errNoPause }

// killProcesses kills the main process; the others end when they notice.
func (s *localServer) killProcesses(context.Context) error {
	process, err := os.FindProcess(s.PID())
	if err != nil {
		return err
	}
	return process.Kill()
}
