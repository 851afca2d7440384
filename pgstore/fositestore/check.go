package fositestore

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	"github.com/fosite-consent/fosite-consent/pgstore"
	"github.com/fosite-consent/fosite-consent/pgstore/internal/schema"
)

// needed are the privileges that the store's statements take.
func needed() (all []schema.Privilege) {
	for table, columns := range map[string][]string{
		"codes":           {"used_at", "attempt", "pkce", "openid"},
		"access_tokens":   {"ended_at"},
		"refresh_tokens":  {"ended_at", "attempt"},
		"pushed_requests": {"used_at", "attempt"},
		"jtis":            {"expires_at", "attempt"},
		"nonces":          {},
	} {
		all = append(all, schema.Privilege{Table: table, Name: "SELECT"}, schema.Privilege{Table: table, Name: "INSERT"})
		for _, column := range columns {
			all = append(all, schema.Privilege{Table: table, Name: "UPDATE", Column: column})
		}
	}
	for _, table := range []string{"clients", "issuer_keys", "consents", "responses"} {
		all = append(all, schema.Privilege{Table: table, Name: "SELECT"})
	}
	return append(all, schema.Privilege{Table: "consents", Name: "UPDATE", Column: "revoked_at"}) // to lock rows
}

// CheckSchema is for the host's start-up and readiness: an error of kind
// pgstore.ErrSchema names each migration, table or privilege that the store lacks. Any
// other error means that it could not be found out. It changes nothing.
func (s *Store) CheckSchema(ctx context.Context) error {
	files, err := pgstore.Migrations(s.config.Tables)
	if err != nil {
		return err
	}
	names, err := fs.Glob(files, "*.sql") // sorted
	if err != nil {
		return err
	}
	for i := range names {
		names[i] = strings.TrimSuffix(names[i], ".sql")
	}
	missing, err := schema.Missing(ctx, s.pool, s.names, names, needed())
	if err != nil {
		return fmt.Errorf("fositestore: check schema %q: %w", s.names.Schema, err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %s", pgstore.ErrSchema, strings.Join(missing, "; "))
	}
	return nil
}
