package consentapi_test

import (
	"context"
	"log"
	"net/http"
	"time"

	"github.com/ory/fosite"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
	"github.com/fosite-consent/fosite-consent/fositeconsent/consentapi"
)

// An authorization server whose consent pages are at https://accounts.example/consent. The gate has
// consentapi.ApplyData as its Config.ApplyData, and newSession is the host's.
func Example() {
	var (
		gate       *fositeconsent.Gate       // NewGate
		storage    consentapi.RequestStorage // the pgstore.Store of the grants
		provider   fosite.OAuth2Provider     // gate.Protect
		secret     []byte                    // fosite's GlobalSecret
		token      string                    // the application's
		newSession func(context.Context) fosite.Session
		answer     func(http.ResponseWriter, fosite.AuthorizeRequester, fosite.AuthorizeResponder, error)
		startAgain func(http.ResponseWriter, *consentapi.Resumed, error) // a page with a way on
	)
	api, err := consentapi.New(gate, storage, consentapi.Config{
		ConsentURL:       "https://accounts.example/consent",
		AuthorizationURL: "https://as.example/oauth2/auth",
		ResumeURL:        "https://as.example/oauth2/resume",
		Secrets:          func(context.Context) ([][]byte, error) { return [][]byte{secret}, nil },
		Authenticate:     consentapi.BearerToken(token),
	})
	if err != nil {
		log.Fatal(err)
	}

	http.HandleFunc("/oauth2/auth", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if err := r.ParseForm(); err != nil {
			http.Error(w, "The request could not be read.", http.StatusBadRequest)
			return
		}
		params := r.Form.Encode() // before fosite merges a request object into them
		ar, err := provider.NewAuthorizeRequest(ctx, r)
		if err != nil {
			answer(w, ar, nil, err)
			return
		}
		resp, sent, err := api.Authorize(w, r, provider, ar, newSession(ctx), params)
		if !sent {
			answer(w, ar, resp, err)
		}
	})
	http.HandleFunc("GET /oauth2/resume", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		resumed, err := api.Resume(r)
		if err != nil {
			startAgain(w, resumed, err)
			return
		}
		ar, err := provider.NewAuthorizeRequest(ctx, resumed.Request(ctx))
		if err != nil {
			answer(w, ar, nil, err)
			return
		}
		resp, err := resumed.Respond(ctx, provider, ar, newSession(ctx))
		if fositeconsent.NeedsConsent(err) { // ask again
			http.Redirect(w, r, "/oauth2/auth?"+resumed.Query, http.StatusSeeOther)
			return
		}
		answer(w, ar, resp, err)
	})

	const internal = "127.0.0.1:9098"
	api.WarnIfPublic(context.Background(), internal)
	server := &http.Server{Addr: internal, Handler: api.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second}
	log.Fatal(server.ListenAndServe())
}
