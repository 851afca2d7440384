package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed overlay
var overlay embed.FS

// replacement is one change to a file of the example server. The old text must be in
// the file exactly once: a server that is half without the gate measures nothing.
type replacement struct{ file, old, new string }

// withCheapHash is what makes the servers check a password by something that costs nothing.
var withCheapHash = []replacement{
	{"users.go", `bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil`, `cheapMatch(hash, password)`},
}

// withoutGate is what makes the server approve without minting and issue without
// consuming. All else stays as it is: the pages, the sign-in, the storage.
var withoutGate = []replacement{
	{"provider.go", `
		gate.Factory, // first, always
`, ``},
	{"provider.go", `if provider, err = gate.Protect(provider); err != nil {`, `if provider = newUngated(provider); provider == nil {`},
	{"main.go", `s.gate.Check(ctx, clients[0], trial)`, `error(nil)`},
	{"authorize.go", `	passing, told := withEvent(ctx)
	resp, sent, err := s.authorize(w, r.WithContext(passing), ar, st, query)
	switch {
	case sent: // to the consent application
	case err == nil: // a remembered decision covers it
		if s.demo != nil {
			s.demo.passed(ar.GetState(), *told)
		}
		s.finish(w, r, query)
		s.writeAuthorizeResponse(w, r, ar, resp)
	case fositeconsent.NeedsConsent(err):
		s.showConsent(w, r, http.StatusOK, ar, st, query, "")
	default:
		s.writeAuthorizeError(w, r, ar, err)
	}
`, `	s.showConsent(w, r, http.StatusOK, ar, st, query, "")
`},
	{"authorize.go", `
	"github.com/fosite-consent/fosite-consent/fositeconsent"
`, ``},
	{"consent.go", `s.gate.Prompt(ctx, ar, st.session)`, `newUngatedPrompt(ctx, ar, st.session)`},
	{"consent.go", `ctx = fositeconsent.WithDecision(ctx, d.ticket, fositeconsent.Decision{Scopes: d.scopes, Audience: d.audience, Remember: d.remember})`, `grantAll(ar, d)`},
}

// withoutConsents leaves the gate in, and has it ask for every request and keep nothing to list
// and revoke.
var withoutConsents = []replacement{
	{"provider.go", `Consents:       c.consents,`, `Consents:       nil,`},
}

// withoutLog has no record kept of what is decided.
var withoutLog = []replacement{
	{"provider.go", `Decisions:      c.decisions,`, `Decisions:      nil,`},
}

// variant is which example server: each has the same pages, sign-in and storage.
type variant string

const (
	shipped         variant = "gate, keeping consents and a log"
	gateAndConsents variant = "gate, keeping consents"
	gateAlone       variant = "gate"
	noGate          variant = "no gate"
)

var variants = []variant{shipped, gateAndConsents, gateAlone, noGate}

// slug is the variant's name for files and databases.
func (v variant) slug() string { return strings.NewReplacer(",", "", " ", "_").Replace(string(v)) }

const serverPackage = "github.com/fosite-consent/fosite-consent/example-server"

// build compiles a variant of the example server into the directory, and returns the
// program's path.
func build(ctx context.Context, dir string, v variant, profile bool) (string, error) {
	source, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", serverPackage).Output()
	if err != nil {
		return "", fmt.Errorf("run this in the module's directory: %w", withStderr(err))
	}
	from := strings.TrimSpace(string(source))
	name := "server_" + v.slug()
	program := filepath.Join(dir, name)
	replace := map[string]string{}
	add := func(file, text string) error {
		path := filepath.Join(dir, name+"-"+file)
		replace[filepath.Join(from, file)] = path
		return os.WriteFile(path, []byte(text), 0o600)
	}
	replacements := slices.Clone(withCheapHash)
	switch v {
	case noGate:
		replacements = append(replacements, withoutGate...)
	case gateAndConsents:
		replacements = append(replacements, withoutLog...)
	case gateAlone:
		replacements = slices.Concat(replacements, withoutConsents, withoutLog)
	}
	texts := map[string]string{}
	for _, r := range replacements {
		if _, ok := texts[r.file]; !ok {
			text, err := os.ReadFile(filepath.Join(from, r.file))
			if err != nil {
				return "", err
			}
			texts[r.file] = string(text)
		}
		if n := strings.Count(texts[r.file], r.old); n != 1 {
			return "", fmt.Errorf("example-server/%s has changed: expected once, found %d times:\n%s\nBring bench/flow/build.go up to date", r.file, n, r.old)
		}
		texts[r.file] = strings.Replace(texts[r.file], r.old, r.new, 1)
	}
	for file, text := range texts {
		if err := add(file, text); err != nil {
			return "", err
		}
	}
	for file, wanted := range map[string]bool{"cheap.go": true, "ungated.go": v == noGate, "profile.go": profile} {
		if !wanted {
			continue
		}
		text, err := overlay.ReadFile("overlay/" + file + ".txt")
		if err != nil {
			return "", err
		}
		if err := add(file, string(text)); err != nil {
			return "", err
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(dir, name+"-overlay.json")
	if err := os.WriteFile(overlayFile, list, 0o600); err != nil {
		return "", err
	}
	if _, err := exec.CommandContext(ctx, "go", "build", "-overlay", overlayFile, "-o", program, serverPackage).Output(); err != nil {
		return "", fmt.Errorf("%s: %w", name, withStderr(err))
	}
	return program, nil
}

// withStderr adds what a program said before it failed.
func withStderr(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return err
}
