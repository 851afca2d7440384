package fositestore

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

// Config configures a [Store]. Only NewSession is mandatory.
type Config struct {
	// Tables says where the tables are, as for pgstore.New. Defaults to its defaults.
	Tables pgstore.Config
	// NewSession returns an empty session of the host's type, a pointer. What is stored
	// of a session is what encoding/json makes of it, so every field that matters has
	// to survive that. Mandatory.
	NewSession func() fosite.Session
	// NewClient returns an empty client of the type that the table of clients holds, a
	// pointer, stored like sessions. Defaults to a fosite.DefaultOpenIDConnectClient.
	NewClient func() fosite.Client
	// GetClient returns the client of that ID, or an error that wraps
	// fosite.ErrNotFound, where clients are not in the table. Inside of a transaction it
	// must not use another connection of the same pool. Defaults to the table.
	GetClient func(ctx context.Context, id string) (fosite.Client, error)
	// ClientCacheLifespan is for how long a client of the table is not read again, and
	// so how long a change on another node may go unnoticed; less than 0 is always.
	// Defaults to 5 seconds.
	ClientCacheLifespan time.Duration
	// Authenticate returns the subject with this name and password, for fosite's
	// resource owner password credentials grant, or an error that wraps
	// fosite.ErrNotFound. Defaults to refusing everybody.
	Authenticate func(ctx context.Context, name, secret string) (subject string, err error)
	// CodeSignature returns the signature of an authorization code as the strategy's
	// AuthorizeCodeSignature does: fosite hands whole codes to the storage of OpenID
	// Connect sessions, and signatures to the others. Defaults to what follows the last
	// dot, which is right for fosite's own strategies.
	CodeSignature func(ctx context.Context, code string) string
	// PushedRequestLifespan is how long a pushed authorization request is good for if its
	// session does not say so (fosite's sets it only where there is a session). Defaults to
	// 5 minutes.
	PushedRequestLifespan time.Duration
	// Transactions bounds transactions. Defaults to pgstore's defaults.
	Transactions pgstore.TransactionConfig
}

// Store is fosite's storage on Postgres: every storage interface of fosite v0.49 for
// the factories in its package compose. It is safe for concurrent use.
type Store struct {
	// Transactions has BeginTX, which fosite looks for.
	*pgstore.Transactions

	pool   *pgxpool.Pool
	config Config
	names  schema.Names
	sql    statements

	mu      sync.Mutex
	clients map[string]cachedClient

	exchanges exchanges
}

// New returns a store. It opens no connection, starts nothing and does not look at
// the schema; [Store.CheckSchema] does. An error means a nil pool, no NewSession, or a
// value in config that cannot be used.
func New(pool *pgxpool.Pool, config Config) (*Store, error) {
	if pool == nil {
		return nil, errors.New("fositestore: New needs a pool, not nil")
	}
	if config.NewSession == nil {
		return nil, errors.New("fositestore: Config.NewSession is missing: it returns an empty session of your type, such as openid.NewDefaultSession()")
	}
	for name, create := range map[string]func() any{
		"NewSession": func() any { return config.NewSession() }, "NewClient": func() any { return newClient(config) },
	} {
		made := create()
		if v := reflect.ValueOf(made); v.Kind() != reflect.Pointer || v.IsNil() {
			return nil, fmt.Errorf("fositestore: Config.%s returns a %T, expected a pointer that is not nil", name, made)
		}
		if create() == made { // one user's session would be another's
			return nil, fmt.Errorf("fositestore: Config.%s returns the same %T again: make a new one for each call", name, made)
		}
	}
	names, err := schema.New(config.Tables.Schema, config.Tables.TablePrefix)
	if err != nil {
		return nil, err
	}
	if config.ClientCacheLifespan == 0 {
		config.ClientCacheLifespan = 5 * time.Second
	}
	if config.PushedRequestLifespan == 0 {
		config.PushedRequestLifespan = 5 * time.Minute
	}
	if config.PushedRequestLifespan < 0 {
		return nil, fmt.Errorf("fositestore: Config.PushedRequestLifespan is %v, expected more than 0", config.PushedRequestLifespan)
	}
	if config.CodeSignature == nil {
		config.CodeSignature = func(_ context.Context, code string) string { return code[strings.LastIndexByte(code, '.')+1:] }
	}
	transactions, err := pgstore.NewTransactions(pool, config.Transactions)
	if err != nil {
		return nil, err
	}
	return &Store{
		Transactions: transactions,
		pool:         pool,
		config:       config,
		names:        names,
		sql:          newStatements(names),
		clients:      map[string]cachedClient{},
	}, nil
}

// Commit implements fosite's storage.Transactional, as pgstore.Transactions has it.
// Besides, the errors of a conflict between transactions (SQLSTATE 40001, 40P01) wrap
// fosite.ErrSerializationFailure.
func (s *Store) Commit(ctx context.Context) error {
	err := s.Transactions.Commit(ctx)
	if err != nil {
		s.exchanges.forget(ctx)
	}
	return conflict(err)
}

// Rollback implements fosite's storage.Transactional, as pgstore.Transactions has it.
func (s *Store) Rollback(ctx context.Context) error {
	s.exchanges.forget(ctx)
	return s.Transactions.Rollback(ctx)
}

// Authenticate implements fosite's handler/oauth2.ResourceOwnerPasswordCredentialsGrantStorage
// by Config.Authenticate.
func (s *Store) Authenticate(ctx context.Context, name, secret string) (subject string, err error) {
	if s.config.Authenticate == nil {
		return "", fmt.Errorf("fositestore: Config.Authenticate is not set: %w", fosite.ErrNotFound)
	}
	return s.config.Authenticate(ctx, name, secret)
}

// hash is the key under which something secret is stored.
type hash [sha256.Size]byte

func hashOf(secret string) hash { return sha256.Sum256([]byte(secret)) }

// attempt tells a statement that is repeated, after a lost connection, from another.
func newAttempt() (id pgtype.UUID) {
	_, _ = rand.Read(id.Bytes[:])
	id.Valid = true
	return id
}

// clock returns the parameter that replaces the database's clock, nil for NULL.
func (s *Store) clock() any {
	if s.config.Tables.TestClock == nil {
		return nil
	}
	return s.config.Tables.TestClock()
}

// lifespan returns for how many microseconds something that expires at that moment,
// by this process's clock, is still good. The database adds it to its own time.
func (s *Store) lifespan(expiresAt time.Time) int64 {
	now := time.Now
	if s.config.Tables.TestClock != nil {
		now = s.config.Tables.TestClock
	}
	return expiresAt.Sub(now()).Microseconds()
}

// read runs a query in the transaction of the context, once, or else on the pool, and
// again there while the connection was lost.
func (s *Store) read(ctx context.Context, try func(tx.DB) error) error {
	if db, unit := tx.In(ctx, s.pool); db != nil {
		// What was queued and has lost is not what the query is about.
		if err := s.settle(ctx, scope{db, unit}); errors.As(err, new(*fosite.RFC6749Error)) {
			return ownError("an earlier call in this transaction has failed")
		} else if err != nil {
			return err
		}
		return try(db)
	}
	_, err := tx.Repeat(ctx, s.pool, func(db tx.Batcher) error { return try(db) })
	return err
}

// scope is what a write runs in: a transaction of ours, or one of the host's.
type scope struct {
	db   tx.DB
	unit *tx.Unit // nil for the host's
}

// write runs do in the transaction of the context or else in one of its own. Where
// do only queues, that is one implicit transaction in one round trip, and is
// repeated while the connection was lost.
func (s *Store) write(ctx context.Context, what string, do func(context.Context, scope) error) error {
	if err := ctx.Err(); err != nil {
		return mapError(ctx, what, err)
	}
	if db, unit := tx.In(ctx, s.pool); db != nil {
		return mapError(ctx, what, do(ctx, scope{db, unit}))
	}
	inner, err := s.BeginTX(ctx)
	if err != nil {
		return mapError(ctx, what, err)
	}
	db, unit := tx.In(inner, s.pool)
	if err := do(inner, scope{db, unit}); err != nil {
		return mapError(ctx, what, errors.Join(err, s.Rollback(inner)))
	}
	if err := s.Commit(inner); err != nil {
		return fmt.Errorf("fositestore: %s: %w", what, err)
	}
	return nil
}

// queue has the statement run when something has to be sent, or, in a transaction of
// the host's, at once.
func (c scope) queue(ctx context.Context, statement tx.Statement) error {
	if c.unit != nil {
		return c.unit.Queue(statement)
	}
	args := statement.Args
	if statement.Late != nil {
		args = statement.Late()
	}
	sql, args := tx.Render(statement.SQL+statement.Repeat, args, nil)
	tag, err := c.db.Exec(ctx, sql, args...)
	if err == nil && statement.Check != nil {
		err = statement.Check(tag)
	}
	return err
}

// settle has everything sent that was queued on the condition that an attempt wins,
// so that what follows may take that for granted.
func (s *Store) settle(ctx context.Context, c scope) error {
	if c.unit == nil {
		return nil
	}
	for _, claim := range s.attempts(c).list {
		if !claim.sent {
			_, err := c.db.Exec(ctx, "SELECT")
			return err
		}
	}
	return nil
}

// oneRow is for statements that must have found their row.
func oneRow(or error) func(pgconn.CommandTag) error {
	return func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() != 1 {
			return or
		}
		return nil
	}
}

// mapError says what was done, and keeps values out.
func mapError(ctx context.Context, what string, err error) error {
	var ours *fosite.RFC6749Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours), errors.Is(err, errOwn):
		return fmt.Errorf("fositestore: %s: %w", what, err)
	}
	return conflict(tx.MapError(ctx, what, err))
}

// errOwn marks errors that hold no values although they are not fosite's.
var errOwn = errors.New("fositestore")

type ownError string

func (e ownError) Error() string        { return string(e) }
func (e ownError) Is(target error) bool { return target == errOwn }

// conflict adds fosite's name to a conflict between transactions.
func conflict(err error) error {
	var outermost interface{ SQLState() string } // not what led to an outcome that is unknown
	if errors.As(err, &outermost) && (outermost.SQLState() == "40001" || outermost.SQLState() == "40P01") {
		return fmt.Errorf("%w: %w", fosite.ErrSerializationFailure, err)
	}
	return err
}

func isNoRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
