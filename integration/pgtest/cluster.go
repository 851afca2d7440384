package pgtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/dockertest/v3"
)

// Replication says when a Cluster's primary tells a client that a commit is done.
type Replication int

const (
	// Asynchronous is at once, whatever the standby has.
	Asynchronous Replication = iota
	// Synchronous is when the standby has written it down, too
	// (synchronous_standby_names, with synchronous_commit = on).
	Synchronous
)

// Cluster is a primary and a hot standby that streams from it, both for one test
// alone, behind a Proxy whose address leads to the one that is the primary. Its
// methods fail the test when they do not succeed, and so are to be called from the
// test's own goroutine.
type Cluster struct {
	t             testing.TB
	proxy         *Proxy
	first, second controlled
	primary       string // how the standby finds it, while it is detached
}

// NewCluster starts a cluster that ends with the test, of the kind of server that
// Dedicated would start.
func NewCluster(t testing.TB, replication Replication) *Cluster {
	t.Helper()
	own := startDedicated(t, inMemory) // what is killed stays dead
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	second, err := own.standby(ctx)
	if err != nil {
		t.Fatalf("pgtest: start a standby: %v", err)
	}
	endWith(t, second)
	c := &Cluster{t: t, first: own, second: second}
	c.until(own, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
	if replication == Synchronous {
		// Only now: without a standby nothing would be committed any more.
		if err := execute(own.url(), "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()"); err != nil {
			t.Fatalf("pgtest: %v", err)
		}
		c.until(own, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
	}
	c.proxy = NewProxy(t, own.address())
	return c
}

// Database creates an empty database and returns its URL, through the proxy. It lasts
// as long as the cluster, and is on both servers.
func (c *Cluster) Database() string {
	c.t.Helper()
	name := uniqueName(c.t)
	if err := execute(c.first.url(), "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		c.t.Fatalf("pgtest: create a database: %v", err)
	}
	return edit(c.t, c.proxy.URL(c.first.url()), func(u *url.URL) { u.Path = "/" + name })
}

// Proxy returns the proxy in front of the primary.
func (c *Cluster) Proxy() *Proxy { return c.proxy }

// At returns a database's URL without the proxy: at the server that was the primary
// first, or at the one that was its standby.
func (c *Cluster) At(databaseURL string, standby bool) string {
	c.t.Helper()
	server := c.first
	if standby {
		server = c.second
	}
	return edit(c.t, databaseURL, func(u *url.URL) { u.Host = server.address() })
}

// Hosts returns a database's URL that names both servers, and asks for the one that
// takes writes.
func (c *Cluster) Hosts(databaseURL string) string {
	c.t.Helper()
	return edit(c.t, databaseURL, func(u *url.URL) {
		u.Host = c.first.address() + "," + c.second.address()
		query := u.Query()
		query.Set("target_session_attrs", "read-write")
		u.RawQuery = query.Encode()
	})
}

// Source describes the primary in one line.
func (c *Cluster) Source() string { return c.first.source() }

// CatchUp returns when the standby shows everything that the primary has committed
// until now.
func (c *Cluster) CatchUp() {
	c.t.Helper()
	c.until(c.second, "SELECT pg_last_wal_replay_lsn() >= '"+c.ask(c.first, "SELECT pg_current_wal_lsn()::text")+"'")
}

// Detach ends the replication: nothing that the primary does from now on reaches the
// standby, until Attach. A synchronous primary goes on waiting for it.
func (c *Cluster) Detach() {
	c.t.Helper()
	c.primary = c.ask(c.second, "SHOW primary_conninfo")
	c.follow("")
	c.until(c.second, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
	c.until(c.first, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")
}

// Attach ends a Detach: the standby gets what it has missed.
func (c *Cluster) Attach() {
	c.t.Helper()
	c.follow(c.primary)
	c.until(c.first, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
}

func (c *Cluster) follow(primary string) {
	c.t.Helper()
	quoted := "'" + strings.ReplaceAll(primary, "'", "''") + "'"
	if err := execute(c.second.url(), "ALTER SYSTEM SET primary_conninfo = "+quoted, "SELECT pg_reload_conf()"); err != nil {
		c.t.Fatalf("pgtest: change what the standby follows: %v", err)
	}
}

// Kill ends the primary as a crash would (SIGKILL). It does not come back.
func (c *Cluster) Kill() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	if err := c.first.kill(ctx); err != nil {
		c.t.Fatalf("pgtest: kill the primary: %v", err)
	}
}

// Promote makes the standby the primary. From then on the proxy leads there, and its
// connections to the other server are cut. That server, if it has not been killed, goes
// on as if nothing had happened.
func (c *Cluster) Promote() {
	c.t.Helper()
	if err := execute(c.second.url(), "SELECT pg_promote()"); err != nil { // which waits until it is done
		c.t.Fatalf("pgtest: promote the standby: %v", err)
	}
	c.until(c.second, "SELECT NOT pg_is_in_recovery()")
	c.proxy.SetTarget(c.second.address())
	c.proxy.Cut()
}

// until asks the server until the answer is true.
func (c *Cluster) until(s server, question string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	for c.ask(s, "SELECT ("+question+")::text") != "true" {
		if wait(ctx, 5*time.Millisecond) != nil {
			c.t.Fatalf("pgtest: it does not come to this: %s", question)
		}
	}
}

func (c *Cluster) ask(s server, question string) (answer string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	conn, err := connect(ctx, s.url())
	if err == nil {
		defer conn.Close(ctx)
		err = conn.QueryRow(ctx, question).Scan(&answer)
	}
	if err != nil {
		c.t.Fatalf("pgtest: %v", err)
	}
	return answer
}

// baseBackup becomes a standby of the server that the environment names.
const baseBackup = `pg_basebackup --pgdata="$PGDATA" --write-recovery-conf --checkpoint=fast --no-sync --dbname="$PRIMARY" &&
exec postgres "$@"`

// standby implements controlled. Containers reach each other by their addresses; names
// would take a network of their own.
func (s *dockerServer) standby(ctx context.Context) (controlled, error) {
	container, err := s.pool.Client.InspectContainerWithContext(s.resource.Container.ID, ctx)
	if err != nil {
		return nil, err
	}
	host := ""
	for _, network := range container.NetworkSettings.Networks {
		host = network.IPAddress
	}
	if host == "" {
		return nil, errors.New("the primary's container has no address")
	}
	// "all" does not mean replication there; and the server's folder is its data.
	if err := execute(s.url(),
		"COPY (SELECT 'host replication postgres all scram-sha-256') TO PROGRAM 'cat >>pg_hba.conf'", "SELECT pg_reload_conf()"); err != nil {
		return nil, err
	}
	dsn, err := changed(s.url(), func(u *url.URL) { u.Host = net.JoinHostPort(host, "5432") })
	if err != nil {
		return nil, err
	}
	standby := &dockerServer{pool: s.pool, image: s.image, password: s.password}
	return nilIfFailed(standby, standby.run(ctx, inMemory, func(o *dockertest.RunOptions) {
		o.User = "postgres"
		o.Entrypoint = []string{"sh", "-c", baseBackup}
		// The folder in memory belongs to root; one in it is the user's.
		o.Env = []string{"PGDATA=/pgdata/standby", "PRIMARY=" + dsn}
	}))
}

// standby implements controlled by a copy of the files, while the server is stopped: that
// takes none of PostgreSQL's programs but the server, as which is all that is
// downloaded.
func (s *dedicatedServer) standby(ctx context.Context) (controlled, error) {
	if err := s.stop(ctx); err != nil {
		return nil, err
	}
	dir, err := newDedicatedDir()
	if err != nil {
		return nil, err
	}
	if err := copyServer(dir, s.dir); err != nil {
		_ = os.RemoveAll(filepath.Dir(dir))
		return nil, err
	}
	err = s.start(ctx)
	if err == nil {
		err = followPrimary(filepath.Join(dir, "data"), s.url())
	}
	if err != nil {
		_ = os.RemoveAll(filepath.Dir(dir))
		return nil, err
	}
	return nilIfFailed(startDedicatedIn(ctx, s.kind, dir))
}

// copyServer copies the directory of a server that has been stopped.
func copyServer(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	a, err := unprivileged()
	if err != nil {
		return err
	}
	data := filepath.Join(to, "data")
	return filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err == nil {
			err = a.own(path)
		}
		if err == nil && entry.IsDir() {
			err = os.Chmod(path, 0o700) // the server wants nobody else in there
		}
		return err
	})
}

// followPrimary makes a server's data those of a standby, as "pg_basebackup -R" does.
func followPrimary(data, primaryURL string) error {
	config, err := pgx.ParseConfig(primaryURL)
	if err != nil {
		return err
	}
	a, err := unprivileged()
	if err != nil {
		return err
	}
	signal := filepath.Join(data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		return err
	}
	if err := a.own(signal); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(data, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "primary_conninfo = 'host=%s port=%d user=%s password=%s sslmode=disable'\n",
		config.Host, config.Port, config.User, config.Password)
	return errors.Join(err, file.Close())
}
