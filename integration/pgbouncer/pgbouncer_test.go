package pgbouncer_test

import (
	"net/url"
	"testing"

	"github.com/fosite-consent/fosite-consent/integration/pgtest"
)

// proofs are what has to hold behind every PgBouncer and in every exec mode that can
// work there. Each gets an empty database's URL, which leads through PgBouncer and
// sets the mode.
var proofs = []struct {
	name  string
	prove func(t *testing.T, databaseURL string)
	// always says that it holds even in the modes that cannot work otherwise: it sends
	// nothing in the pool's own mode, or nothing outside of a transaction.
	always bool
}{
	{name: "the tables are made and checked by several nodes at once", prove: migrating, always: true},
	{name: "the storage keeps its contract", prove: contract},
	{name: "of presenters at several nodes one wins", prove: nodesRace},
	{name: "a call whose session is ended is settled", prove: endedSession},
	{name: "sweepers share the work", prove: sweeping},
}

// connections are how many PgBouncer may have to the server for each database: fewer
// than the tests' pools have to PgBouncer.
const connections = 6

// The modes of pgx that cannot work everywhere.
const (
	// cacheStatement, the default, prepares statements under names.
	cacheStatement = "cache_statement"
	// describeExec has each statement described in one round trip, and run in another.
	describeExec = "describe_exec"
)

// TestPgBouncer is skipped on a machine without PgBouncer, and nowhere else.
func TestPgBouncer(t *testing.T) {
	t.Parallel()
	for _, from := range pgtest.PgBouncerOrigins {
		t.Run(from.String(), func(t *testing.T) {
			t.Parallel()
			bouncer := pgtest.PgBouncer(t, from, pgtest.Superuser(t), connections)
			t.Log("version", bouncer.Version())
			for _, mode := range []string{cacheStatement, "cache_describe", describeExec, "exec", "simple_protocol"} {
				t.Run(mode, func(t *testing.T) {
					t.Parallel()
					works := mode != describeExec && (mode != cacheStatement || bouncer.KnowsPreparedStatements())
					for _, p := range proofs {
						if works || p.always {
							t.Run(p.name, func(t *testing.T) {
								t.Parallel()
								p.prove(t, withMode(t, bouncer.URL(pgtest.Database(t)), mode))
							})
						}
					}
					if !works {
						t.Run("what succeeds has happened and what fails has not", func(t *testing.T) {
							t.Parallel()
							failsHonestly(t, from, mode)
						})
					}
				})
			}
			t.Run("a database that cannot be reached is no reason", func(t *testing.T) {
				t.Parallel()
				unreachable(t, noDatabase(t, bouncer.URL(pgtest.Superuser(t))))
			})
			t.Run("a call whose connection behind PgBouncer breaks is settled", func(t *testing.T) {
				t.Parallel()
				brokenConnection(t, from)
			})
			t.Run("an unnamed statement is anybody's", func(t *testing.T) {
				t.Parallel()
				unnamedIsAnybodys(t, from)
			})
		})
	}
}

// noDatabase is the URL of a database that is not there, behind the same PgBouncer.
func noDatabase(t testing.TB, databaseURL string) string {
	t.Helper()
	return edited(t, databaseURL, func(u *url.URL) { u.Path = "/none" })
}

// withMode adds the way in which pgx runs statements to a connection URL.
func withMode(t testing.TB, databaseURL, mode string) string {
	t.Helper()
	return edited(t, databaseURL, func(u *url.URL) {
		query := u.Query()
		query.Set("default_query_exec_mode", mode)
		u.RawQuery = query.Encode()
	})
}

func edited(t testing.TB, databaseURL string, edit func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	edit(u)
	return u.String()
}
