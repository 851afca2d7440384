// Package schema is where the tables are, and whether they are what is needed.
package schema

import (
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// What a configuration that names nothing stands for.
const (
	DefaultSchema = "public"
	DefaultPrefix = "consent_"
)

// Postgres cuts longer names off without an error, so that two of ours could
// become one.
const maxIdentifier = 63

// longestName is the longest that follows the prefix in any migration.
const longestName = "grants_expires_at_idx"

// Names are the schema and the prefix as they are in the catalogs.
type Names struct{ Schema, Prefix string }

// New checks what was configured, and sets the defaults.
func New(schema, prefix string) (Names, error) {
	n := Names{Schema: schema, Prefix: prefix}
	if n.Schema == "" {
		n.Schema = DefaultSchema
	}
	if n.Prefix == "" {
		n.Prefix = DefaultPrefix
	}
	if err := checkIdentifier(n.Schema, maxIdentifier); err != nil {
		return Names{}, fmt.Errorf("pgstore: Config.Schema: %w", err)
	}
	if err := checkIdentifier(n.Prefix, maxIdentifier-len(longestName)); err != nil {
		return Names{}, fmt.Errorf("pgstore: Config.TablePrefix: %w", err)
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

// Table returns a table for use in a statement.
func (n Names) Table(name string) string { return pgx.Identifier{n.Schema, n.Prefix + name}.Sanitize() }
