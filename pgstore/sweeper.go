package pgstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/sweep"
)

// minRetention is what [fositeconsent.GrantStorage] promises: what was created
// stays recognisable for that long.
const minRetention = 2 * fositeconsent.MaxPromptLifespan

// minDecisionRetention keeps a mistaken unit from emptying the log.
const minDecisionRetention = 24 * time.Hour

// SweeperConfig configures a [Sweeper]. The zero value is complete.
type SweeperConfig struct {
	// Tables says where the grants are, as for [New]. Defaults to New's defaults.
	Tables Config
	// Retention is how long a grant, and a consent request, is kept after it has expired, so that a replay is
	// recognised as one. At least 24 hours (2 × fositeconsent.MaxPromptLifespan);
	// less is an error. Defaults to 24 hours.
	Retention time.Duration
	// DecisionRetention is how long a record of the log of decisions is kept. At least 24 hours; less, but
	// for 0, is an error. Defaults to 0: for ever.
	DecisionRetention time.Duration
	// Interval is the mean time between two passes. Each pause is between half and
	// one and a half of it, so that nodes started together do not sweep together.
	// Defaults to 10 minutes.
	Interval time.Duration
	// BatchSize is the most rows that one statement deletes, at most 100,000. Defaults
	// to 1,000.
	BatchSize int
	// Logger gets a warning for each pass that failed. Defaults to slog.Default().
	Logger *slog.Logger
	// MeterProvider makes the metrics: fositeconsent.sweep.deleted (rows of both),
	// fositeconsent.sweep.duration (seconds for each pass) and
	// fositeconsent.sweep.failures (passes). Defaults to otel.GetMeterProvider().
	MeterProvider metric.MeterProvider
}

// Sweeper deletes grants, and consent requests of [consentapi.RequestStorage], that can no longer affect any decision, and
// records of decisions that are past their retention. Any number of
// them, in any number of processes, may work on one database: none waits for
// another, or for a row that somebody has locked. Nothing depends on their being run
// but the size of the tables. A Sweeper is as safe for concurrent use as its [DB].
type Sweeper struct{ sweeper *sweep.Sweeper }

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
	if config.Retention < minRetention {
		return nil, fmt.Errorf("pgstore: SweeperConfig.Retention is %v, expected at least %v: a replay would no longer be recognised", config.Retention, minRetention)
	}
	if config.DecisionRetention != 0 && config.DecisionRetention < minDecisionRetention {
		return nil, fmt.Errorf("pgstore: SweeperConfig.DecisionRetention is %v, expected at least %v, or 0 for ever", config.DecisionRetention, minDecisionRetention)
	}
	var walks []sweep.Walk
	if config.DecisionRetention != 0 {
		walks = append(walks, sweep.Walk{
			SQL: strings.ReplaceAll(sweepDecisionsSQL, "{decisions}", n.Table("decisions")), Retention: config.DecisionRetention,
		})
	}
	s, err := sweep.New(sweep.Config{
		DB:            db,
		Tables:        []sweep.Table{{Name: n.Table("grants"), Key: "id"}, {Name: n.Table("requests"), Key: "id"}},
		Walks:         walks,
		Retention:     config.Retention,
		Interval:      config.Interval,
		BatchSize:     config.BatchSize,
		Clock:         config.Tables.clock,
		Logger:        config.Logger,
		MeterProvider: config.MeterProvider,
		What:          "consent grants",
		Metrics:       "fositeconsent.sweep",
		Unit:          "{grant}",
	})
	if err != nil {
		return nil, fmt.Errorf("pgstore: %w", err)
	}
	return &Sweeper{s}, nil
}

// Run makes a pass at once and then one after each pause, until ctx ends; it
// returns ctx's error then, and nothing else. A pass that fails is logged and
// counted, and the next one tries again.
func (s *Sweeper) Run(ctx context.Context) error { return s.sweeper.Run(ctx) }

// Sweep makes one pass: it deletes in batches, the oldest first, until nothing is left that is past
// its retention, but for what somebody else had locked when it came there. It returns how many rows it
// deleted, also with an error; each batch is committed for itself, unless the DB
// is a transaction.
func (s *Sweeper) Sweep(ctx context.Context) (int64, error) { return s.sweeper.Sweep(ctx) }
