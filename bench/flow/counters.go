package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// counters are read while the server under test is idle. All of the database's are PostgreSQL's own.
type counters struct {
	end         string // of the write-ahead log
	next        int64  // transaction id: only transactions that write get one
	rows        map[string]int64
	serverCPU   time.Duration
	databaseCPU time.Duration
	loadCPU     time.Duration // of this program
}

// used is what one flow took of the database.
type used struct {
	statements, control    float64 // of the server under test; BEGIN, COMMIT and the like apart
	transactions           float64 // that wrote something
	wal, images            float64 // bytes; those of full-page images are in both
	rows                   float64 // left in all tables
	serverCPU, databaseCPU float64 // milliseconds
	loadCPU                float64
	byStatement, byTable   []string
	byRelation             []string // what was written to the log for each
}

// before reads the counters and sets those of the statements to zero. What this program itself asks does not
// count: it asks before that, or once the counters of the statements were read.
func (b *bench) before(ctx context.Context, s *server) (c counters, err error) {
	if c.rows, err = s.countRows(ctx); err != nil {
		return c, err
	}
	// So that every load finds the log alike: the first change of a page after a checkpoint logs all of it.
	for _, statement := range []string{"CHECKPOINT", "SELECT pg_stat_statements_reset()"} {
		if _, err = b.admin.Exec(ctx, statement); err != nil {
			return c, err
		}
	}
	c.serverCPU, c.databaseCPU, c.loadCPU = cpu(s.command.Process.Pid, true), cpu(b.postgres.PID(), true), cpu(os.Getpid(), false)
	err = b.admin.QueryRow(ctx, positions).Scan(&c.end, &c.next)
	return c, err
}

const positions = "SELECT pg_current_wal_insert_lsn()::text, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"

// since returns what each of n flows took since the counters were read.
func (b *bench) since(ctx context.Context, s *server, c counters, n int) (u used, err error) {
	flows := float64(n)
	serverCPU, databaseCPU, loadCPU := cpu(s.command.Process.Pid, true), cpu(b.postgres.PID(), true), cpu(os.Getpid(), false)
	u.loadCPU = (loadCPU - c.loadCPU).Seconds() * 1000 / flows
	u.serverCPU = (serverCPU - c.serverCPU).Seconds() * 1000 / flows
	u.databaseCPU = (databaseCPU - c.databaseCPU).Seconds() * 1000 / flows

	var end string
	var next int64
	if err := b.admin.QueryRow(ctx, positions).Scan(&end, &next); err != nil {
		return u, err
	}
	u.transactions = float64(next-c.next) / flows
	rows, err := b.admin.Query(ctx, `SELECT calls, total_exec_time, query FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid WHERE datname = $1 ORDER BY calls DESC`, s.database)
	if err != nil {
		return u, err
	}
	var calls int64
	var milliseconds float64
	var query string
	_, err = pgx.ForEachRow(rows, []any{&calls, &milliseconds, &query}, func() error {
		switch word, _, _ := strings.Cut(strings.ToUpper(query), " "); word {
		case "BEGIN": // missing where it was prepared: PostgreSQL 15 counts the first of a prepared one only
		case "COMMIT", "ROLLBACK":
			u.control += 2 * float64(calls) / flows
		default:
			u.statements += float64(calls) / flows
		}
		u.byStatement = append(u.byStatement, fmt.Sprintf("%8.2f  %4.0f µs  %.140s", float64(calls)/flows, 1000*milliseconds/flows, strings.Join(strings.Fields(query), " ")))
		return nil
	})
	if err != nil {
		return u, err
	}

	// The log can be read as far as it was flushed, which a transaction that writes sees to at its end.
	if _, err := b.admin.Exec(ctx, "SELECT pg_logical_emit_message(true, '', '')"); err != nil {
		return u, err
	}
	err = b.admin.QueryRow(ctx, `SELECT ($2::pg_lsn - $1::pg_lsn)::float8, COALESCE(sum(fpi_size), 0)::float8 FROM pg_get_wal_stats($1::pg_lsn, $2::pg_lsn)`, c.end, end).Scan(&u.wal, &u.images)
	if err != nil {
		return u, err
	}
	u.wal, u.images = u.wal/flows, u.images/flows

	if b.verbose {
		if u.byRelation, err = b.walByRelation(ctx, s, c.end, end, flows); err != nil {
			return u, err
		}
	}

	left, err := s.countRows(ctx)
	if err != nil {
		return u, err
	}
	for table, count := range left {
		if more := float64(count-c.rows[table]) / flows; more != 0 {
			u.rows += more
			u.byTable = append(u.byTable, fmt.Sprintf("%8.2f  %s", more, table))
		}
	}
	// A measurement of the wrong server would look as good as any.
	for table, expected := range map[string]bool{
		"public.consent_grants":    s.variant != noGate,
		"public.consent_consents":  s.variant == shipped || s.variant == gateAndConsents,
		"public.consent_decisions": s.variant == shipped,
	} {
		if more := left[table] - c.rows[table]; expected != (more >= int64(n)) || (!expected && more != 0) {
			return u, fmt.Errorf("%d flows left %d rows in %s of the server %q", n, more, table, s.variant)
		}
	}
	return u, nil
}

// walByRelation says for which tables and indexes the bytes were logged. A record that changes several blocks
// counts for the first one.
func (b *bench) walByRelation(ctx context.Context, s *server, from, to string, flows float64) (list []string, err error) {
	names := map[uint32]string{}
	rows, err := s.conn.Query(ctx, "SELECT pg_relation_filenode(oid), relname FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL")
	if err != nil {
		return nil, err
	}
	var node uint32
	var name string
	if _, err = pgx.ForEachRow(rows, []any{&node, &name}, func() error {
		names[node] = name
		return nil
	}); err != nil {
		return nil, err
	}
	rows, err = b.admin.Query(ctx, `
		SELECT coalesce(substring(block_ref FROM '^blkref #0: rel [0-9]+/[0-9]+/([0-9]+)')::oid, 0), resource_manager || ' ' || record_type,
		       count(*)::float8, sum(record_length - fpi_length)::float8
		FROM pg_get_wal_records_info($1::pg_lsn, $2::pg_lsn) GROUP BY 1, 2 ORDER BY 4 DESC`, from, to)
	if err != nil {
		return nil, err
	}
	var kind string
	var records, size float64
	_, err = pgx.ForEachRow(rows, []any{&node, &kind, &records, &size}, func() error {
		list = append(list, fmt.Sprintf("%8.0f bytes in %.2f records  %s %s", size/flows, records/flows, kind, names[node]))
		return nil
	})
	return list, err
}

// countRows counts the rows of each table of the server's database: n_live_tup of
// pg_stat_user_tables is behind by up to a second, and an estimate.
func (s *server) countRows(ctx context.Context) (map[string]int64, error) {
	rows, err := s.conn.Query(ctx, "SELECT schemaname, relname FROM pg_stat_user_tables")
	if err != nil {
		return nil, err
	}
	var names []pgx.Identifier
	var schema, name string
	if _, err := pgx.ForEachRow(rows, []any{&schema, &name}, func() error {
		names = append(names, pgx.Identifier{schema, name})
		return nil
	}); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("the server has made no tables")
	}
	counts := map[string]int64{}
	for _, name := range names {
		var n int64
		if err := s.conn.QueryRow(ctx, "SELECT count(*) FROM "+name.Sanitize()).Scan(&n); err != nil {
			return nil, err
		}
		counts[strings.Join(name, ".")] = n
	}
	return counts, nil
}

// cpu returns the processor time of a process and, if so asked, of its children, those that
// have ended included; 0 where /proc does not tell.
func cpu(pid int, children bool) (sum time.Duration) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended meanwhile
		}
		// After the name, which may hold anything: state, parent, and from the 12th on
		// utime, stime and those of the children that were waited for (proc(5)).
		_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
		fields := strings.Fields(rest)
		if len(fields) < 15 {
			continue
		}
		own := filepath.Base(filepath.Dir(file)) == strconv.Itoa(pid)
		if !own && (!children || fields[1] != strconv.Itoa(pid)) {
			continue
		}
		times := fields[11:13]
		if own && children {
			times = fields[11:15]
		}
		for _, ticks := range times {
			n, _ := strconv.ParseInt(ticks, 10, 64)
			sum += time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100 on every Linux
		}
	}
	return sum
}
