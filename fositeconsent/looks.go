package fositeconsent

import (
	"runtime"
	"sync"
	"time"
	"weak"

	"github.com/ory/fosite"
)

// looks remembers which consents were found for a request that nothing lets pass, for the page that
// comes next, so that the same is not looked for twice. Nothing is decided by it: it is what the page
// sets apart as new.
//
// A request is fosite's object, and remembered for as long as somebody holds on to it.
type looks struct{ found sync.Map } // of weak.Pointer[fosite.AuthorizeRequest] to look

type look struct {
	at       time.Time
	subject  string
	clientID string
	consents []Consent
}

// lookLifespan is how long the page may take to come.
const lookLifespan = 5 * time.Second

func (l *looks) keep(r request, consents []Consent, now time.Time) {
	ar, ok := r.AuthorizeRequester.(*fosite.AuthorizeRequest)
	if !ok {
		return
	}
	key := weak.Make(ar)
	if _, there := l.found.Swap(key, look{now, r.subject, r.GetClient().GetID(), consents}); !there {
		runtime.AddCleanup(ar, func(key weak.Pointer[fosite.AuthorizeRequest]) { l.found.Delete(key) }, key)
	}
}

// take returns what was found for this very request and subject a moment ago, once.
func (l *looks) take(r request, now time.Time) ([]Consent, bool) {
	ar, ok := r.AuthorizeRequester.(*fosite.AuthorizeRequest)
	if !ok {
		return nil, false
	}
	key := weak.Make(ar)
	found, _ := l.found.Load(key)
	kept, ok := found.(look)
	if !ok || kept.subject != r.subject || kept.clientID != r.GetClient().GetID() || now.Sub(kept.at) > lookLifespan || kept.consents == nil {
		return nil, false
	}
	l.found.Store(key, look{}) // and not deleted: the clean-up is there already
	return kept.consents, true
}
