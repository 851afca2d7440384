package fositestore_test

import (
	"github.com/ory/fosite"
	"github.com/ory/fosite/handler/oauth2"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/handler/pkce"
	"github.com/ory/fosite/handler/rfc7523"
	"github.com/ory/fosite/handler/verifiable"
	"github.com/ory/fosite/storage"

	"github.com/fosite-consent/fosite-consent/pgstore/fositestore"
)

// Every storage interface that fosite v0.49 declares. In a test, since the packages of
// the handlers link test libraries into whoever imports them.
var (
	_ fosite.Storage                                      = (*fositestore.Store)(nil)
	_ fosite.ClientManager                                = (*fositestore.Store)(nil)
	_ fosite.PARStorage                                   = (*fositestore.Store)(nil)
	_ oauth2.CoreStorage                                  = (*fositestore.Store)(nil)
	_ oauth2.AuthorizeCodeStorage                         = (*fositestore.Store)(nil)
	_ oauth2.AccessTokenStorage                           = (*fositestore.Store)(nil)
	_ oauth2.RefreshTokenStorage                          = (*fositestore.Store)(nil)
	_ oauth2.TokenRevocationStorage                       = (*fositestore.Store)(nil)
	_ oauth2.ClientCredentialsGrantStorage                = (*fositestore.Store)(nil)
	_ oauth2.ResourceOwnerPasswordCredentialsGrantStorage = (*fositestore.Store)(nil)
	_ openid.OpenIDConnectRequestStorage                  = (*fositestore.Store)(nil)
	_ pkce.PKCERequestStorage                             = (*fositestore.Store)(nil)
	_ rfc7523.RFC7523KeyStorage                           = (*fositestore.Store)(nil)
	_ verifiable.NonceManager                             = (*fositestore.Store)(nil)
	_ storage.Transactional                               = (*fositestore.Store)(nil)
)
