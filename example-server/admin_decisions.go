package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The parameters that say which records of the log are meant, besides those that consents have.
const (
	paramSince = "since"
	paramUntil = "until"
)

var (
	exportParams = []string{paramSubject, paramClientID, paramSince, paramUntil}
	eraseParams  = []string{paramSubject}
)

// exportTimeout is the longest that an export may take.
const exportTimeout = 10 * time.Minute

// adminExport writes the log of decisions as JSON lines. What fails when some are on their way
// already ends the connection, so that nobody takes them for all.
func (s *server) adminExport(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	query, err := adminQuery(r, exportParams)
	selection := fositeconsent.DecisionSelection{Subject: query.Get(paramSubject), ClientID: query.Get(paramClientID)}
	for name, t := range map[string]*time.Time{paramSince: &selection.Since, paramUntil: &selection.Until} {
		if err == nil && query.Has(name) {
			if *t, err = time.Parse(time.RFC3339, query.Get(name)); err != nil || t.IsZero() {
				err = fmt.Errorf("%s: expected a time such as 2026-01-31T00:00:00Z", name)
			}
		}
	}
	if err != nil {
		writeAdminError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	lines := &lineWriter{ResponseWriter: w}
	if r.Method == http.MethodHead {
		lines.begin()
		return
	}
	// Of its own: it may take longer than any other request. Who has gone is noticed when it is written to.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportTimeout)
	defer cancel()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(exportTimeout)) // where there is none to set, none ends it
	records, err := s.gate.ExportDecisions(ctx, lines, selection)
	switch {
	case err == nil:
		lines.begin() // also of none
		s.log.InfoContext(ctx, "decisions exported for the operator", "records", records, "remote_addr", r.RemoteAddr)
	case lines.begun:
		s.log.ErrorContext(ctx, "an export of decisions was broken off", "records", records, "error", err)
		panic(http.ErrAbortHandler)
	default:
		s.log.ErrorContext(ctx, "decisions could not be exported for the operator", "error", err)
		adminUnavailable(w, "The log could not be read. Please try again.")
	}
}

// lineWriter says what it is that follows when the first of it is there.
type lineWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *lineWriter) begin() {
	if !w.begun {
		w.begun = true
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
	}
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(b)
}

// adminErase forgets what a subject has decided, and takes it back.
func (s *server) adminErase(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	query, err := adminQuery(r, eraseParams)
	if err == nil && !query.Has(paramSubject) {
		err = fmt.Errorf("set %s: who is meant?", paramSubject)
	}
	if err != nil {
		writeAdminError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	erased, err := s.gate.EraseSubject(ctx, query.Get(paramSubject))
	if err != nil {
		s.log.ErrorContext(ctx, "an erasure failed", "records", erased, "error", err)
		adminUnavailable(w, "It is not known whether all was erased. Repeat the request until it succeeds: until then, tokens may be good and records there.")
		return
	}
	s.log.InfoContext(ctx, "a subject was erased by the operator", "records", erased, "remote_addr", r.RemoteAddr) // not whom
	writeJSON(w, http.StatusOK, map[string]int{"erased": erased})
}
