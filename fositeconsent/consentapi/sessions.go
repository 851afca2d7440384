package consentapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The sizes of a page, as Hydra has them.
const (
	defaultPageSize = 250
	maxPageSize     = 500
)

// sessionJSON is Hydra's object for a consent that was given.
type sessionJSON struct {
	ConsentRequestID string      `json:"consent_request_id"`
	ConsentRequest   requestJSON `json:"consent_request"`
	GrantScope       []string    `json:"grant_scope"`
	GrantAudience    []string    `json:"grant_access_token_audience"`
	Remember         bool        `json:"remember"`
	RememberFor      int64       `json:"remember_for"` // seconds, 0 is until it is revoked
	HandledAt        time.Time   `json:"handled_at"`
	Session          SessionData `json:"session"`
	Context          any         `json:"context,omitempty"`
}

// page is which consents are asked for.
type page struct {
	selection fositeconsent.Selection
	size      int
	before    fositeconsent.ID
}

// parsePage reads the parameters of a list. A size that is more than there may be is the most that there may be.
func parsePage(r *http.Request) (p page, err error) {
	texts := map[string]string{}
	for _, name := range []string{"subject", "login_session_id", "page_size", "page_token"} {
		if texts[name], err = single(r, name); err != nil {
			return page{}, err
		}
	}
	p.selection = fositeconsent.Selection{Subject: texts["subject"], LoginSession: texts["login_session_id"]}
	if p.selection.Subject == "" {
		return page{}, badRequestf("the parameter subject is missing")
	}
	p.size = defaultPageSize
	if text := texts["page_size"]; text != "" {
		size, err := strconv.ParseUint(text, 10, 31)
		if err != nil || size == 0 {
			return page{}, badRequestf("page_size is no whole number from 1 to %d", maxPageSize)
		}
		p.size = int(min(size, maxPageSize))
	}
	// The generated clients document "1" as the first page.
	if text := texts["page_token"]; text != "" && text != "1" {
		if p.before, err = fositeconsent.ParseID(text); err != nil || p.before.IsZero() {
			return page{}, badRequestf("page_token is not from the Link header of another page")
		}
	}
	return p, nil
}

func (a *API) listSessions(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	p, err := parsePage(r)
	if err != nil {
		return err
	}
	consents, err := a.gate.ListConsents(ctx, p.selection, p.before, p.size+1) // one more, to know whether there is a next page
	if err != nil {
		return err
	}
	link := pageLink(r.URL.Query(), p.size, fositeconsent.ID{}, "first")
	if len(consents) > p.size {
		consents = consents[:p.size]
		link += "," + pageLink(r.URL.Query(), p.size, consents[p.size-1].ID, "next")
	}
	sessions := make([]sessionJSON, len(consents))
	clients := map[string]*Client{}
	for i := range consents {
		if sessions[i], err = a.session(ctx, &consents[i], clients); err != nil {
			return err
		}
	}
	w.Header().Set("Link", link)
	writeJSON(w, http.StatusOK, sessions)
	return nil
}

// pageLink returns one link to a page (RFC 8288), relative to the API's address.
func pageLink(query url.Values, size int, before fositeconsent.ID, rel string) string {
	query.Set("page_size", strconv.Itoa(size))
	query.Del("page_token")
	if !before.IsZero() {
		query.Set("page_token", before.String())
	}
	return fmt.Sprintf(`<%s?%s>; rel="%s"`, pathSessions, query.Encode(), rel)
}

// session returns Hydra's object for a consent. The request that it was given for is gone: what is told of it is what the consent has.
func (a *API) session(ctx context.Context, c *fositeconsent.Consent, clients map[string]*Client) (sessionJSON, error) {
	client, ok := clients[c.ClientID]
	if !ok {
		var err error
		if client, err = a.clientOf(ctx, c.ClientID); err != nil {
			return sessionJSON{}, err
		}
		clients[c.ClientID] = client
	}
	s := sessionJSON{
		ConsentRequestID: c.ID.String(),
		ConsentRequest: requestJSON{
			Challenge: c.ID.String(), ConsentRequestID: c.ID.String(), // the clients want one; the true one is known to nobody
			Subject: c.Subject, Client: client, LoginSessionID: c.LoginSession,
			RequestedScope: notNil(c.Scopes), RequestedAud: notNil(c.Audience), AMR: []string{},
		},
		GrantScope: notNil(c.Scopes), GrantAudience: notNil(c.Audience), Remember: c.Remembered, HandledAt: c.DecidedAt,
	}
	if c.Remembered && !c.ExpiresAt.IsZero() {
		s.RememberFor = max(1, int64(c.ExpiresAt.Sub(c.DecidedAt)/time.Second)) // 0 would be for ever
	}
	// Data of the host's own pages is none of the application's.
	if d, err := parseData(c.Data); err == nil {
		s.Session, s.Context = d.Session, d.Context
	}
	return s, nil
}

func (a *API) clientOf(ctx context.Context, id string) (*Client, error) {
	unknown := &Client{ClientID: id}
	if a.config.GetClient == nil {
		return unknown, nil
	}
	client, err := a.config.GetClient(ctx, id)
	switch {
	case errors.Is(err, fosite.ErrNotFound), err == nil && isNil(client):
		return unknown, nil
	case err != nil:
		return nil, fmt.Errorf("consentapi: Config.GetClient: %w", err)
	}
	return a.describeClient(ctx, client)
}

// parseRevocation reads which consents are to be revoked. It has to be said whether one client is meant, or all.
func parseRevocation(r *http.Request) (s fositeconsent.Selection, err error) {
	texts := map[string]string{}
	for _, name := range []string{"subject", "client", "login_session_id", "consent_request_id"} {
		if texts[name], err = single(r, name); err != nil {
			return s, err
		}
		if r.URL.Query().Has(name) && texts[name] == "" { // a variable of the caller's that was not set
			return s, badRequestf("the parameter %s is empty", name)
		}
	}
	all, err := flag(r, "all")
	if err != nil {
		return s, err
	}
	s = fositeconsent.Selection{Subject: texts["subject"], ClientID: texts["client"], LoginSession: texts["login_session_id"]}
	if text := texts["consent_request_id"]; text != "" {
		if s.ConsentID, err = fositeconsent.ParseID(text); err != nil || s.ConsentID.IsZero() {
			return s, badRequestf("consent_request_id is not one of this authorization server's")
		}
	}
	switch one := s.ClientID != "" || !s.ConsentID.IsZero(); {
	case s.Subject == "":
		return s, badRequestf("the parameter subject is missing")
	case one && all:
		return s, badRequestf("all is set, and so is client or consent_request_id: say which is meant")
	case !one && !all:
		return s, badRequestf("neither client nor consent_request_id is set: if all clients are meant, set all=true")
	}
	return s, nil
}

func (a *API) revokeSessions(w http.ResponseWriter, r *http.Request) error {
	selection, err := parseRevocation(r)
	if err != nil {
		return err
	}
	if _, err := a.Revoke(r.Context(), selection); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
