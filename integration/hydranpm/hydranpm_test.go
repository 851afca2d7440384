package hydranpm

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// nothing is a package that wants no other.
var nothing = map[string][]byte{
	"package.json":      []byte(`{"name": "nothing", "version": "1.0.0"}`),
	"package-lock.json": []byte(`{"name": "nothing", "version": "1.0.0", "lockfileVersion": 3, "packages": {"": {"name": "nothing", "version": "1.0.0"}}}`),
}

func TestNode(t *testing.T) {
	t.Parallel()
	folder := Folder(t)

	t.Run("the packages are there", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{Axios, Fetch, "hydra-login-consent-logout"} {
			if _, err := os.Stat(filepath.Join(folder, "node_modules", filepath.FromSlash(name), "package.json")); err != nil {
				t.Error(err)
			}
		}
	})

	t.Run("installations at the same time end in one folder, and leave nothing else", func(t *testing.T) {
		t.Parallel()
		cache := filepath.Join(t.TempDir(), "cache")
		type result struct {
			folder string
			err    error
		}
		results := make(chan result, 3)
		for range cap(results) {
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
				defer cancel()
				folder, err := install(ctx, cache, nothing)
				results <- result{folder, err}
			}()
		}
		var folder string
		for range cap(results) {
			r := <-results
			if r.err != nil {
				t.Fatal(r.err)
			}
			if folder != "" && r.folder != folder {
				t.Errorf("%s and %s", folder, r.folder)
			}
			folder = r.folder
		}
		entries, err := os.ReadDir(cache)
		if err != nil || len(entries) != 1 || filepath.Join(cache, entries[0].Name()) != folder {
			t.Errorf("there are %v, %v", entries, err)
		}
	})

	t.Run("an installation that fails leaves nothing that would be taken for one", func(t *testing.T) {
		t.Parallel()
		cache := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if folder, err := install(ctx, cache, nothing); err == nil {
			t.Errorf("installed in %s", folder)
		}
		if entries, err := os.ReadDir(cache); err != nil || len(entries) != 0 {
			t.Errorf("there are %v, %v", entries, err)
		}
	})

	t.Run("the reference application shows its pages", func(t *testing.T) {
		t.Parallel()
		if status, body := get(t, StartReferenceApp(t, "http://127.0.0.1:1")+"/"); status != http.StatusOK || !strings.Contains(body, "<title>") {
			t.Errorf("%d, %s", status, body)
		}
	})

	t.Run("the reference application asks the API, without a token", func(t *testing.T) {
		t.Parallel()
		asked := make(chan *http.Request, 1)
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case asked <- r:
			default:
				t.Errorf("asked again: %s", r.URL)
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"challenge":"x","subject":"somebody","client":{"client_id":"c","client_name":"The client"},"requested_scope":["photos"]}`)
		}))
		t.Cleanup(api.Close)
		app := StartReferenceApp(t, api.URL, "ORY_API_KEY=a key", "BASE_URL=http://pages.example")
		status, body := get(t, app+"/consent?consent_challenge=x")
		if status != http.StatusOK || !strings.Contains(body, "The client") || !strings.Contains(body, "http://pages.example/consent") {
			t.Errorf("%d, %s", status, body)
		}
		r := <-asked
		if r.URL.String() != "/admin/oauth2/auth/requests/consent?consent_challenge=x" || r.Header.Get("Sec-Fetch-Mode") == "" {
			t.Errorf("it asked %s %v", r.URL, r.Header)
		}
		// What is written about it: see StartReferenceApp and docs/hydra.md. If this fails, they are outdated.
		if r.Header.Get("Authorization") != "" {
			t.Errorf("it sent a token: %v", r.Header)
		}
	})
}

func TestTheLockFileNamesNoRegistry(t *testing.T) {
	t.Parallel()
	b, err := files.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	packages, hashes := strings.Count(string(b), `"node_modules/`), strings.Count(string(b), `"integrity": "sha512-`)
	if strings.Contains(string(b), `"resolved"`) || packages == 0 || hashes != packages {
		t.Errorf("%d packages and %d hashes, or an address that a package is from", packages, hashes)
	}
}

func get(t *testing.T, address string) (status int, body string) {
	t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}
