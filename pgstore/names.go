package pgstore

import (
	"time"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
)

// Config says where the tables are. The zero value is complete. The same Config
// goes to [New], [Migrate], [Migrations] and [NewSweeper].
type Config struct {
	// Schema holds the tables. Every statement names it, so that search_path
	// plays no part. It consists of letters, digits, '_', '-' and '$', at most 63
	// bytes. Defaults to "public".
	Schema string
	// TablePrefix starts the name of each table and index, of the same characters
	// and at most 42 bytes. Defaults to "consent_", which makes consent_grants.
	TablePrefix string
	// TestClock replaces the database's clock in tests, for what is created,
	// consumed and swept. Leave it nil in production: clocks of several nodes
	// disagree. Defaults to nil, the database's statement_timestamp().
	TestClock func() time.Time
}

func (c Config) names() (schema.Names, error) { return schema.New(c.Schema, c.TablePrefix) }

// clock returns the parameter that replaces the database's clock, nil for NULL.
func (c Config) clock() any {
	if c.TestClock == nil {
		return nil
	}
	return c.TestClock()
}
