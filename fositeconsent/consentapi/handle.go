package consentapi

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/fosite-consent/fosite-consent/fositeconsent"
)

// The prefixes let secret scanners find a handle that leaked: "fosite consent challenge", "… verifier" and "… browser".
const (
	challengePrefix = "fcc_"
	verifierPrefix  = "fcv_"
	browserPrefix   = "fcb_"
)

const (
	idSize        = 16
	secretSize    = sha256.Size // 256 bits; RFC 6749, Section 10.10 asks for 128 and advises 160
	handleSize    = (idSize + secretSize) / 3 * 4
	minSecretSize = 32 // as for the gate's tickets
)

// handleEncoding writes 48 bytes as 64 characters without a bit to spare, so that one handle has one spelling.
var handleEncoding = base64.RawURLEncoding

// secret is what of a handle is to be kept from others.
type secret [secretSize]byte

func newSecret() (s secret) {
	_, _ = rand.Read(s[:]) // never fails: it ends the program instead
	return s
}

// hash is what a storage gets. The bits cannot be guessed, so that no salt is needed.
func (s secret) hash() Hash { return sha256.Sum256(s[:]) }

// handle returns the text of a handle: which request, and the secret.
func handle(prefix string, id fositeconsent.ID, s secret) string {
	raw := make([]byte, 0, idSize+secretSize)
	return prefix + handleEncoding.EncodeToString(append(append(raw, id[:]...), s[:]...))
}

// errHandle is about a text that no handle has. It holds nothing of the text.
var errHandle = errors.New("consentapi: malformed handle")

// parseHandle reads what handle returned, and refuses every other spelling.
func parseHandle(prefix, text string) (fositeconsent.ID, secret, error) {
	if len(text) != len(prefix)+handleSize || !strings.HasPrefix(text, prefix) {
		return fositeconsent.ID{}, secret{}, errHandle
	}
	raw := make([]byte, idSize+secretSize)
	// The decoder skips line breaks, which leaves the output short.
	if n, err := handleEncoding.Decode(raw, []byte(text[len(prefix):])); err != nil || n != len(raw) {
		return fositeconsent.ID{}, secret{}, errHandle
	}
	id, s := fositeconsent.ID(raw[:idSize]), secret(raw[idSize:])
	if id.IsZero() || s == (secret{}) {
		return fositeconsent.ID{}, secret{}, errHandle
	}
	return id, s, nil
}

// verifiers returns, for each of the host's secrets, the secret part of the verifier of an answer. The same answer has the same
// one as long as the host keeps the secret, and nobody who has the challenge, or the row, can make it.
func (a *API) verifiers(ctx context.Context, id fositeconsent.ID, digest Hash) ([]secret, error) {
	secrets, err := a.config.Secrets(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: Config.Secrets: %w", fositeconsent.ErrMisconfigured, err)
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: Config.Secrets returned none", fositeconsent.ErrMisconfigured)
	}
	list := make([]secret, len(secrets))
	for i, s := range secrets {
		if len(s) < minSecretSize {
			return nil, fmt.Errorf("%w: secret %d of Config.Secrets has %d bytes: use at least %d random ones", fositeconsent.ErrMisconfigured, i+1, len(s), minSecretSize)
		}
		key, err := hkdf.Key(sha256.New, s, nil, "fosite-consent/consent-verifier", sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("%w: derive the verifier's key: %w", fositeconsent.ErrMisconfigured, err)
		}
		mac := hmac.New(sha256.New, key)
		_, _ = mac.Write(id[:])
		_, _ = mac.Write(digest[:])
		list[i] = secret(mac.Sum(nil))
	}
	return list, nil
}

// verifierOf returns the verifier of the answer that a request has, as its hash says; under whichever of the secrets it was made.
func (a *API) verifierOf(ctx context.Context, r *Request) (string, error) {
	candidates, err := a.verifiers(ctx, r.ID, r.Answer.Digest)
	if err != nil {
		return "", err
	}
	for _, s := range candidates {
		if hash := s.hash(); hmac.Equal(hash[:], r.Answer.Verifier[:]) {
			return handle(verifierPrefix, r.ID, s), nil
		}
	}
	return "", fmt.Errorf("%w: the verifier of an earlier answer was made under a secret that Config.Secrets does not return any more", fositeconsent.ErrMisconfigured)
}
