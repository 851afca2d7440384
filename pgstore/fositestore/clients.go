package fositestore

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/pgstore/internal/tx"
)

func newClient(config Config) fosite.Client {
	if config.NewClient == nil {
		return &fosite.DefaultOpenIDConnectClient{DefaultClient: &fosite.DefaultClient{}}
	}
	return config.NewClient()
}

// cachedClient is kept as text, so that nobody shares an object with another request.
type cachedClient struct {
	text  string
	until time.Time
}

// maxCachedClients bounds the memory of a server with very many clients.
const maxCachedClients = 10_000

// ErrClientExists is returned by [Store.CreateClient] for an ID that is taken.
const ErrClientExists = ownError("fositestore: there is a client of that ID already")

// hostError is what Config.GetClient said, which is the host's to show.
type hostError struct{ error }

func (e hostError) Unwrap() error        { return e.error }
func (e hostError) Is(target error) bool { return target == errOwn }

// GetClient implements fosite.ClientManager: by Config.GetClient, or else from the
// table. An unknown client is fosite.ErrNotFound.
func (s *Store) GetClient(ctx context.Context, id string) (fosite.Client, error) {
	const what = "get client"
	if s.config.GetClient != nil {
		client, err := s.config.GetClient(ctx, id)
		switch {
		case err != nil:
			return nil, mapError(ctx, what, hostError{err})
		case client == nil:
			return nil, mapError(ctx, what, ownError("Config.GetClient returned neither a client nor an error"))
		}
		return client, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, mapError(ctx, what, err)
	}
	if !storable(id) {
		return nil, mapError(ctx, what, fosite.ErrNotFound)
	}
	s.mu.Lock()
	cached, ok := s.clients[id]
	s.mu.Unlock()
	if !ok || !time.Now().Before(cached.until) {
		read := time.Now()
		err := s.read(ctx, func(db tx.DB) error { return db.QueryRow(ctx, s.sql.readClient, id).Scan(&cached.text) })
		if isNoRows(err) {
			err = fosite.ErrNotFound
		}
		if err != nil {
			return nil, mapError(ctx, what, err)
		}
		// What a transaction sees may never be committed.
		if db, _ := tx.In(ctx, s.pool); db == nil && s.config.ClientCacheLifespan > 0 {
			cached.until = read.Add(s.config.ClientCacheLifespan)
			s.mu.Lock()
			if len(s.clients) >= maxCachedClients {
				clear(s.clients)
			}
			s.clients[id] = cached
			s.mu.Unlock()
		}
	}
	client := newClient(s.config)
	if err := json.Unmarshal([]byte(cached.text), client); err != nil {
		return nil, mapError(ctx, what, ownError("a stored client cannot be decoded into what Config.NewClient returns"))
	}
	if client.GetID() != id { // who authenticates as one would be the other
		return nil, mapError(ctx, what, ownError("a stored client has another ID than its row"))
	}
	return client, nil
}

// CreateClient stores a client in the table, or returns [ErrClientExists]. What is
// stored is what encoding/json makes of it, so its secrets have to be hashed already.
func (s *Store) CreateClient(ctx context.Context, client fosite.Client) error {
	return s.writeClient(ctx, "create client", s.sql.createClient, client, ErrClientExists)
}

// UpdateClient replaces the client of that ID, or returns fosite.ErrNotFound. Other
// nodes may go on with the one before for Config.ClientCacheLifespan.
func (s *Store) UpdateClient(ctx context.Context, client fosite.Client) error {
	return s.writeClient(ctx, "update client", s.sql.updateClient, client, fosite.ErrNotFound)
}

// DeleteClient deletes a client, or returns fosite.ErrNotFound. Its codes and tokens
// can then not be used any more; on other nodes after Config.ClientCacheLifespan.
func (s *Store) DeleteClient(ctx context.Context, id string) error {
	return s.changeClient(ctx, "delete client", id, fosite.ErrNotFound, s.sql.deleteClient, id)
}

func (s *Store) writeClient(ctx context.Context, what, sql string, client fosite.Client, none error) error {
	if client == nil || client.GetID() == "" || !storable(client.GetID()) {
		return mapError(ctx, what, ownError("the client has no ID that can be stored"))
	}
	text, err := json.Marshal(client)
	if err != nil {
		return mapError(ctx, what, ownError("the client cannot be encoded as JSON"))
	}
	return s.changeClient(ctx, what, client.GetID(), none, sql, client.GetID(), string(text))
}

func (s *Store) changeClient(ctx context.Context, what, id string, none error, sql string, args ...any) error {
	var tag pgconn.CommandTag
	// No repetition: a second try could not tell its first one from somebody else's.
	db, _ := tx.In(ctx, s.pool)
	if db == nil {
		db = s.pool
	}
	tag, err := db.Exec(ctx, sql, args...)
	s.mu.Lock()
	delete(s.clients, id)
	s.mu.Unlock()
	if err != nil {
		return mapError(ctx, what, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("fositestore: %s: %w", what, none)
	}
	return nil
}
