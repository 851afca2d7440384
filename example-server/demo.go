package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"golang.org/x/crypto/bcrypt"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// demo is what the server brings along when it is given no clients and no users.
type demo struct {
	issuer string
	keys   *keys
	login  *demoLogin
}

// demoLogin is the account that everybody may use.
type demoLogin struct{ Username, Password string }

const (
	demoUser         = "alice"
	demoConfidential = "demo-web"
	demoPublic       = "demo-app"

	pathDemoCallback = "/demo/callback"
	demoScopes       = "openid profile photos.read photos.write offline_access"
)

func newDemo(s *server) (*demo, []*client, *users, error) {
	d := &demo{issuer: s.issuer, keys: s.keys, login: &demoLogin{demoUser, s.keys.demoPassword}}
	hash, err := bcrypt.GenerateFromPassword([]byte(d.login.Password), bcrypt.DefaultCost)
	if err != nil {
		return nil, nil, nil, err
	}
	accounts, err := newUsers(map[string][]byte{demoUser: hash})
	if err != nil {
		return nil, nil, nil, err
	}
	redirectURIs := []string{s.issuer + pathDemoCallback}
	var clients []*client
	for _, r := range []registration{
		{
			ClientID: demoConfidential, ClientSecret: s.keys.demoClientSecret, ClientName: "Photo Printer",
			LogoURI: s.issuer + pathAssets + "demo-logo.svg", ClientURI: s.issuer,
			RedirectURIs: redirectURIs, GrantTypes: []string{grantCode, grantRefresh}, Scope: demoScopes,
		},
		{
			ClientID: demoPublic, TokenEndpointAuthMethod: "none", ClientName: "Pocket Album",
			RedirectURIs: redirectURIs, GrantTypes: []string{grantCode, grantRefresh}, Scope: demoScopes,
		},
	} {
		c, field, err := r.client()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("demo client %s: %s: %w", r.ClientID, field, err)
		}
		clients = append(clients, c)
	}
	return d, clients, accounts, nil
}

func (d *demo) watch(next func(context.Context, fositeconsent.Event)) func(context.Context, fositeconsent.Event) {
	return next
}
func (d *demo) approved(string, fositeconsent.ID, url.Values)      {}
func (d *demo) routes(*http.ServeMux, *http.CrossOriginProtection) {}

// announce tells whoever has started the server where to click.
func (d *demo) announce(w io.Writer) {
	_, _ = fmt.Fprintf(w, `
  Demo           %s/
  User           %s, password %s
  Clients        %s, confidential, secret %s
                 %s, public
`, d.issuer, d.login.Username, d.login.Password, demoConfidential, d.keys.demoClientSecret, demoPublic)
}
