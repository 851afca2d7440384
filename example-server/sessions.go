package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/alexedwards/scs/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	anonymousLifetime = time.Hour      // of a session before anybody has signed in
	loginLifetime     = 12 * time.Hour // from sign-in; then the password is asked for again
)

// newSessions returns a manager of browser sessions in a cookie of the given name. Only
// the hash of a session's token is stored.
func newSessions(store scs.Store, name string, https bool) *scs.SessionManager {
	m := scs.New()
	m.Store = store
	m.HashTokenInStore = true
	m.Codec = jsonCodec{}
	m.Lifetime = anonymousLifetime
	m.Cookie.Name = cookieName(name, https)
	m.Cookie.Secure = https
	m.Cookie.HttpOnly = true
	m.Cookie.SameSite = http.SameSiteLaxMode // Strict would be missing when a client sends the browser here
	m.Cookie.Path = "/"
	m.Cookie.Persist = false // until the browser is closed
	return m
}

// cookieName adds the prefix by which browsers refuse a cookie that another host of
// the domain, or plain http, has set. It needs https.
func cookieName(name string, https bool) string {
	if https {
		return "__Host-" + name
	}
	return name
}

// jsonCodec stores sessions, whose values are all strings, in a quarter of the time
// and two thirds of the bytes that scs's own codec takes.
type jsonCodec struct{}

type storedSession struct {
	Deadline time.Time         `json:"deadline"`
	Values   map[string]string `json:"values"`
}

func (jsonCodec) Encode(deadline time.Time, values map[string]any) ([]byte, error) {
	s := storedSession{deadline, make(map[string]string, len(values))}
	for name, value := range values {
		text, ok := value.(string)
		if !ok {
			return nil, fmt.Errorf("the session's %s is a %T, not a string", name, value)
		}
		s.Values[name] = text
	}
	return json.Marshal(s)
}

func (jsonCodec) Decode(text []byte) (time.Time, map[string]any, error) {
	var s storedSession
	if err := json.Unmarshal(text, &s); err != nil {
		return time.Time{}, nil, errors.New("a stored session cannot be decoded")
	}
	values := make(map[string]any, len(s.Values))
	for name, value := range s.Values {
		values[name] = value
	}
	return s.Deadline, values, nil
}

// sessionStore is scs's pgxstore with the request's context in it: that one waits
// for a silent database without an end, and starts a goroutine when it is made.
type sessionStore struct{ pool *pgxpool.Pool }

var _ scs.CtxStore = sessionStore{}

func (s sessionStore) FindCtx(ctx context.Context, token string) (data []byte, found bool, err error) {
	err = s.pool.QueryRow(ctx, "SELECT data FROM sessions WHERE token = $1 AND expiry > statement_timestamp() AND data <> ''", token).Scan(&data)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, false, nil
	}
	return data, err == nil, err
}

func (s sessionStore) CommitCtx(ctx context.Context, token string, data []byte, expiry time.Time) error {
	tag, err := s.pool.Exec(ctx, `INSERT INTO sessions (token, data, expiry) VALUES ($1, $2, $3)
		ON CONFLICT (token) DO UPDATE SET data = excluded.data, expiry = excluded.expiry WHERE sessions.data <> ''`, token, data, expiry)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("the session was ended meanwhile")
	}
	return err
}

func (s sessionStore) DeleteCtx(ctx context.Context, token string) error {
	_, err := s.pool.Exec(ctx, "UPDATE sessions SET data = '' WHERE token = $1", token)
	return err
}

// sweep deletes expired sessions.
func (s sessionStore) sweep(ctx context.Context) error {
	_, err := s.pool.Exec(ctx, "DELETE FROM sessions WHERE expiry < statement_timestamp()")
	return err
}

// sweepNowAndThen has what has expired deleted until the context ends.
func sweepNowAndThen(ctx context.Context, log *slog.Logger, what string, sweep func(context.Context) error) error {
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		passCtx, cancel := context.WithTimeout(ctx, time.Minute)
		if err := sweep(passCtx); err != nil && ctx.Err() == nil {
			log.Warn("what has expired could not be deleted", "what", what, "error", err)
		}
		cancel()
	}
}

var errNoContext = errors.New("the session store needs a context")

// Find, Commit and Delete are in scs.Store, but scs calls those with a context.
func (sessionStore) Find(string) ([]byte, bool, error)      { return nil, false, errNoContext }
func (sessionStore) Commit(string, []byte, time.Time) error { return errNoContext }
func (sessionStore) Delete(string) error                    { return errNoContext }

// withSession makes the session and the login available to the handler. A handler that
// changes the session calls saveSession before it writes a response: unlike
// scs's own middleware this lets it say no when the session cannot be kept.
func (s *server) withSession(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Cookie")
		var token string
		if cookie, err := r.Cookie(s.sessions.Cookie.Name); err == nil {
			token = cookie.Value
		}
		ctx, err := s.sessions.Load(r.Context(), token)
		if err != nil {
			s.unavailable(w, r, "session could not be read", err)
			return
		}
		next(w, r.WithContext(withLogin(ctx, s.readLogin(ctx))))
	})
}

// saveSession stores a changed session and sets its cookie.
func (s *server) saveSession(ctx context.Context, w http.ResponseWriter) error {
	switch s.sessions.Status(ctx) {
	case scs.Modified:
		token, expiry, err := s.sessions.Commit(ctx)
		if err != nil {
			return err
		}
		s.sessions.WriteSessionCookie(ctx, w, token, expiry)
	case scs.Destroyed:
		s.sessions.WriteSessionCookie(ctx, w, "", time.Time{})
	}
	return nil
}
