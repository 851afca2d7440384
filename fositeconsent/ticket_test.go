package fositeconsent

import (
	"context"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func sealer(secrets ...string) ticketSealer {
	return ticketSealer{issuer: "https://as.example", secrets: func(context.Context) ([][]byte, error) {
		var list [][]byte
		for _, s := range secrets {
			list = append(list, []byte(s))
		}
		return list, nil
	}}
}

const (
	secretOne = "the first secret, of 32 bytes at least"
	secretTwo = "the second secret, of 32 bytes at least"
)

func fullTicket() ticket {
	login := "login-1"
	return ticket{
		id: newID(time.Now()), binding: Digest{1, 2, 3}, shown: Digest{4, 5, 6}, expires: time.UnixMilli(time.Now().UnixMilli()), subject: "peter",
		loginSession: &login,
	}
}

func TestTicketRoundTrip(t *testing.T) {
	t.Parallel()
	empty := ""
	for name, change := range map[string]func(*ticket){
		"full":                   func(*ticket) {},
		"without login session":  func(t *ticket) { t.loginSession = nil },
		"an empty login session": func(t *ticket) { t.loginSession = &empty },
		"not UTF-8":              func(t *ticket) { t.subject = "\xff\x00" },
		"large":                  func(t *ticket) { t.subject = strings.Repeat("x", 10_000) },
	} {
		want := fullTicket()
		change(&want)
		text, err := sealer(secretOne).seal(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := sealer(secretOne).open(t.Context(), text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: opened as %v, %v", name, got, err)
		}
	}
}

// What another version of the form was sealed as is not read as this one, whatever it holds.
func TestTicketOfAnotherVersionIsInvalid(t *testing.T) {
	t.Parallel()
	s := sealer(secretOne)
	for version := range 4 {
		salt := make([]byte, ticketSaltSize)
		aead, err := s.aead([]byte(secretOne), salt)
		if err != nil {
			t.Fatal(err)
		}
		sealed := aead.Seal(salt, nil, fullTicket().encode(), []byte{byte(version)})
		_, err = s.open(t.Context(), ticketPrefix+base64.RawURLEncoding.EncodeToString(sealed))
		// The release before has sealed version 1, without what was shown.
		if opened := err == nil; opened != (version == 2) || !opened && !errors.Is(err, ErrInvalidTicket) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func TestTicketThatCouldNotBeOpenedIsNotSealed(t *testing.T) {
	t.Parallel()
	tooLong := fullTicket()
	tooLong.subject = strings.Repeat("x", maxTicketLength)
	if text, err := sealer(secretOne).seal(t.Context(), tooLong); text != "" || !errors.Is(err, ErrMisconfigured) {
		t.Fatalf("%d characters, %v", len(text), err)
	}
	longest := fullTicket()
	longest.subject = strings.Repeat("x", maxTicketLength*3/4-200)
	text, err := sealer(secretOne).seal(t.Context(), longest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealer(secretOne).open(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

func TestTicketHidesItsContents(t *testing.T) {
	t.Parallel()
	text, err := sealer(secretOne).seal(t.Context(), fullTicket())
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealer(secretOne).seal(t.Context(), fullTicket())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "peter") || text[4:50] == again[4:50] {
		t.Fatal("the ticket is not encrypted, or two are alike")
	}
	if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		t.Fatalf("the ticket is not URL-safe: %s", text)
	}
}

func TestTamperedTicketIsRefused(t *testing.T) {
	t.Parallel()
	s := sealer(secretOne)
	text, err := s.seal(t.Context(), fullTicket())
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty": "", "prefix": "fct_", "blank": " ", "short": "fct_AAAA", "no prefix": text[4:], "another prefix": "fcg_" + text[4:],
		"cut": text[:len(text)-4], "longer": text + "AAAA", "padded": text + "=", "a line break": text + "\n",
		"too long": "fct_" + strings.Repeat("A", maxTicketLength),
	}
	for i := 4; i < len(text); i++ {
		flipped := []byte(text)
		if flipped[i] == 'A' {
			flipped[i] = 'Q'
		} else {
			flipped[i] = 'A'
		}
		if string(flipped) != text {
			bad["character "+string(rune('0'+i%10))+strings.Repeat("'", i/10)] = string(flipped)
		}
	}
	for name, text := range bad {
		if got, err := s.open(t.Context(), text); !errors.Is(err, ErrInvalidTicket) || !reflect.DeepEqual(got, ticket{}) {
			t.Errorf("%s: opened, with error %v", name, err)
		}
	}
}

func TestTicketSecretsRotate(t *testing.T) {
	t.Parallel()
	old, err := sealer(secretOne).seal(t.Context(), fullTicket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealer(secretTwo, secretOne).open(t.Context(), old); err != nil {
		t.Errorf("a ticket of the rotated secret is refused: %v", err)
	}
	if _, err := sealer(secretTwo).open(t.Context(), old); !errors.Is(err, ErrInvalidTicket) {
		t.Errorf("a ticket of a secret that is gone: %v", err)
	}
	fresh, err := sealer(secretTwo, secretOne).seal(t.Context(), fullTicket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sealer(secretTwo).open(t.Context(), fresh); err != nil {
		t.Errorf("a new ticket was not sealed with the first secret: %v", err)
	}
	other := sealer(secretOne)
	other.issuer = "https://other.example"
	if _, err := other.open(t.Context(), old); !errors.Is(err, ErrInvalidTicket) {
		t.Errorf("another issuer with the same secret opens the ticket: %v", err)
	}
}

func TestUnusableSecretsAreErrorsThatSayWhy(t *testing.T) {
	t.Parallel()
	failing := sealer()
	failing.secrets = func(context.Context) ([][]byte, error) { return nil, errors.New("vault is sealed") }
	for name, c := range map[string]struct {
		s    ticketSealer
		text string
	}{
		"none":           {sealer(), "there is no secret"},
		"short":          {sealer("short"), "has 5 bytes"},
		"a short second": {sealer(secretOne, "short"), "secret 2"},
		"an error":       {failing, "vault is sealed"},
	} {
		good, err := sealer(secretOne).seal(t.Context(), fullTicket())
		if err != nil {
			t.Fatal(err)
		}
		_, sealErr := c.s.seal(t.Context(), fullTicket())
		_, openErr := c.s.open(t.Context(), good)
		for _, err := range []error{sealErr, openErr} {
			if !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func FuzzTicket(f *testing.F) {
	s := sealer(secretOne)
	text, err := s.seal(context.Background(), fullTicket())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text, fullTicket().encode())
	f.Add("", []byte{})
	f.Add("fct_", make([]byte, 100))
	f.Fuzz(func(t *testing.T, text string, plain []byte) {
		// No text opens but one that was sealed.
		if got, err := s.open(t.Context(), text); err == nil {
			again, sealErr := s.seal(t.Context(), got)
			if sealErr != nil || again == "" {
				t.Fatalf("what was opened cannot be sealed: %v", sealErr)
			}
		} else if !errors.Is(err, ErrInvalidTicket) {
			t.Fatalf("another error: %v", err)
		}
		// The decoder never panics, and one ticket has one form.
		if got, err := decodeTicket(plain); err == nil && string(got.encode()) != string(plain) {
			t.Fatalf("two forms of one ticket: %x", plain)
		}
	})
}
