package fositeconsent

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

// MaxPromptLifespan is the longest [Config.PromptLifespan]. A [GrantStorage]
// keeps what it knows of a prompt for at least twice as long, so that no prompt
// can be decided a second time after its grant has been swept.
const MaxPromptLifespan = 12 * time.Hour

const (
	ticketPrefix    = "fct_" // "fosite consent ticket"
	ticketVersion   = 2
	ticketSaltSize  = 32
	ticketOverhead  = 12 + 16  // nonce and tag of AES-GCM
	maxTicketLength = 16 << 10 // far more than a subject and a login session need
	minSecretSize   = 32       // what fosite asks of its global secret
)

// ticket is what a consent page pins: what the user was shown, as the binding of
// all of it and the digest of what the page says of the client; to whom it was shown; and until when it may be answered.
type ticket struct {
	id           ID
	binding      Digest
	shown        Digest // of the client, zero if the gate keeps neither consents nor a log
	expires      time.Time
	subject      string
	loginSession *string
}

// ticketSealer turns tickets into text and back. The text is encrypted, for it
// holds personal data, and authenticated under the first of the host's secrets;
// each of the others still opens.
type ticketSealer struct {
	issuer  string
	secrets func(context.Context) ([][]byte, error)
}

// seal returns the ticket's text, URL-safe and some 250 characters.
func (s ticketSealer) seal(ctx context.Context, t ticket) (string, error) {
	secrets, err := s.loadSecrets(ctx)
	if err != nil {
		return "", err
	}
	salt := make([]byte, ticketSaltSize, 512)
	_, _ = rand.Read(salt)
	aead, err := s.aead(secrets[0], salt)
	if err != nil {
		return "", err
	}
	sealed := aead.Seal(salt, nil, t.encode(), []byte{ticketVersion}) //nolint:gosec // no nonce is given: this AEAD makes a random one
	text := ticketPrefix + base64.RawURLEncoding.EncodeToString(sealed)
	if len(text) > maxTicketLength {
		return "", fmt.Errorf("%w: subject and login session together are too long for a ticket", ErrMisconfigured)
	}
	return text, nil
}

// open returns the ticket that seal was given, [ErrInvalidTicket], or an error
// of the host's secrets. It does not look at the expiry.
func (s ticketSealer) open(ctx context.Context, text string) (ticket, error) {
	if len(text) > maxTicketLength || !strings.HasPrefix(text, ticketPrefix) || strings.ContainsAny(text, "\r\n") { // which base64 would skip
		return ticket{}, ErrInvalidTicket
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text[len(ticketPrefix):])
	if err != nil || len(raw) < ticketSaltSize+ticketOverhead {
		return ticket{}, ErrInvalidTicket
	}
	secrets, err := s.loadSecrets(ctx)
	if err != nil {
		return ticket{}, err
	}
	salt, sealed := raw[:ticketSaltSize], raw[ticketSaltSize:]
	for _, secret := range secrets {
		aead, err := s.aead(secret, salt)
		if err != nil {
			return ticket{}, err
		}
		if plain, err := aead.Open(nil, nil, sealed, []byte{ticketVersion}); err == nil {
			return decodeTicket(plain)
		}
	}
	return ticket{}, ErrInvalidTicket
}

// aead derives a key for this one ticket: AES-GCM's random nonces alone would
// bound how many tickets one secret may seal. The issuer is part of the key, so
// that issuers which share a secret cannot read each other's tickets.
func (s ticketSealer) aead(secret, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, salt, "fosite-consent/ticket\x00"+s.issuer, 32)
	if err != nil {
		return nil, fmt.Errorf("%w: derive the ticket's key: %w", ErrMisconfigured, err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("%w: set up the ticket's cipher: %w", ErrMisconfigured, err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (s ticketSealer) loadSecrets(ctx context.Context) ([][]byte, error) {
	secrets, err := s.secrets(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: read the secrets that seal tickets: %w", ErrMisconfigured, err)
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%w: there is no secret to seal tickets with: set Config.Secrets, or fosite's GlobalSecret", ErrMisconfigured)
	}
	for i, secret := range secrets {
		if len(secret) < minSecretSize {
			return nil, fmt.Errorf("%w: secret %d that seals tickets has %d bytes: use at least %d random ones", ErrMisconfigured, i+1, len(secret), minSecretSize)
		}
	}
	return secrets, nil
}

func (t ticket) encode() []byte {
	e := make(encoder, 0, 512)
	e = append(append(append(e, t.id[:]...), t.binding[:]...), t.shown[:]...)
	e = binary.BigEndian.AppendUint64(e, uint64(t.expires.UnixMilli()))
	e.text(t.subject)
	e.optional(t.loginSession)
	return e
}

func decodeTicket(plain []byte) (ticket, error) {
	d := decoder{rest: plain}
	t := ticket{id: ID(d.bytes(idSize)), binding: Digest(d.bytes(len(Digest{}))), shown: Digest(d.bytes(len(Digest{})))}
	t.expires = time.UnixMilli(int64(d.number()))
	t.subject = d.text()
	t.loginSession = d.optional()
	if d.failed || len(d.rest) != 0 {
		return ticket{}, ErrInvalidTicket
	}
	return t, nil
}

// decoder reads what encoder wrote. After a failure it returns zero values.
type decoder struct {
	rest   []byte
	failed bool
}

// bytes returns the next n bytes, or n zeros and a failure.
func (d *decoder) bytes(n int) []byte {
	if d.failed || n > len(d.rest) {
		d.failed, d.rest = true, nil
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) number() uint64 { return binary.BigEndian.Uint64(d.bytes(8)) }

// count reads a length that what is left can hold.
func (d *decoder) count() int {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.failed = true
		return 0
	}
	return int(n)
}

func (d *decoder) text() string { return string(d.bytes(d.count())) }

func (d *decoder) optional() *string {
	switch d.bytes(1)[0] {
	case 0:
		return nil
	case 1:
		s := d.text()
		return &s
	}
	d.failed = true
	return nil
}
