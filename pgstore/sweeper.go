package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// minRetention is what [fositeconsent.GrantStorage] promises: what was created
// stays recognisable for that long.
const minRetention = 2 * fositeconsent.MaxPromptLifespan

const (
	defaultSweepInterval = 10 * time.Minute
	defaultBatchSize     = 1000
	maxBatchSize         = 100_000

	// A server that has fallen silent must not end the sweeping for good.
	batchTimeout = time.Minute
)

// meterName is the instrumentation scope of the sweeper's metrics.
const meterName = "github.com/fosite-consent/fosite-consent/pgstore"

// SweeperConfig configures a [Sweeper]. The zero value is complete.
type SweeperConfig struct {
	// Tables says where the grants are, as for [New]. Defaults to New's defaults.
	Tables Config
	// Retention is how long a grant is kept after it has expired, so that a replay is
	// recognised as one. At least 24 hours (2 × fositeconsent.MaxPromptLifespan);
	// less is an error. Defaults to 24 hours.
	Retention time.Duration
	// Interval is the mean time between two passes. Each pause is between half and
	// one and a half of it, so that nodes started together do not sweep together.
	// Defaults to 10 minutes.
	Interval time.Duration
	// BatchSize is the most rows that one statement deletes, at most 100,000. Defaults
	// to 1,000.
	BatchSize int
	// Logger gets a warning for each pass that failed. Defaults to slog.Default().
	Logger *slog.Logger
	// MeterProvider makes the metrics: fositeconsent.sweep.deleted (rows),
	// fositeconsent.sweep.duration (seconds for each pass) and
	// fositeconsent.sweep.failures (passes). Defaults to otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
}

// Sweeper deletes grants that can no longer affect any decision. Any number of
// them, in any number of processes, may work on one database: none waits for
// another, or for a row that somebody has locked. Nothing depends on their being run
// but the size of the table. A Sweeper is as safe for concurrent use as its [DB].
type Sweeper struct {
	db     DB
	config SweeperConfig
	sql    string

	deleted  metric.Int64Counter
	duration metric.Float64Histogram
	failures metric.Int64Counter
}

// sweepSQL deletes the oldest rows of all. They are locked first, and those that
// somebody else has locked left out: two sweepers share the work, and a sweeper
// never waits. The array is what makes the deletion go by the primary key whatever the
// planner knows about the table.
const sweepSQL = `
DELETE FROM %[1]s
WHERE id = ANY (ARRAY(
	SELECT id FROM %[1]s
	WHERE expires_at <= coalesce($3::timestamptz, statement_timestamp()) - $1::bigint * interval '1 microsecond'
	ORDER BY expires_at
	LIMIT $2::integer
	FOR UPDATE SKIP LOCKED
))`

// NewSweeper returns a sweeper on db. It starts nothing: [Sweeper.Run] does. An
// error means a nil db or a value in config that cannot be used.
func NewSweeper(db DB, config SweeperConfig) (*Sweeper, error) {
	if isNil(db) {
		return nil, errors.New("pgstore: NewSweeper needs a pool, a connection or a transaction, not nil")
	}
	n, err := config.Tables.names()
	if err != nil {
		return nil, err
	}
	if config.Retention == 0 {
		config.Retention = minRetention
	}
	if config.Interval == 0 {
		config.Interval = defaultSweepInterval
	}
	if config.BatchSize == 0 {
		config.BatchSize = defaultBatchSize
	}
	switch {
	case config.Retention < minRetention:
		return nil, fmt.Errorf("pgstore: SweeperConfig.Retention is %v, expected at least %v: a replay would no longer be recognised", config.Retention, minRetention)
	case config.Interval < 0:
		return nil, fmt.Errorf("pgstore: SweeperConfig.Interval is %v, expected more than 0", config.Interval)
	case config.BatchSize < 0 || config.BatchSize > maxBatchSize:
		return nil, fmt.Errorf("pgstore: SweeperConfig.BatchSize is %d, expected 1 to %d", config.BatchSize, maxBatchSize)
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.MeterProvider == nil {
		config.MeterProvider = otel.GetMeterProvider()
	}
	s := &Sweeper{db: db, config: config, sql: fmt.Sprintf(sweepSQL, n.grants())}
	meter := config.MeterProvider.Meter(meterName)
	var errs [3]error
	s.deleted, errs[0] = meter.Int64Counter("fositeconsent.sweep.deleted",
		metric.WithUnit("{grant}"), metric.WithDescription("Consent grants deleted after their retention."))
	s.duration, errs[1] = meter.Float64Histogram("fositeconsent.sweep.duration",
		metric.WithUnit("s"), metric.WithDescription("Duration of a pass over the expired consent grants."))
	s.failures, errs[2] = meter.Int64Counter("fositeconsent.sweep.failures",
		metric.WithUnit("{pass}"), metric.WithDescription("Passes that ended with an error."))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("pgstore: sweeper's metrics: %w", err)
	}
	return s, nil
}

// Run makes a pass at once and then one after each pause, until ctx ends; it
// returns ctx's error then, and nothing else. A pass that fails is logged and
// counted, and the next one tries again.
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
			s.config.Logger.WarnContext(ctx, "sweeping consent grants failed; the next pass tries again",
				slog.Any("error", err), slog.Int64("deleted", deleted))
		}
		timer.Reset(s.config.Interval/2 + rand.N(s.config.Interval)) //nolint:gosec // spreads passes, hides nothing
	}
}

// Sweep makes one pass: it deletes in batches until nothing is left that is past
// its retention and that nobody else has locked. It returns how many rows it
// deleted, also with an error; each batch is committed for itself, unless the DB
// is a transaction.
func (s *Sweeper) Sweep(ctx context.Context) (int64, error) {
	start := time.Now()
	deleted, err := s.sweep(ctx)
	// The counts of a pass that ctx ended are still counts.
	record := context.WithoutCancel(ctx)
	s.deleted.Add(record, deleted)
	s.duration.Record(record, time.Since(start).Seconds())
	if err != nil {
		if !errors.Is(ctx.Err(), context.Canceled) { // whoever cancels has not seen a failure
			s.failures.Add(record, 1)
		}
		return deleted, fmt.Errorf("pgstore: sweep consent grants: %w", withoutValues(err))
	}
	return deleted, nil
}

func (s *Sweeper) sweep(ctx context.Context) (total int64, err error) {
	for {
		deleted, err := s.batch(ctx)
		total += deleted
		if err != nil || deleted < int64(s.config.BatchSize) {
			return total, err
		}
	}
}

func (s *Sweeper) batch(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	tag, err := s.db.Exec(ctx, s.sql, s.config.Retention.Microseconds(), s.config.BatchSize, s.config.Tables.clock())
	return tag.RowsAffected(), err
}
