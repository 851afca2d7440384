package fositestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric"

	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/sweep"
)

const (
	defaultRetention        = time.Hour
	defaultConsentRetention = 30 * 24 * time.Hour
	minConsentRetention     = 24 * time.Hour
)

// SweeperConfig configures a [Sweeper]. The zero value is complete.
type SweeperConfig struct {
	// Tables says where the tables are, as for [New]. Defaults to New's defaults.
	Tables pgstore.Config
	// Retention is how long a row is kept after it has expired: for so long, a code or a
	// refresh token that is used again still has its family revoked. Defaults to 1 hour.
	Retention time.Duration
	// ConsentRetention is how long a consent that covers no request any more is kept, after
	// it was revoked, has expired or, if it was not remembered, after it was recorded; and
	// how long it is known of a response that it was issued under a consent. It has to be
	// longer than codes live, since what a code rests on must not be forgotten before. Tokens that are
	// kept in another storage are not seen: whoever keeps them there must not run a sweeper on these
	// tables, or a revocation would not find them any more. At least 24 hours; less is an error. Defaults to 30 days.
	ConsentRetention time.Duration
	// Interval is the mean time between two passes. Each pause is between half and
	// one and a half of it. Defaults to 10 minutes.
	Interval time.Duration
	// BatchSize is the most rows that one statement deletes, at most 100,000. Defaults
	// to 1,000.
	BatchSize int
	// Logger gets a warning for each pass that failed. Defaults to slog.Default().
	Logger *slog.Logger
	// MeterProvider makes the metrics: fositestore.sweep.deleted (rows),
	// fositestore.sweep.duration (seconds for each pass) and fositestore.sweep.failures
	// (passes). Defaults to otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
}

// Sweeper deletes codes, tokens, pushed requests, JWT IDs and nonces that have expired, also
// those that were used or revoked: until then a reuse is recognised by them. It also deletes
// consents that cover nothing any more and under which no access or refresh token is left that
// could be used, and which responses had been issued under a consent, but for the last one of each
// consent and those of which such a token is left. It looks through the consents bit by bit. Any number of
// sweepers, in any number of processes, may work on one database: none waits for another,
// or for a row that somebody has locked. Nothing depends on their being run but the
// size of the tables.
type Sweeper struct{ sweeper *sweep.Sweeper }

// NewSweeper returns a sweeper. It starts nothing: [Sweeper.Run] does. An error means
// a nil pool or a value in config that cannot be used.
func NewSweeper(pool *pgxpool.Pool, config SweeperConfig) (*Sweeper, error) {
	if pool == nil {
		return nil, errors.New("fositestore: NewSweeper needs a pool, not nil")
	}
	n, err := schema.New(config.Tables.Schema, config.Tables.TablePrefix)
	if err != nil {
		return nil, err
	}
	if config.Retention == 0 {
		config.Retention = defaultRetention
	}
	if config.ConsentRetention == 0 {
		config.ConsentRetention = defaultConsentRetention
	}
	if config.ConsentRetention < minConsentRetention {
		return nil, fmt.Errorf("fositestore: SweeperConfig.ConsentRetention is %v, expected at least %v: it would be forgotten what a code rests on", config.ConsentRetention, minConsentRetention)
	}
	var tables []sweep.Table
	for _, t := range []sweep.Table{
		{Name: "codes", Key: "signature_hash"}, {Name: "access_tokens", Key: "signature_hash"},
		{Name: "refresh_tokens", Key: "signature_hash"}, {Name: "pushed_requests", Key: "uri_hash"},
		{Name: "jtis", Key: "jti_hash"}, {Name: "nonces", Key: "nonce_hash"},
	} {
		tables = append(tables, sweep.Table{Name: n.Table(t.Name), Key: t.Key})
	}
	s, err := sweep.New(sweep.Config{
		DB:        pool,
		Tables:    tables,
		Walks:     []sweep.Walk{{SQL: newStatements(n).sweepConsents, Retention: config.ConsentRetention}},
		Retention: config.Retention,
		Interval:  config.Interval,
		BatchSize: config.BatchSize,
		Clock: func() any {
			if config.Tables.TestClock == nil {
				return nil
			}
			return config.Tables.TestClock()
		},
		Logger:        config.Logger,
		MeterProvider: config.MeterProvider,
		What:          "fosite's storage",
		Metrics:       "fositestore.sweep",
		Unit:          "{row}",
	})
	if err != nil {
		return nil, fmt.Errorf("fositestore: %w", err)
	}
	return &Sweeper{s}, nil
}

// Run makes a pass at once and then one after each pause, until ctx ends; it
// returns ctx's error then, and nothing else. A pass that fails is logged and
// counted, and the next one tries again.
func (s *Sweeper) Run(ctx context.Context) error { return s.sweeper.Run(ctx) }

// Sweep makes one pass: it deletes in batches, each a transaction of its own, the oldest first, until
// nothing is left that is past its retention, but for what somebody else had locked when it came there. It
// returns how many rows it deleted, also with an error.
func (s *Sweeper) Sweep(ctx context.Context) (int64, error) { return s.sweeper.Sweep(ctx) }
