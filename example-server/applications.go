package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

const (
	consentsAtOnce = 200 // that are read from the storage
	applicationsOn = 20  // a page

	sessionNotice = "notice" // in the session: what the next page of the applications says
)

// application is what one client has of the user.
type application struct {
	ClientID string
	Client   consentClient
	Gone     bool // it is not registered any more, and only its id is known
	Scopes   []consentScope
	Audience []string
	Since    time.Time
	LastUsed time.Time
	Until    time.Time // zero: until the user takes it back
	Renewed  string    // how often it has to renew its access, "" if it need not or cannot

	Remembered bool // it is let in without a page
	newest     fositeconsent.ID
}

// add takes one of its consents into account, of which some are read before others:
// the newest come first.
func (a *application) add(c fositeconsent.Consent, until time.Time) {
	if a.newest.IsZero() {
		a.newest, a.Until = c.ID, until
	}
	if a.Until.IsZero() || until.IsZero() {
		a.Until = time.Time{}
	} else if until.After(a.Until) {
		a.Until = until
	}
	a.Since = c.DecidedAt
	if c.LastUsedAt.After(a.LastUsed) {
		a.LastUsed = c.LastUsedAt
	}
	a.Remembered = a.Remembered || c.Remembered
	for _, name := range c.Scopes {
		i := slices.IndexFunc(a.Scopes, func(s consentScope) bool { return s.Name == name })
		if i < 0 {
			i = len(a.Scopes)
			a.Scopes = append(a.Scopes, describeScope(name))
		}
		a.Scopes[i].Remembered = a.Scopes[i].Remembered || slices.Contains(c.RememberedScopes, name)
	}
	a.Audience = unique(append(a.Audience, c.Audience...))
}

// until returns when what was allowed ends by itself, zero if it does not.
func (s *server) until(c fositeconsent.Consent) time.Time {
	if c.Remembered || isOffline(c.Scopes) {
		return c.ExpiresAt
	}
	// Nothing was issued with it that can be renewed.
	ends := c.LastUsedAt.Add(s.fositeConfig.AuthorizeCodeLifespan + s.fositeConfig.AccessTokenLifespan)
	if !c.ExpiresAt.IsZero() && c.ExpiresAt.Before(ends) {
		return c.ExpiresAt
	}
	return ends
}

// applications returns the applications that have access to what is the user's, in the order of
// what was allowed last, those first of which that comes before a consent; and the one to go
// on from, zero if these are all.
//
// It reads all that the user has ever allowed and that still counts: what an application may
// do is the sum of it.
func (s *server) applications(ctx context.Context, username string, before fositeconsent.ID) (list []*application, next fositeconsent.ID, err error) {
	byClient := map[string]*application{}
	now := time.Now()
	for from := (fositeconsent.ID{}); ; {
		consents, err := s.gate.ListConsents(ctx, fositeconsent.Selection{Subject: username}, from, consentsAtOnce)
		if err != nil {
			return nil, next, err
		}
		for _, c := range consents {
			from = c.ID
			until := s.until(c)
			if !until.IsZero() && until.Before(now) {
				continue
			}
			a, ok := byClient[c.ClientID]
			if !ok {
				a = &application{ClientID: c.ClientID}
				byClient[c.ClientID] = a
				list = append(list, a)
			}
			a.add(c, until)
		}
		if len(consents) < consentsAtOnce {
			break
		}
	}
	if !before.IsZero() {
		list = slices.DeleteFunc(list, func(a *application) bool { return slices.Compare(a.newest[:], before[:]) >= 0 })
	}
	if len(list) > applicationsOn {
		list = list[:applicationsOn]
		next = list[applicationsOn-1].newest
	}
	return list, next, nil
}

// describe adds what is known of the client, and returns the addition to the page's policy
// that lets its logo be loaded.
func (s *server) describe(a *application) (images string) {
	c, ok := s.clients[a.ClientID]
	if !ok {
		a.Gone, a.Client = true, consentClient{Name: a.ClientID, Initial: "?"}
		return ""
	}
	a.Client, images = describeClient(c, s.issuer)
	offline := slices.ContainsFunc(a.Scopes, func(s consentScope) bool { return isOffline([]string{s.Name}) })
	if offline && !a.Remembered && a.Until.IsZero() {
		a.Renewed = humanDuration(s.fositeConfig.RefreshTokenLifespan)
	}
	return images
}

// applicationsPage is what applications.html shows.
type applicationsPage struct {
	page
	Username     string
	Notice       string
	Applications []*application
	Path         string
	TakeBack     string
	Later        bool   // it is not the first page
	Next         string // the next page's address, "" on the last
	Demo         bool
}

// getApplications shows which applications have access to what is the user's.
func (s *server) getApplications(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	l := loginFrom(ctx)
	if l == nil {
		s.askWhoIsThere(w, r, nextApplications)
		return
	}
	var before fositeconsent.ID
	if text := r.URL.Query().Get("before"); text != "" {
		var err error
		if before, err = fositeconsent.ParseID(text); err != nil {
			s.notFound(w, r)
			return
		}
	}
	list, next, err := s.applications(ctx, l.username, before)
	if err != nil {
		s.unavailable(w, r, "applications could not be listed", err)
		return
	}
	p := applicationsPage{
		page: page{Title: "Connected applications"}, Username: l.username, Applications: list,
		Path: pathApplications, TakeBack: pathTakeBack, Later: !before.IsZero(), Demo: s.demo != nil,
	}
	if !next.IsZero() {
		p.Next = pathApplications + "?before=" + url.QueryEscape(next.String())
	}
	var images []string
	for _, a := range list {
		if origin := s.describe(a); origin != "" && !slices.Contains(images, origin) {
			images = append(images, origin)
		}
	}
	// What was done is said once. If that cannot be noted, it is said again.
	if p.Notice = s.sessions.PopString(ctx, sessionNotice); p.Notice != "" {
		if err := s.saveSession(ctx, w); err != nil {
			s.log.ErrorContext(ctx, "session could not be stored after a notice", "error", err)
		}
	}
	setPolicy(w, pagePolicy+"; form-action 'self'; img-src 'self'"+strings.Join(images, ""))
	s.render(w, r, http.StatusOK, "applications", p)
}

// takeBackPage is what take_back.html shows.
type takeBackPage struct {
	page
	Username string
	Client   string // the id, "" for all
	Name     string
	Path     string
	TakeBack string
}

// getTakeBack asks whether that is really meant. It changes nothing.
func (s *server) getTakeBack(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	l := loginFrom(ctx)
	if l == nil {
		s.askWhoIsThere(w, r, nextApplications)
		return
	}
	selection := fositeconsent.Selection{Subject: l.username, ClientID: r.URL.Query().Get("client")}
	consents, err := s.gate.ListConsents(ctx, selection, fositeconsent.ID{}, 1)
	if err != nil {
		s.unavailable(w, r, "consents could not be listed", err)
		return
	}
	// Names are not said of what is not there: anybody could have made the link.
	if len(consents) == 0 {
		http.Redirect(w, r, pathApplications, http.StatusSeeOther)
		return
	}
	setPolicy(w, scriptedPolicy)
	s.render(w, r, http.StatusOK, "take_back", takeBackPage{
		page: page{Title: "Take access back?"}, Username: l.username, Client: selection.ClientID, Name: s.nameOf(selection.ClientID),
		Path: pathApplications, TakeBack: pathTakeBack,
	})
}

// nameOf returns what the user knows the client by, which may not be registered any more.
func (s *server) nameOf(clientID string) string {
	if c, ok := s.clients[clientID]; ok {
		return c.displayName()
	}
	return clientID
}

// The fields of take_back.html's form.
const (
	fieldWhat   = "what" // whatOne or whatAll
	fieldClient = "client"
	fieldUser   = "username"

	whatOne = "one"
	whatAll = "all"
)

// postTakeBack takes access back, from one application or from all.
func (s *server) postTakeBack(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	form, err := postedForm(r, fieldWhat, fieldClient, fieldUser)
	one, all := form.Get(fieldWhat) == whatOne && form.Get(fieldClient) != "", form.Get(fieldWhat) == whatAll && !form.Has(fieldClient)
	if err == nil && !one && !all {
		err = errors.New("it names neither one application nor all")
	}
	if err != nil {
		s.badForm(w, r, err)
		return
	}
	l := loginFrom(ctx)
	if l == nil || l.username != form.Get(fieldUser) { // the page was shown to somebody else
		http.Redirect(w, r, pathApplications, http.StatusSeeOther)
		return
	}
	selection := fositeconsent.Selection{Subject: l.username, ClientID: form.Get(fieldClient)}
	ended, err := s.gate.Revoke(ctx, selection)
	if err != nil {
		s.log.ErrorContext(ctx, "access could not be taken back", "subject", l.username, "client_id", selection.ClientID, "error", err)
		w.Header().Set("Retry-After", "5")
		s.renderError(w, r, http.StatusServiceUnavailable, errorPage{
			Heading:     "This is not working right now",
			Explanation: "The server has a problem, and cannot tell whether all access was taken back.",
			Advice:      "Please do it once more: what has been taken back stays so.",
			Link:        pathApplications, LinkText: "To the applications",
		})
		return
	}
	s.log.InfoContext(ctx, "access taken back", "subject", l.username, "client_id", selection.ClientID, "consents", ended)
	notice := "No application has access any more. What they had been given has stopped working."
	if one {
		notice = fmt.Sprintf("%s has no access any more. What it had been given has stopped working.", s.nameOf(selection.ClientID))
	}
	s.sessions.Put(ctx, sessionNotice, notice)
	if err := s.saveSession(ctx, w); err != nil { // it is done all the same, and to be seen on the page
		s.log.ErrorContext(ctx, "session could not be stored after access was taken back", "error", err)
	}
	http.Redirect(w, r, pathApplications, http.StatusSeeOther)
}
