// Package sweep deletes rows that have expired, in batches, beside others that do the same.
package sweep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

const (
	defaultInterval  = 10 * time.Minute
	defaultBatchSize = 1000
	maxBatchSize     = 100_000

	// A server that has fallen silent must not end the sweeping for good.
	batchTimeout = time.Minute
)

// meterName is the instrumentation scope of the metrics.
const meterName = "github.com/fosite-consent/fosite-consent/pgstore"

// Table is one that has a primary key of one column, and an index on expires_at.
type Table struct{ Name, Key string }

// Walk looks through a table that has no index by which what is to be deleted could be
// found: a bounded number of rows in each pass, which goes on where the last one stopped.
type Walk struct {
	// SQL looks at the rows after $4, or at the first ones if that is NULL: $2 rows at most. It
	// returns how many rows it deleted, and the last one that it looked at, or NULL if there
	// are none after that. $1 and $3 are the retention and the clock, as for a Table.
	SQL       string
	Retention time.Duration
}

// maxPages bounds how many statements of one walk a pass sends.
const maxPages = 100

// Config is what a sweeper needs. The zero values of Interval, BatchSize, Logger and
// MeterProvider stand for the defaults that pgstore.SweeperConfig documents.
type Config struct {
	DB            tx.DB
	Tables        []Table
	Walks         []Walk
	Retention     time.Duration // after the expiry
	Interval      time.Duration
	BatchSize     int
	Clock         func() any // what replaces the database's clock, nil for NULL
	Logger        *slog.Logger
	MeterProvider metric.MeterProvider
	What          string // is deleted, for logs and errors
	Metrics       string // what their names begin with
	Unit          string // of the rows
}

// Sweeper deletes what has expired.
type Sweeper struct {
	config     Config
	statements []string

	mu       sync.Mutex
	position []*string // of each walk

	deleted  metric.Int64Counter
	duration metric.Float64Histogram
	failures metric.Int64Counter
}

// sweepSQL deletes the oldest rows of all. They are locked first, and those that
// somebody else has locked left out: two sweepers share the work, and a sweeper
// never waits. The array is what makes the deletion go by the primary key whatever the
// planner knows about the table. It returns how many rows it deleted, and when the last of
// them had expired: where the next statement of the same pass goes on. While a transaction is open
// that began before the deletions, Postgres has to keep what was deleted, and a statement that began
// at the front would step over all of it again.
const sweepSQL = `
WITH deleted AS (
	DELETE FROM %[1]s
	WHERE %[2]s = ANY (ARRAY(
		SELECT %[2]s FROM %[1]s
		WHERE expires_at <= coalesce($3::timestamptz, statement_timestamp()) - $1::bigint * interval '1 microsecond'
		  AND expires_at >= coalesce($4::timestamptz, '-infinity')
		ORDER BY expires_at
		LIMIT $2::integer
		FOR UPDATE SKIP LOCKED
	))
	RETURNING expires_at
)
SELECT count(*), max(expires_at) FROM deleted`

// New returns a sweeper. It starts nothing.
func New(config Config) (*Sweeper, error) {
	if config.Interval == 0 {
		config.Interval = defaultInterval
	}
	if config.BatchSize == 0 {
		config.BatchSize = defaultBatchSize
	}
	switch {
	case config.Retention < 0:
		return nil, fmt.Errorf("SweeperConfig.Retention is %v, expected at least 0", config.Retention)
	case config.Interval < 0:
		return nil, fmt.Errorf("SweeperConfig.Interval is %v, expected more than 0", config.Interval)
	case config.BatchSize < 0 || config.BatchSize > maxBatchSize:
		return nil, fmt.Errorf("SweeperConfig.BatchSize is %d, expected 1 to %d", config.BatchSize, maxBatchSize)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.MeterProvider == nil {
		config.MeterProvider = otel.GetMeterProvider()
	}
	s := &Sweeper{config: config, position: make([]*string, len(config.Walks))}
	for _, table := range config.Tables {
		s.statements = append(s.statements, fmt.Sprintf(sweepSQL, table.Name, table.Key))
	}
	meter := config.MeterProvider.Meter(meterName)
	var errs [3]error
	s.deleted, errs[0] = meter.Int64Counter(config.Metrics+".deleted",
		metric.WithUnit(config.Unit), metric.WithDescription("Rows of "+config.What+" deleted after their retention."))
	s.duration, errs[1] = meter.Float64Histogram(config.Metrics+".duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of a pass over the expired "+config.What+"."))
	s.failures, errs[2] = meter.Int64Counter(config.Metrics+".failures",
		metric.WithUnit("{pass}"), metric.WithDescription("Passes that ended with an error."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("sweeper's metrics: %w", err)
	}
	return s, nil
}

// Run makes a pass at once and then one after each pause, until ctx ends.
func (s *Sweeper) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if deleted, err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.config.Logger.WarnContext(ctx, "sweeping "+s.config.What+" failed; the next pass tries again",
				slog.Any("error", err), slog.Int64("deleted", deleted))
		}
		timer.Reset(s.config.Interval/2 + rand.N(s.config.Interval)) //nolint:gosec // spreads passes, hides nothing
	}
}

// Sweep makes one pass, and returns how many rows it deleted, also with an error.
func (s *Sweeper) Sweep(ctx context.Context) (int64, error) {
	start := time.Now()
	var deleted int64
	var errs []error // of one table; it does not keep the others from being swept
	note := func(n int64, err error) (goOn bool) {
		deleted += n
		if err != nil {
			errs = append(errs, tx.WithoutValues(err))
		}
		return ctx.Err() == nil
	}
	for _, sql := range s.statements {
		if !note(s.sweep(ctx, sql)) {
			break
		}
	}
	for i := range s.config.Walks {
		if ctx.Err() != nil || !note(s.walk(ctx, i)) {
			break
		}
	}
	// The counts of a pass that ctx ended are still counts.
	record := context.WithoutCancel(ctx)
	s.deleted.Add(record, deleted)
	s.duration.Record(record, time.Since(start).Seconds())
	if len(errs) > 0 {
		if !errors.Is(ctx.Err(), context.Canceled) { // whoever cancels has not seen a failure
			s.failures.Add(record, 1)
		}
		return deleted, fmt.Errorf("pgstore: sweep %s: %w", s.config.What, errors.Join(errs...))
	}
	return deleted, nil
}

func (s *Sweeper) sweep(ctx context.Context, sql string) (total int64, err error) {
	var last *time.Time // the first statement begins at the front
	for {
		var deleted int64
		deleted, last, err = s.batch(ctx, sql, last)
		total += deleted
		if err != nil || deleted < int64(s.config.BatchSize) {
			return total, err
		}
	}
}

// walk goes on with a walk, until its end or for as long as a pass may. Whoever makes a pass at
// the same time looks at the same rows, at worst.
func (s *Sweeper) walk(ctx context.Context, i int) (total int64, err error) {
	s.mu.Lock()
	last := s.position[i]
	s.mu.Unlock()
	for range maxPages {
		var deleted int64
		deleted, last, err = s.page(ctx, s.config.Walks[i], last)
		if err != nil {
			return total, err
		}
		total += deleted
		s.mu.Lock()
		s.position[i] = last
		s.mu.Unlock()
		if last == nil {
			break
		}
	}
	return total, nil
}

func (s *Sweeper) page(ctx context.Context, walk Walk, after *string) (deleted int64, last *string, err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	err = s.config.DB.QueryRow(ctx, walk.SQL, walk.Retention.Microseconds(), s.config.BatchSize, s.config.Clock(), after).Scan(&deleted, &last)
	return deleted, last, err
}

func (s *Sweeper) batch(ctx context.Context, sql string, after *time.Time) (deleted int64, last *time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	err = s.config.DB.QueryRow(ctx, sql, s.config.Retention.Microseconds(), s.config.BatchSize, s.config.Clock(), after).Scan(&deleted, &last)
	return deleted, last, err
}
