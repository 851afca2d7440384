package main

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
)

//go:embed pages
var pageFiles embed.FS

// Content security policies. Nothing is loaded from anywhere but here, nothing
// runs, and nobody puts a page of ours into a frame (RFC 9700, Section 4.16).
//
// There is no form-action in pagePolicy: browsers apply it to all redirects that
// follow, so that it would stop the way back to the client, and whatever redirects
// the client makes after that.
const (
	pagePolicy     = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"
	defaultPolicy  = pagePolicy + "; img-src 'self'; form-action 'self'"
	loginPolicy    = pagePolicy + "; img-src 'self'"
	formPostPolicy = pagePolicy + "; img-src 'self'; script-src 'self'"
	scriptedPolicy = defaultPolicy + "; script-src 'self'"
)

func setPolicy(w http.ResponseWriter, policy string) {
	w.Header().Set("Content-Security-Policy", policy)
}

// page is what every page has.
type page struct{ Title string }

// errorPage is what error.html shows. It holds nothing of what went wrong inside.
type errorPage struct {
	page
	Heading, Explanation, Advice string
	Link, LinkText               string
}

var (
	pageTemplates    = parsePages()
	formPostTemplate = pageTemplates["form_post"].Lookup("form_post.html") // fosite executes it: no layout
)

// parsePages parses every page together with the layout.
func parsePages() map[string]*template.Template {
	pages := map[string]*template.Template{}
	functions := template.FuncMap{"asset": assetPath}
	layout := template.Must(template.New("layout.html").Funcs(functions).ParseFS(pageFiles, "pages/layout.html"))
	files, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		panic(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "layout" {
			continue
		}
		pages[name] = template.Must(template.Must(layout.Clone()).ParseFS(pageFiles, file))
	}
	return pages
}

// assets are the files that the pages load, by name.
var assets = map[string]asset{
	"style.css":     newAsset("style.css", "text/css; charset=utf-8"),
	"once.js":       newAsset("once.js", "text/javascript; charset=utf-8"),
	"form-post.js":  newAsset("form-post.js", "text/javascript; charset=utf-8"),
	"icon.svg":      newAsset("icon.svg", "image/svg+xml"),
	"demo-logo.svg": newAsset("demo-logo.svg", "image/svg+xml"),
}

type asset struct {
	content           []byte
	contentType, hash string
}

func newAsset(name, contentType string) asset {
	content, err := pageFiles.ReadFile("pages/" + name)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(content)
	return asset{content, contentType, hex.EncodeToString(sum[:6])}
}

// assetPath returns the path of a file, which changes when the file does.
func assetPath(name string) (string, error) {
	a, ok := assets[name]
	if !ok {
		return "", fmt.Errorf("no asset %q", name)
	}
	return pathAssets + name + "?" + a.hash, nil
}

func (s *server) asset(w http.ResponseWriter, r *http.Request) {
	a, ok := assets[r.PathValue("name")]
	if !ok {
		s.notFound(w, r)
		return
	}
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(a.content)
}

// render writes a page, whole or not at all.
func (s *server) render(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	var body bytes.Buffer
	if err := pageTemplates[name].Execute(&body, data); err != nil {
		s.log.ErrorContext(r.Context(), "page could not be made", "page", name, "error", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

func (s *server) renderError(w http.ResponseWriter, r *http.Request, status int, p errorPage) {
	p.Title = p.Heading
	s.render(w, r, status, "error", p)
}

func (s *server) notFound(w http.ResponseWriter, r *http.Request) {
	s.renderError(w, r, http.StatusNotFound, errorPage{
		Heading:     "There is nothing here",
		Explanation: "This address does not lead to a page.",
	})
}

// unavailable is the page for what is not the visitor's fault and may pass.
func (s *server) unavailable(w http.ResponseWriter, r *http.Request, what string, err error) {
	s.log.ErrorContext(r.Context(), what, "error", err)
	w.Header().Set("Retry-After", "5")
	p := errorPage{
		Heading:     "This is not working right now",
		Explanation: "The server has a problem. Nothing was approved and nothing was changed.",
		Advice:      "Please try again in a moment.",
	}
	if p.Link = retryPath(r); p.Link != "" {
		p.LinkText = "Try again"
	}
	s.renderError(w, r, http.StatusServiceUnavailable, p)
}

// retryPath is where somebody who was answered with an error begins anew, "" if there
// is no such place: at the same address, or, after a form was sent, with the
// authorization request that was in it.
func retryPath(r *http.Request) string {
	if r.Method == http.MethodGet {
		return r.URL.RequestURI()
	}
	form, err := posted(r)
	if err != nil || !form.Has(fieldRequest) {
		return ""
	}
	query, err := returnQuery(form.Get(fieldRequest))
	if err != nil {
		return ""
	}
	return returnPath(query)
}

// badForm is the page for a form that none of our pages can have sent.
func (s *server) badForm(w http.ResponseWriter, r *http.Request, err error) {
	s.log.WarnContext(r.Context(), "form refused", "error", err)
	s.renderError(w, r, http.StatusBadRequest, errorPage{
		Heading:     "This could not be understood",
		Explanation: "What your browser sent is not what the page asks for, so nothing was done.",
		Advice:      "Go back to the application and start again.",
	})
}

// crossOrigin is the page for a form that another site has sent.
func (s *server) crossOrigin(w http.ResponseWriter, r *http.Request) {
	s.log.WarnContext(r.Context(), "cross-origin form refused", "path", r.URL.Path)
	s.renderError(w, r, http.StatusForbidden, errorPage{
		Heading:     "Another site tried to answer for you",
		Explanation: "A form was sent here from a page that is not ours. Nothing was done.",
		Advice:      "If you did not expect this, close the page that you came from.",
	})
}

func isFormPost(r *http.Request) bool {
	mediaType, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "application/x-www-form-urlencoded")
}

// posted returns the fields of a posted form, from the body alone.
func posted(r *http.Request) (url.Values, error) {
	if !isFormPost(r) {
		return nil, errors.New("it is not a posted form")
	}
	if r.URL.RawQuery != "" {
		return nil, errors.New("there are fields in the address")
	}
	if err := r.ParseForm(); err != nil {
		return nil, errors.New("it is not well-formed or too long")
	}
	return r.PostForm, nil
}

// postedForm returns the fields of a posted form that may have these, each at
// most once.
func postedForm(r *http.Request, names ...string) (url.Values, error) {
	form, err := posted(r)
	if err != nil {
		return nil, err
	}
	known := 0
	for _, name := range names {
		if len(form[name]) > 1 {
			return nil, fmt.Errorf("%q is there more than once", name)
		}
		known += len(form[name])
	}
	total := 0
	for _, values := range form {
		total += max(1, len(values))
	}
	if total != known {
		return nil, errors.New("there is a field that the page does not have")
	}
	return form, nil
}
