// Package consentapi is for consent pages that live elsewhere. The authorization server sends the
// browser to a consent application with a short handle, the application asks an internal API what is
// being requested and answers accept or reject, and sends the browser back. The API has the routes and
// the JSON of the consent part of Ory Hydra's admin API, so that an application which was written for that
// works by changing an address; what is issued passes the gate of package fositeconsent like everything else.
//
//	api, err := consentapi.New(gate, store, consentapi.Config{…}) // store: pgstore.New(pool), as for the gate
//	go http.Serve(internal, api.Handler())                        // on a listener of its own
//
// and [ApplyData] as the gate's Config.ApplyData. At the authorization endpoint [API.Authorize] takes the place of
// NewAuthorizeResponse; where the browser comes back, [API.Resume] and [Resumed.Respond] do.
//
// # What holds
//
// The request is pinned on the server, in one row of a [RequestStorage]. Nothing that the browser or the
// application carries can change it: they have handles.
//
//   - The consent_challenge, in the address of the application, names the request at the API. It is good for nothing at the
//     authorization server's own endpoints.
//   - The cookie, one for each request, shows that the browser which comes back is the one that was sent away.
//   - The consent_verifier, in the address of the way back, names the answer. It is worth nothing without
//     the cookie, and nothing once it was used, or once what it stands for was revoked or has expired.
//
// Each has 256 bits that cannot be guessed, and of each a hash is stored. The verifier is derived from the request and the answer under a
// secret of the host's, so that the same answer, given again, leads to the same address.
//
// An answer is used in the transaction in which the response to the client is issued: both, or none of it.
// Revoking ([API.Revoke]) ends the answers that were not used yet, and waits for those that are being used.
//
// Where remembered consents cover a request, or the host has pre-approved it, the application is told to skip its page. Its
// acceptance approves nothing then: the response rests on what covers the request ([fositeconsent.Decision.Unasked]), and ends with that.
//
// What is not here is login. The application has to make sure that it answers for
// the subject that the request names, and protect its own form.
package consentapi
