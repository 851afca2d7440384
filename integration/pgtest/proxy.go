package pgtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// Direction is one of the two ways through a Proxy.
type Direction int

const (
	// ToServer is what a client sends.
	ToServer Direction = iota
	// ToClient is what the server answers.
	ToClient
)

// Proxy passes TCP connections on to a server, until it is told to fail in one way
// or another. Its methods may be called at any time from any goroutine.
type Proxy struct {
	listener net.Listener

	mu      sync.Mutex
	target  string
	closed  bool
	refuse  bool
	blocked chan struct{} // while not nil nothing passes; closed when it does again
	delay   time.Duration
	cuts    map[Direction]*cut
	links   map[*link]struct{}
	running sync.WaitGroup
}

// cut is a connection's end that is to come.
type cut struct {
	after int64
	done  chan struct{}
}

// link is one connection through the proxy.
type link struct {
	client, server *net.TCPConn
	ended          chan struct{}
	end            sync.Once
}

// NewProxy starts a proxy on a port of 127.0.0.1 in front of target, a host and
// port. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	p := &Proxy{listener: l, target: target, cuts: map[Direction]*cut{}, links: map[*link]struct{}{}}
	p.running.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// ProxyTo starts a proxy in front of a database's server and returns it with the
// database's URL through it.
func ProxyTo(t testing.TB, databaseURL string) (*Proxy, string) {
	t.Helper()
	var host string
	edit(t, databaseURL, func(u *url.URL) {
		host = u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), "5432")
		}
	})
	p := NewProxy(t, host)
	return p, p.URL(databaseURL)
}

// Addr returns the host and port that the proxy listens on.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// URL returns the connection URL of a database with the proxy's address in place
// of the server's. It panics if the text is not a URL.
func (p *Proxy) URL(databaseURL string) string {
	u, err := changed(databaseURL, func(u *url.URL) { u.Host = p.Addr() })
	if err != nil {
		panic("pgtest: " + err.Error())
	}
	return u
}

// SetTarget has new connections go to another host and port.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Connections returns how many connections pass through the proxy now.
func (p *Proxy) Connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Cut ends every connection that passes through the proxy now: the client sees a
// reset, the server an end of input. New connections are served.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// CutAfter lets n further bytes pass in one direction, counted over all
// connections, and then ends the connection that the last one passed on. With n = 0
// that is the one with the next byte, which does not pass. It happens once; the
// channel is closed when it has. The server still gets what was passed on before.
//
// CutAfter(ToClient, 0) is the way to have a statement carried out and its answer
// lost.
func (p *Proxy) CutAfter(d Direction, n int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &cut{after: n, done: make(chan struct{})}
	p.cuts[d] = c
	return c.done
}

// Refuse has every new connection reset at once, as if the server were down. Those
// that are open go on.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = true
}

// Blackhole lets nothing pass in either direction, while connections stay open and
// new ones are accepted, as if the network swallowed everything.
func (p *Proxy) Blackhole() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.blocked == nil {
		p.blocked = make(chan struct{})
	}
}

// Delay holds everything up by d in each direction.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Heal ends Refuse, Blackhole, Delay and a CutAfter that has not happened. What a
// black hole held up is passed on.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.delay = false, 0
	clear(p.cuts)
	if p.blocked != nil {
		close(p.blocked)
		p.blocked = nil
	}
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	for l := range p.links {
		l.reset()
	}
	p.mu.Unlock()
	_ = p.listener.Close()
	p.running.Wait()
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue
		}
		client, _ := c.(*net.TCPConn)
		p.running.Go(func() { p.serve(client) })
	}
}

// serve passes one connection on until it ends.
func (p *Proxy) serve(client *net.TCPConn) {
	p.mu.Lock()
	target, refuse := p.target, p.refuse || p.closed
	p.mu.Unlock()
	if refuse {
		abort(client)
		return
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", target)
	if err != nil {
		abort(client)
		return
	}
	server, _ := c.(*net.TCPConn)
	l := &link{client: client, server: server, ended: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		l.reset()
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { p.copy(l, ToServer, server, client) })
	both.Go(func() { p.copy(l, ToClient, client, server) })
	both.Wait()

	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
	l.end.Do(func() { close(l.ended) })
	_, _ = client.Close(), server.Close()
}

// copy passes bytes on in one direction until their source ends.
func (p *Proxy) copy(l *link, d Direction, to, from *net.TCPConn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.pass(l, d, to, buffer[:n]) {
			l.reset()
			return
		}
		if errors.Is(err, io.EOF) {
			_ = to.CloseWrite()
			return
		} else if err != nil {
			l.reset()
			return
		}
	}
}

// pass passes bytes on, or as many of them as may still pass.
func (p *Proxy) pass(l *link, d Direction, to *net.TCPConn, b []byte) bool {
	p.mu.Lock()
	delay := p.delay
	p.mu.Unlock()
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.ended:
			return false
		}
	}
	p.mu.Lock()
	for p.blocked != nil {
		blocked := p.blocked
		p.mu.Unlock()
		select {
		case <-blocked:
		case <-l.ended:
			return false
		}
		p.mu.Lock()
	}
	var now *cut
	if c := p.cuts[d]; c != nil {
		if c.after -= int64(len(b)); c.after <= 0 {
			b = b[:int64(len(b))+c.after]
			now = c
			delete(p.cuts, d)
		}
	}
	p.mu.Unlock()

	_, err := to.Write(b)
	if now != nil {
		l.reset()
		close(now.done)
		return false
	}
	return err == nil
}

// reset ends a connection: the client's side with a reset, the server's side in
// good order, since a reset could take back bytes that it has not read yet.
func (l *link) reset() {
	l.end.Do(func() {
		close(l.ended)
		abort(l.client)
		_ = l.server.Close()
	})
}

// abort closes a connection with a reset.
func abort(c *net.TCPConn) {
	_ = c.SetLinger(0) // then it is closed in good order, which ends it too
	_ = c.Close()
}
