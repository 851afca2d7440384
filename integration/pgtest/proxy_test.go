package pgtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// proxied returns a proxy in front of a new database with a table to write to, a
// connection through it, and one beside it.
func proxied(t *testing.T) (p *Proxy, through, direct *pgx.Conn) {
	t.Helper()
	database := Database(t)
	p, via := ProxyTo(t, database)
	connect := func(u string) *pgx.Conn {
		c, err := pgx.Connect(within(t, time.Minute), u)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = c.Close(ctx)
		})
		return c
	}
	through, direct = connect(via), connect(database)
	if _, err := direct.Exec(within(t, time.Minute), "CREATE TABLE written (n int)"); err != nil {
		t.Fatal(err)
	}
	return p, through, direct
}

func count(t *testing.T, c *pgx.Conn) (n int) {
	t.Helper()
	if err := c.QueryRow(within(t, time.Minute), "SELECT count(*) FROM written").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

const insert = "INSERT INTO written VALUES (1)"

func TestProxyPassesBothDirectionsOn(t *testing.T) {
	t.Parallel()
	p, through, direct := proxied(t)
	var text string
	if err := through.QueryRow(within(t, time.Minute), "SELECT repeat('x', 1000000)").Scan(&text); err != nil || len(text) != 1000000 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	if _, err := through.Exec(within(t, time.Minute), insert); err != nil || count(t, direct) != 1 {
		t.Errorf("insert: %v", err)
	}
	if p.Connections() != 1 {
		t.Errorf("%d connections", p.Connections())
	}
}

func TestProxyLosesTheAnswerOfAStatementThatWasCarriedOut(t *testing.T) {
	t.Parallel()
	p, through, direct := proxied(t)
	done := p.CutAfter(ToClient, 0)
	if _, err := through.Exec(within(t, time.Minute), insert, pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Error("the answer came")
	}
	<-done
	if count(t, direct) != 1 {
		t.Error("the statement was not carried out")
	}
	next, err := pgx.Connect(within(t, time.Minute), p.URL(direct.Config().ConnString()))
	if err != nil {
		t.Fatalf("the next connection: %v", err)
	}
	_ = next.Close(within(t, time.Minute))
}

func TestProxyLosesAStatement(t *testing.T) {
	t.Parallel()
	p, through, direct := proxied(t)
	done := p.CutAfter(ToServer, 5)
	if _, err := through.Exec(within(t, time.Minute), insert, pgx.QueryExecModeSimpleProtocol); err == nil {
		t.Error("an answer came")
	}
	<-done
	if count(t, direct) != 0 {
		t.Error("the statement was carried out")
	}
}

func TestProxyCutsOpenConnections(t *testing.T) {
	t.Parallel()
	p, through, direct := proxied(t)
	p.Cut()
	if _, err := through.Exec(within(t, time.Minute), insert); err == nil {
		t.Error("the connection goes on")
	}
	if count(t, direct) != 0 {
		t.Error("the statement was carried out")
	}
}

func TestProxyRefusesAndHeals(t *testing.T) {
	t.Parallel()
	p, through, direct := proxied(t)
	via := p.URL(direct.Config().ConnString())
	p.Refuse()
	if _, err := pgx.Connect(within(t, time.Minute), via); err == nil {
		t.Error("a new connection is accepted")
	}
	if _, err := through.Exec(within(t, time.Minute), insert); err != nil {
		t.Errorf("an open connection: %v", err)
	}
	p.Heal()
	c, err := pgx.Connect(within(t, time.Minute), via)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close(within(t, time.Minute))
}

func TestProxySwallowsEverythingUntilItHeals(t *testing.T) {
	t.Parallel()
	p, through, direct := proxied(t)
	p.Blackhole()
	answer := make(chan error, 1)
	go func() {
		_, err := through.Exec(context.Background(), insert)
		answer <- err
	}()
	_, err := pgx.Connect(within(t, 100*time.Millisecond), p.URL(direct.Config().ConnString()))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a new connection: %v", err)
	}
	select {
	case err := <-answer:
		t.Errorf("an answer came: %v", err)
	default:
	}
	if count(t, direct) != 0 {
		t.Error("the statement passed")
	}
	p.Heal()
	if err := <-answer; err != nil || count(t, direct) != 1 {
		t.Errorf("after healing: %v", err)
	}
}

func TestProxyDelays(t *testing.T) {
	t.Parallel()
	p, through, _ := proxied(t)
	p.Delay(30 * time.Millisecond)
	begin := time.Now()
	if _, err := through.Exec(within(t, time.Minute), insert, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 60*time.Millisecond {
		t.Errorf("there and back took %v", took)
	}
}
