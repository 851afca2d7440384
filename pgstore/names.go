package pgstore

import (
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

const (
	defaultSchema = "public"
	defaultPrefix = "consent_"
)

// Postgres cuts longer names off without an error, so that two of ours could
// become one.
const maxIdentifier = 63

// longestName is the longest that follows the prefix in any migration.
const longestName = "grants_expires_at_idx"

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

// names are a Config's, checked and defaulted.
type names struct {
	schema, prefix string // as they are in the catalogs
}

func (c Config) names() (names, error) {
	n := names{schema: c.Schema, prefix: c.TablePrefix}
	if n.schema == "" {
		n.schema = defaultSchema
	}
	if n.prefix == "" {
		n.prefix = defaultPrefix
	}
	if err := checkIdentifier(n.schema, maxIdentifier); err != nil {
		return names{}, fmt.Errorf("pgstore: Config.Schema: %w", err)
	}
	if err := checkIdentifier(n.prefix, maxIdentifier-len(longestName)); err != nil {
		return names{}, fmt.Errorf("pgstore: Config.TablePrefix: %w", err)
	}
	return n, nil
}

// checkIdentifier allows what needs no thought in any tool that reads the
// rendered migrations. Quoting makes every name safe in SQL; a quote or a
// semicolon inside one would still break a tool that splits the text.
func checkIdentifier(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%q has %d bytes, expected at most %d", s, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return errors.New("not valid UTF-8")
	}
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '-' && r != '$' {
			return fmt.Errorf("%q has the character %q, expected letters, digits, '_', '-' and '$'", s, r)
		}
	}
	return nil
}

func (n names) grants() string { return pgx.Identifier{n.schema, n.prefix + "grants"}.Sanitize() }
func (n names) migrations() string {
	return pgx.Identifier{n.schema, n.prefix + "migrations"}.Sanitize()
}

// clock returns the parameter that replaces the database's clock, nil for NULL.
func (c Config) clock() any {
	if c.TestClock == nil {
		return nil
	}
	return c.TestClock()
}
