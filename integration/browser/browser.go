// Package browser drives a real Chromium: the one that TEST_CHROMIUM names, or that
// is on PATH. There is one process for all tests; each test has profiles of its own,
// which know nothing of each other, and tabs in them.
//
//	chromium := browser.Start(t)
//	tab := chromium.Profile(t).Tab()
//	tab.Open(url)
//	tab.Arrive(url)
//	tab.Click("button")
//
// Nothing here waits for time to pass: a test waits for a document to have loaded
// ([Tab.Arrive]) or for an element to be there. A test that has failed leaves a
// screenshot and the HTML of each of its tabs, and says where.
package browser

import (
	"context"
	_ "embed" // the inspection
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// Time limits that no test comes near on a machine that works.
const (
	startTimeout = time.Minute
	patience     = 40 * time.Second // of each single step
)

// Chromium is a running browser.
type Chromium struct{ ctx context.Context }

// Start starts the browser for a test and its subtests. Without a browser it skips
// the test; in CI, or when TEST_CHROMIUM names none, it fails it.
func Start(t *testing.T) *Chromium {
	t.Helper()
	path, err := find()
	switch {
	case err != nil && os.Getenv("CI") == "" && os.Getenv("TEST_CHROMIUM") == "":
		t.Skip("no browser:", err)
	case err != nil:
		t.Fatal("no browser:", err)
	}
	output := new(lockedBuilder)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // tests run as root, too
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("lang", "en-US"),
		chromedp.WindowSize(1280, 900),
		chromedp.CombinedOutput(output),
	)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)

	// The context of the first call is the browser's: it must have no deadline.
	started := make(chan error, 1)
	go func() { started <- chromedp.Do(ctx) }()
	limit := time.NewTimer(startTimeout)
	defer limit.Stop()
	select {
	case err = <-started:
	case <-limit.C:
		err = fmt.Errorf("it did not start within %v", startTimeout)
	}
	if err != nil {
		t.Fatalf("browser: %s: %v\n%s", path, err, output)
	}
	return &Chromium{ctx}
}

// find returns the path of the browser.
func find() (string, error) {
	if name := os.Getenv("TEST_CHROMIUM"); name != "" {
		path, err := exec.LookPath(name)
		if err != nil {
			return "", fmt.Errorf("TEST_CHROMIUM: %w", err)
		}
		return path, nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("install chromium, or name one in TEST_CHROMIUM")
}

// Profile is a browser profile: cookies, cache and history are its own, and gone
// at the test's end.
type Profile struct {
	t        *testing.T
	chromium *Chromium
	id       cdp.BrowserContextID
	mu       sync.Mutex
	tabs     []*Tab
}

// Profile makes a profile.
func (c *Chromium) Profile(t *testing.T) *Profile {
	t.Helper()
	created, err := chromedp.CallBrowser(c.ctx, target.CreateBrowserContext, target.CreateBrowserContextParams{})
	if err != nil {
		t.Fatalf("browser: make a profile: %v", err)
	}
	p := &Profile{t: t, chromium: c, id: created.BrowserContextID}
	t.Cleanup(p.close)
	return p
}

func (p *Profile) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tab := range p.tabs {
		for _, complaint := range tab.Complaints() {
			p.t.Errorf("browser: it complains: %s", complaint)
		}
	}
	for i, tab := range p.tabs {
		if p.t.Failed() {
			tab.leaveTraces(i)
		}
		tab.cancel()
	}
	if _, err := chromedp.CallBrowser(p.chromium.ctx, target.DisposeBrowserContext, target.DisposeBrowserContextParams{BrowserContextID: p.id}); err != nil {
		p.t.Errorf("browser: remove a profile: %v", err)
	}
}

// Document is what a tab has shown.
type Document struct {
	URL    *url.URL
	Status int64 // of the response; 0 if it came from nowhere
	Back   bool  // it was kept in memory, and is shown again as it was
	Failed bool  // it is the browser's own page about an error

	loader cdp.LoaderID
	loaded bool
}

// Tab is a tab in a window of its own.
type Tab struct {
	t      *testing.T
	ctx    context.Context
	cancel context.CancelFunc

	mu         sync.Mutex
	changed    chan struct{} // closed at the next change
	documents  []*Document
	arrived    int // how many documents have been arrived at, or passed
	statuses   map[cdp.LoaderID]int64
	held       []fetch.RequestID
	complaints []string
}

// Tab opens an empty tab.
func (p *Profile) Tab() *Tab {
	p.t.Helper()
	tab := &Tab{t: p.t, changed: make(chan struct{}), statuses: map[cdp.LoaderID]int64{}}
	tab.ctx, tab.cancel = chromedp.NewContext(p.chromium.ctx, chromedp.WithExistingBrowserContext(p.id), chromedp.WithListener(tab.listen))
	if err := chromedp.Do(tab.ctx); err != nil {
		tab.cancel()
		p.t.Fatalf("browser: open a tab: %v", err)
	}
	p.mu.Lock()
	p.tabs = append(p.tabs, tab)
	p.mu.Unlock()
	// The tab behaves as if its window were the one in front, whatever others do.
	Call(tab, emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true})
	return tab
}

// listen runs where the tab's messages are read: it must not send commands.
func (tab *Tab) listen(event any) {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	switch e := event.(type) {
	case *network.EventResponseReceived:
		if e.Type == network.ResourceTypeDocument && e.Response != nil {
			tab.statuses[e.LoaderID] = e.Response.Status
			for _, d := range tab.documents {
				if d.loader == e.LoaderID && d.Status == 0 {
					d.Status = e.Response.Status
				}
			}
		}
	case *page.EventFrameNavigated:
		if e.Frame.ParentID != "" {
			return
		}
		d := &Document{loader: e.Frame.LoaderID, Status: tab.statuses[e.Frame.LoaderID]}
		address := e.Frame.URL + e.Frame.URLFragment
		if e.Frame.UnreachableURL != "" {
			address, d.Failed = e.Frame.UnreachableURL, true
		}
		var err error
		if d.URL, err = url.Parse(address); err != nil {
			d.URL = &url.URL{Opaque: address}
		}
		if e.Type == page.NavigationTypeBackForwardCacheRestore {
			d.Back, d.loaded = true, true
		}
		tab.documents = append(tab.documents, d)
	case *page.EventLifecycleEvent:
		if e.Name != "load" {
			return
		}
		for _, d := range tab.documents {
			if d.loader == e.LoaderID {
				d.loaded = true
			}
		}
	case *fetch.EventRequestPaused:
		tab.held = append(tab.held, e.RequestID)
	case *log.EventEntryAdded:
		// What the network is blamed for are statuses, which tests look at themselves.
		if e.Entry.Source != log.EntrySourceNetwork && e.Entry.Level == log.EntryLevelError {
			tab.complaints = append(tab.complaints, fmt.Sprintf("%s: %s", e.Entry.Source, e.Entry.Text))
		}
	case *runtime.EventExceptionThrown:
		tab.complaints = append(tab.complaints, "script: "+e.ExceptionDetails.Text)
	default:
		return
	}
	close(tab.changed)
	tab.changed = make(chan struct{})
}

// await waits until the condition, which runs under the lock, holds.
func (tab *Tab) await(what string, condition func() bool) {
	tab.t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for {
		tab.mu.Lock()
		ok, changed := condition(), tab.changed
		tab.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			tab.t.Fatalf("browser: waited in vain for %s; the tab has been at:\n%s", what, tab.trail())
		}
	}
}

func (tab *Tab) trail() string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	var list strings.Builder
	for _, d := range tab.documents {
		fmt.Fprintf(&list, "  %d %s", d.Status, d.URL)
		if !d.loaded {
			list.WriteString(" (not loaded)")
		}
		list.WriteByte('\n')
	}
	return list.String()
}

// Arrive waits until the tab has loaded a document of that origin and path, one that
// came after the last it arrived at.
func (tab *Tab) Arrive(address string) Document {
	tab.t.Helper()
	want, err := url.Parse(address)
	if err != nil {
		tab.t.Fatal(err)
	}
	var found Document
	tab.await("a page at "+address, func() bool {
		for i := tab.arrived; i < len(tab.documents); i++ {
			d := tab.documents[i]
			if d.loaded && d.URL.Scheme == want.Scheme && d.URL.Host == want.Host && d.URL.Path == want.Path {
				found, tab.arrived = *d, i+1
				return true
			}
		}
		return false
	})
	return found
}

// Step limits an action of chromedp in time, and fails the test when it fails.
func Step[T any](tab *Tab, action chromedp.Action[T]) T {
	tab.t.Helper()
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		tab.t.Fatalf("browser: %v; the tab has been at:\n%s", err, tab.trail())
	}
	return result
}

// Call sends a command to the tab.
func Call[P, R any](tab *Tab, command cdp.Command[P, R], params P) R {
	tab.t.Helper()
	return Step(tab, func(ctx context.Context, target *chromedp.Target) (R, error) {
		return cdp.Call(ctx, target, command, params)
	})
}

// Evaluate returns the value of a JavaScript expression, also when the page may run
// no scripts.
func Evaluate[T any](tab *Tab, expression string) T {
	tab.t.Helper()
	return Step(tab, chromedp.Evaluate[T](expression))
}

// Open begins to go to an address.
func (tab *Tab) Open(address string) {
	tab.t.Helper()
	Call(tab, page.Navigate, page.NavigateParams{URL: address})
}

// Back presses the browser's Back button.
func (tab *Tab) Back() {
	tab.t.Helper()
	history := Call(tab, page.GetNavigationHistory, cdp.Empty{})
	if history.CurrentIndex < 1 {
		tab.t.Fatal("browser: there is no way back")
	}
	Call(tab, page.NavigateToHistoryEntry, page.NavigateToHistoryEntryParams{EntryID: history.Entries[history.CurrentIndex-1].ID})
}

// Reload loads the page again; if it came in answer to a form, that is sent again.
func (tab *Tab) Reload() {
	tab.t.Helper()
	Call(tab, page.Reload, page.ReloadParams{})
}

// Click clicks on the middle of the first element that matches.
func (tab *Tab) Click(selector string) {
	tab.t.Helper()
	tab.clickAt(tab.middle(selector), 1)
}

func (tab *Tab) clickAt(at []float64, count int) {
	tab.t.Helper()
	Step(tab, chromedp.MouseClickXY(at[0], at[1], chromedp.ClickCount(count)))
}

// ClickTwice clicks on the same place twice, and does something between the clicks. The
// document that the first one leads to has to be held back, or the second is on that.
func (tab *Tab) ClickTwice(selector string, between func()) {
	tab.t.Helper()
	at := tab.middle(selector)
	tab.clickAt(at, 1)
	between()
	tab.clickAt(at, 2)
}

// middle returns where the middle of an element is, which it scrolls into the window.
// What chromedp has for that waits for a document tree that it has itself followed, and
// so for ever where the browser shows a kept page or waits for the next one.
func (tab *Tab) middle(selector string) []float64 {
	tab.t.Helper()
	at := Evaluate[[]float64](tab, fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		if (!e?.checkVisibility({visibilityProperty: true})) return [];
		e.scrollIntoView({block: "nearest", behavior: "instant"});
		const box = e.getBoundingClientRect();
		return [box.x + box.width / 2, box.y + box.height / 2];
	})()`, selector))
	if len(at) != 2 {
		tab.t.Fatalf("browser: there is no %s to be seen; the tab has been at:\n%s", selector, tab.trail())
	}
	return at
}

// Type clicks on the element and types.
func (tab *Tab) Type(selector, text string) {
	tab.t.Helper()
	tab.Click(selector)
	tab.Keys(text)
}

// Keys types where the focus is.
func (tab *Tab) Keys(keys string, options ...chromedp.KeyOption) {
	tab.t.Helper()
	Step(tab, chromedp.KeyEvent(keys, options...))
}

// Settle waits until the browser has drawn what there is: only then is the focus where
// the page wants it.
func (tab *Tab) Settle() {
	tab.t.Helper()
	Step(tab, chromedp.Evaluate[any](`new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`, chromedp.EvalAwaitPromise))
}

// Text returns what a person reads of the first element that matches, "" if there
// is none.
func (tab *Tab) Text(selector string) string {
	tab.t.Helper()
	return Evaluate[string](tab, fmt.Sprintf(`(document.querySelector(%q)?.innerText ?? "").trim()`, selector))
}

// Count returns how many elements match.
func (tab *Tab) Count(selector string) int {
	tab.t.Helper()
	return Evaluate[int](tab, fmt.Sprintf(`document.querySelectorAll(%q).length`, selector))
}

// Value returns the first matching element's value.
func (tab *Tab) Value(selector string) string {
	tab.t.Helper()
	return Evaluate[string](tab, fmt.Sprintf(`document.querySelector(%q).value`, selector))
}

// WithoutScripts has the tab's pages run no scripts.
func (tab *Tab) WithoutScripts() {
	tab.t.Helper()
	Call(tab, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
}

// Complaints returns what the browser has complained of since the last call: a policy
// that a page goes against, or a script that fails. At the end of a test there may be
// none.
func (tab *Tab) Complaints() []string {
	tab.mu.Lock()
	defer tab.mu.Unlock()
	list := tab.complaints
	tab.complaints = nil
	return list
}

// Hold has the responses of requests to addresses of that pattern, with * for
// anything, arrive only when Release is called.
func (tab *Tab) Hold(pattern string) {
	tab.t.Helper()
	Call(tab, fetch.Enable, fetch.EnableParams{Patterns: []*fetch.RequestPattern{{URLPattern: pattern, RequestStage: fetch.RequestStageResponse}}})
}

// AwaitHeld waits until there are so many responses that have been held back.
func (tab *Tab) AwaitHeld(n int) {
	tab.t.Helper()
	tab.await(fmt.Sprintf("%d responses", n), func() bool { return len(tab.held) >= n })
}

// Release lets all responses arrive that were held back, and holds none any more.
func (tab *Tab) Release() {
	tab.t.Helper()
	Call(tab, fetch.Disable, cdp.Empty{})
}

// Frames returns the addresses of the frames in the page, each after its load or failure.
func (tab *Tab) Frames() []string {
	tab.t.Helper()
	var list []string
	for _, child := range Call(tab, page.GetFrameTree, cdp.Empty{}).FrameTree.ChildFrames {
		list = append(list, child.Frame.URL)
	}
	return list
}

// Look has the window be so large, and the person have a taste: light or dark.
func (tab *Tab) Look(width, height int64, scheme string) {
	tab.t.Helper()
	Call(tab, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600})
	Call(tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
}

//go:embed inspect.js
var inspection string

// Inspect returns what is wrong with the page for somebody who cannot see it, cannot
// use a mouse or has a small screen. It finds only what a program can.
func (tab *Tab) Inspect() []string {
	tab.t.Helper()
	findings := Evaluate[[]string](tab, inspection)
	for _, node := range Call(tab, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		role, name := property(node.Role), strings.TrimSpace(property(node.Name))
		switch role {
		case "textbox", "checkbox", "button", "link", "heading", "region", "complementary", "image":
			if !node.Ignored && name == "" {
				findings = append(findings, "a "+role+" has no name that could be read out")
			}
		}
	}
	return findings
}

func property(v *accessibility.Value) string {
	var s string
	if v == nil || json.Unmarshal(v.Value, &s) != nil {
		return ""
	}
	return s
}

// Screenshot returns the whole page as PNG.
func (tab *Tab) Screenshot() []byte {
	tab.t.Helper()
	return Call(tab, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true), Format: page.CaptureScreenshotFormatPng}).Data
}

// unsafe is what file names do without.
var unsafe = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// leaveTraces writes down what the tab shows, for whoever looks into a failed test.
func (tab *Tab) leaveTraces(number int) {
	dir := os.Getenv("TEST_SCREENSHOTS")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "fosite-consent-failed")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tab.t.Logf("browser: %v", err)
		return
	}
	ctx, cancel := context.WithTimeout(tab.ctx, patience)
	defer cancel()
	base := filepath.Join(dir, unsafe.ReplaceAllString(fmt.Sprintf("%s-tab%d", tab.t.Name(), number), "_"))
	tab.t.Logf("browser: tab %d has been at:\n%s", number, tab.trail())
	if png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100)); err != nil {
		tab.t.Logf("browser: no screenshot: %v", err)
	} else if err := os.WriteFile(base+".png", png, 0o600); err == nil {
		tab.t.Logf("browser: tab %d looks as in %s", number, base+".png")
	}
	if text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.documentElement.outerHTML`)); err != nil {
		tab.t.Logf("browser: no HTML: %v", err)
	} else if err := os.WriteFile(base+".html", []byte(text), 0o600); err == nil {
		tab.t.Logf("browser: tab %d is %s", number, base+".html")
	}
}

// lockedBuilder collects what the browser says.
type lockedBuilder struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer.
func (b *lockedBuilder) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns all of it.
func (b *lockedBuilder) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
