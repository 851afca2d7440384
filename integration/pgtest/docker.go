package pgtest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// containerLabel marks the harness's containers.
const containerLabel = "fosite-consent.pgtest"

// postgresPort is where the server listens inside its container.
const postgresPort = "5432/tcp"

// storage says where a container keeps its data.
type storage int

const (
	// inMemory is fast, and gone when the container stops.
	inMemory storage = iota
	// onDisk stays for as long as the container.
	onDisk
)

// dockerServer is a server in a container of its own.
type dockerServer struct {
	pool     *dockertest.Pool
	resource *dockertest.Resource
	host     string // where the server's port is on this machine
	image    string
	version  string
	password string
}

// startDocker starts a container and waits until the server in it answers.
func startDocker(ctx context.Context, where storage) (*dockerServer, error) {
	image := os.Getenv("TEST_POSTGRES_IMAGE")
	if image == "" {
		image = "postgres:17-alpine"
	}
	pool, err := engine(ctx)
	if err != nil {
		return nil, err
	}
	s := &dockerServer{pool: pool, image: image, password: randomHex(16)}
	return s, s.run(ctx, where, nil)
}

// run starts the container, with options that change may change, and waits until
// the server in it answers.
func (s *dockerServer) run(ctx context.Context, where storage, change func(*dockertest.RunOptions)) (err error) {
	repository, tag := docker.ParseRepositoryTag(s.image)
	name := containerName()
	command := []string{"postgres"}
	for setting, value := range settings {
		command = append(command, "-c", setting+"="+value)
	}
	options := &dockertest.RunOptions{
		Name:       name,
		Repository: repository,
		Tag:        tag,
		Cmd:        command,
		Env: []string{
			"PGDATA=/pgdata", "POSTGRES_PASSWORD=" + s.password, "POSTGRES_INITDB_ARGS=--no-sync",
		},
		Labels: map[string]string{containerLabel: "1"},
		// Without this the port would be open on every address of this machine.
		PortBindings: map[docker.Port][]docker.PortBinding{postgresPort: {{HostIP: "127.0.0.1", HostPort: "0"}}},
	}
	if change != nil {
		change(options)
	}
	s.resource, err = s.pool.RunWithOptions(options, func(host *docker.HostConfig) {
		// AutoRemove would take the log of a container that dies at its start with it.
		host.AutoRemove = false
		host.PublishAllPorts = false
		if where == inMemory {
			host.Tmpfs = map[string]string{"/pgdata": "rw"}
		}
	})
	if err != nil {
		_ = s.pool.RemoveContainerByName(name) // it may never have been made
		return fmt.Errorf("image %s: %w", s.image, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.pool.Purge(s.resource))
		}
	}()
	if err := s.resource.Expire(lifetime()); err != nil {
		return err
	}
	s.host = s.resource.GetHostPort(postgresPort)
	return s.ready(ctx)
}

// engine returns the container engine if one answers.
func engine(ctx context.Context) (*dockertest.Pool, error) {
	pool, err := dockertest.NewPool("")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := pool.Client.PingWithContext(ctx); err != nil {
		return nil, fmt.Errorf("no container engine answers: %w", err)
	}
	removeAbandoned(pool)
	return pool, nil
}

func containerName() string { return "fosite-consent-pgtest-" + randomHex(6) }

// lifetime is how long, in seconds, a container may live at most: the engine ends
// it even when this process was killed.
func lifetime() uint {
	longest := 2 * time.Hour
	if f := flag.Lookup("test.timeout"); f != nil {
		if g, ok := f.Value.(flag.Getter); ok {
			if d, ok := g.Get().(time.Duration); ok && d > 0 {
				longest = d + time.Minute
			}
		}
	}
	return uint(longest / time.Second)
}

// removeAbandoned removes containers that expired after their test process was
// killed.
func removeAbandoned(pool *dockertest.Pool) {
	containers, err := pool.Client.ListContainers(docker.ListContainersOptions{
		All:     true,
		Filters: map[string][]string{"label": {containerLabel}, "status": {"exited"}},
	})
	if err != nil {
		return
	}
	for _, c := range containers {
		// One that has only just ended may be a test's that stopped it on purpose.
		full, err := pool.Client.InspectContainer(c.ID)
		if err != nil || time.Since(full.State.FinishedAt) < 10*time.Minute {
			continue
		}
		_ = pool.Client.RemoveContainer(docker.RemoveContainerOptions{ID: c.ID, RemoveVolumes: true})
	}
}

// ready waits until the server accepts connections. A container that ends instead
// is reported with its log.
func (s *dockerServer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		conn, err := pgx.Connect(attempt, s.url())
		if err == nil {
			s.version, _, _ = strings.Cut(conn.PgConn().ParameterStatus("server_version"), " ")
			err = conn.Close(attempt)
			cancel()
			return err
		}
		cancel()
		container, inspectErr := s.pool.Client.InspectContainer(s.resource.Container.ID)
		if inspectErr != nil {
			return inspectErr
		}
		if !container.State.Running {
			return fmt.Errorf("image %s: the container ended with exit code %d: %s", s.image, container.State.ExitCode, s.log())
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("image %s: the server does not answer: %w: %s", s.image, err, s.log())
		}
	}
}

// log returns the last lines of the container's log.
func (s *dockerServer) log() string {
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	err := s.pool.Client.Logs(docker.LogsOptions{
		Context: ctx, Container: s.resource.Container.ID,
		OutputStream: &out, ErrorStream: &out, Stdout: true, Stderr: true, Tail: "15",
	})
	if err != nil {
		return "no log: " + err.Error()
	}
	return strings.Join(slices.DeleteFunc(strings.Split(out.String(), "\n"), func(l string) bool { return l == "" }), " | ")
}

func (s *dockerServer) address() string { return s.host }

func (s *dockerServer) url() string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword("postgres", s.password),
		Host: s.address(), Path: "/postgres", RawQuery: "sslmode=disable",
	}
	return u.String()
}

func (s *dockerServer) source() string {
	return "PostgreSQL " + s.version + " in a container of " + s.image
}

func (s *dockerServer) close(context.Context) error {
	_ = s.pool.Client.UnpauseContainer(s.resource.Container.ID) // most often it is not paused
	return s.pool.Purge(s.resource)
}

// signal sends the server a signal that ends it, and waits until it has.
func (s *dockerServer) signal(ctx context.Context, signal docker.Signal) error {
	id := s.resource.Container.ID
	if err := s.pool.Client.KillContainer(docker.KillContainerOptions{ID: id, Signal: signal, Context: ctx}); err != nil {
		return err
	}
	_, err := s.pool.Client.WaitContainerWithContext(id, ctx)
	return err
}

func (s *dockerServer) stop(ctx context.Context) error { return s.signal(ctx, docker.SIGINT) }
func (s *dockerServer) kill(ctx context.Context) error { return s.signal(ctx, docker.SIGKILL) }

// start starts a server that was stopped or killed. Its port is a new one.
func (s *dockerServer) start(ctx context.Context) error {
	id := s.resource.Container.ID
	if err := s.pool.Client.StartContainerWithContext(id, nil, ctx); err != nil {
		return err
	}
	if err := s.resource.Expire(lifetime()); err != nil {
		return err
	}
	for {
		container, err := s.pool.Client.InspectContainerWithContext(id, ctx)
		if err != nil {
			return err
		}
		if !container.State.Running {
			return fmt.Errorf("the container ended: %s", s.log())
		}
		// Not s.resource.Container = container: Expire goes on reading that field.
		now := dockertest.Resource{Container: container}
		if s.host = now.GetHostPort(postgresPort); s.host != "" {
			return s.ready(ctx)
		}
		if wait(ctx, 20*time.Millisecond) != nil {
			return errors.New("the container has no port")
		}
	}
}

func (s *dockerServer) pause(context.Context) error {
	return s.pool.Client.PauseContainer(s.resource.Container.ID)
}

func (s *dockerServer) unpause(context.Context) error {
	return s.pool.Client.UnpauseContainer(s.resource.Container.ID)
}
