package loginapi

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Schema makes the table. Run it where no other process does at the same time.
const Schema = `
CREATE TABLE IF NOT EXISTS example_server_login_requests (
    id         text        PRIMARY KEY,
    request    json        NOT NULL, -- not jsonb, which cannot hold every text: a NUL in login_hint, or half a surrogate
    answer     text,       -- JSON; NULL until the application has answered; the first answer stands
    used_at    timestamptz, -- when the browser was back with it
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX IF NOT EXISTS example_server_login_requests_expires_at_idx ON example_server_login_requests (expires_at);`

// CheckTable is a statement that fails unless the table is there.
const CheckTable = "SELECT id, request, answer, used_at, expires_at FROM example_server_login_requests LIMIT 0"

// retention is how long after its end a request is kept, so that whoever comes late is told.
const retention = time.Hour

func (a *API) create(ctx context.Context, id string, request *Request) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	_, err = a.pool.Exec(ctx, `INSERT INTO example_server_login_requests (id, request, expires_at)
		VALUES ($1, $2, statement_timestamp() + $3 * interval '1 second')`, id, text, a.config.Lifespan.Seconds())
	return err
}

// The states of a request.
type state string

const (
	statePending  state = "pending"
	stateAnswered state = "answered"
	stateUsed     state = "used"
	stateExpired  state = "expired"
)

// stateColumn is the state of a row, as it is when the statement begins.
const stateColumn = `CASE WHEN used_at IS NOT NULL THEN 'used' WHEN expires_at <= statement_timestamp() THEN 'expired'
	WHEN answer IS NOT NULL THEN 'answered' ELSE 'pending' END`

// find returns the request, nil if there is none.
func (a *API) find(ctx context.Context, id string) (request *Request, s state, err error) {
	var text []byte
	err = a.pool.QueryRow(ctx, "SELECT request, "+stateColumn+" FROM example_server_login_requests WHERE id = $1", id).Scan(&text, &s)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, "", nil
	}
	if err == nil {
		err = json.Unmarshal(text, &request)
	}
	return request, s, err
}

// answer stores the answer, unless there is one. It reports whether the answer that there is now is this one.
func (a *API) answer(ctx context.Context, id string, answer *Answer) (same bool, s state, err error) {
	text, err := json.Marshal(answer)
	if err != nil {
		return false, "", err
	}
	tag, err := a.pool.Exec(ctx, `UPDATE example_server_login_requests SET answer = $2
		WHERE id = $1 AND answer IS NULL AND used_at IS NULL AND expires_at > statement_timestamp()`, id, text)
	if err != nil {
		return false, "", err
	}
	if tag.RowsAffected() == 1 {
		return true, stateAnswered, nil
	}
	err = a.pool.QueryRow(ctx, "SELECT coalesce(answer = $2, false), "+stateColumn+" FROM example_server_login_requests WHERE id = $1", id, text).Scan(&same, &s)
	return same, s, err
}

// use returns the answer, to one caller. Both are nil if there is no request that was answered, and the answer is if it was used or has come too late.
func (a *API) use(ctx context.Context, id string) (request *Request, answer *Answer, err error) {
	var requestText, answerText []byte
	err = a.pool.QueryRow(ctx, `UPDATE example_server_login_requests SET used_at = statement_timestamp()
		WHERE id = $1 AND answer IS NOT NULL AND used_at IS NULL AND expires_at > statement_timestamp() RETURNING request, answer`, id).Scan(&requestText, &answerText)
	if errors.Is(err, pgx.ErrNoRows) {
		err = a.pool.QueryRow(ctx, "SELECT request FROM example_server_login_requests WHERE id = $1 AND answer IS NOT NULL", id).Scan(&requestText)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, nil, nil
		}
	}
	if err == nil {
		err = json.Unmarshal(requestText, &request)
	}
	if err == nil && answerText != nil {
		err = json.Unmarshal(answerText, &answer)
	}
	if err != nil {
		return nil, nil, err
	}
	return request, answer, nil
}

// Sweep deletes what has ended.
func (a *API) Sweep(ctx context.Context) error {
	_, err := a.pool.Exec(ctx, "DELETE FROM example_server_login_requests WHERE expires_at < statement_timestamp() - $1 * interval '1 second'", retention.Seconds())
	return err
}
