package pgtest

import (
	"context"
	"errors"
)

var errNoPause = errors.New("a process cannot be paused on Windows: use Docker")

func (s *localServer) pause(context.Context) error { return errNoPause }

func (s *localServer) unpause(context.Context) error { return errNoPause }
