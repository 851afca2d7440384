package crash_test

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"syscall"
)

// A plan says where, on the way between the response's process and the database,
// something happens: after so many messages of so manieth write, or when the answer
// to that write has come. One write is one round trip; one message is a part of a
// statement, or the whole of it.
type plan struct {
	write    int
	messages int
	answer   bool // the whole write has arrived, and its answer is not seen
}

// gone is the error of a connection that is no more.
func gone(op string) error {
	return &net.OpError{Op: op, Net: "tcp", Err: syscall.ECONNRESET}
}

// wire watches the connections of one pool, and carries a plan out.
type wire struct {
	outage bool // what is lost is lost for good: no other connection can be made

	mu     sync.Mutex
	armed  bool
	writes []int // messages of each write since it was armed
	plan   *plan
	do     func() // what happens there, nil for no more than the loss of the connection
	keep   bool   // the connection is not closed: nothing passes any more, and nobody is told
	fired  bool
	conns  []net.Conn
}

func (w *wire) arm(p *plan, keep bool, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed, w.plan, w.keep, w.do, w.writes, w.fired = true, p, keep, do, nil, false
}

// end closes all connections: a network that has swallowed something forgets about
// them in the end.
func (w *wire) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.Close()
	}
}

// disarm returns how many messages each write had, and whether the plan was carried out.
func (w *wire) disarm() ([]int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	return w.writes, w.fired
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	refused := w.outage && w.fired
	w.mu.Unlock()
	if refused {
		return nil, gone("dial")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns = append(w.conns, conn)
	return &tapped{Conn: conn, wire: w}, nil
}

// tapped is one connection.
type tapped struct {
	net.Conn
	wire *wire

	mu      sync.Mutex
	silent  bool // nothing passes any more
	awaited bool // the next answer is the one that is lost
}

func (c *tapped) state() (silent, awaited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.silent, c.awaited
}

// boundaries returns the ends of the messages in b (PostgreSQL's protocol, version 3:
// a byte for the type, and four for the length).
func boundaries(b []byte) []int {
	var ends []int
	for at := 0; at+5 <= len(b); {
		at += 1 + int(binary.BigEndian.Uint32(b[at+1:]))
		if at > len(b) {
			return append(ends, len(b))
		}
		ends = append(ends, at)
	}
	return ends
}

func (c *tapped) Write(b []byte) (int, error) {
	if silent, _ := c.state(); silent {
		return len(b), nil
	}
	w := c.wire
	w.mu.Lock()
	if !w.armed || w.fired {
		w.mu.Unlock()
		return c.Conn.Write(b)
	}
	ends := boundaries(b)
	number := len(w.writes)
	w.writes = append(w.writes, len(ends))
	p := w.plan
	if p == nil || p.write != number {
		w.mu.Unlock()
		return c.Conn.Write(b)
	}
	w.fired = true
	do, keep := w.do, w.keep
	w.mu.Unlock()
	if p.answer {
		c.mu.Lock()
		c.awaited = true
		c.mu.Unlock()
		return c.Conn.Write(b)
	}
	if p.messages > 0 {
		if n, err := c.Conn.Write(b[:ends[p.messages-1]]); err != nil {
			return n, err
		}
	}
	return c.happen(do, keep, len(b))
}

// happen is the fault.
func (c *tapped) happen(do func(), keep bool, n int) (int, error) {
	if do != nil {
		do()
	}
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
	if keep {
		return n, nil
	}
	_ = c.Conn.Close()
	return 0, gone("write")
}

func (c *tapped) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	silent, awaited := c.state()
	switch {
	case awaited && err == nil: // the server has answered, and nobody hears it
		c.wire.mu.Lock()
		do, keep := c.wire.do, c.wire.keep
		c.wire.mu.Unlock()
		c.mu.Lock()
		c.awaited = false
		c.mu.Unlock()
		if _, err := c.happen(do, keep, 0); err != nil {
			return 0, err
		}
		return c.Read(b)
	case silent && err == nil:
		return c.Read(b) // thrown away, until the client gives up
	}
	return n, err
}
