package hydranpm

import (
	"bufio"
	"context"
	_ "embed" // the script
	"encoding/json"
	"io"
	"testing"
)

// The clients of Hydra's that [NewClient] knows, by the names of their packages.
const (
	Axios = "@ory/hydra-client"
	Fetch = "@ory/hydra-client-fetch"
)

//go:embed client.mjs
var script string

// Client is one of Hydra's clients in a process of Node.js.
type Client struct {
	t       testing.TB
	stdin   io.Writer
	answers *bufio.Scanner
	stderr  *output
}

// Result is what a call brings to its caller in JavaScript.
type Result struct {
	Status int
	// Error is the name of the error that the client has thrown, "" if it has returned.
	Error string
	// Data is what the client has returned, or else the body that the error has, parsed.
	Data json.RawMessage
	// Link is the header of a list.
	Link string
}

// NewClient starts the client with the API's address. authorization, if it is not "", is the header that the client is configured to
// send with each call. It ends with the test.
func NewClient(t testing.TB, name, apiURL, authorization string) *Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	cmd := Node(ctx, t, []string{"--input-type=module", "--eval", script, name, apiURL, authorization})
	c := &Client{t: t, stderr: &output{}}
	cmd.Stderr = c.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A pipe of our own: Wait closes the one of StdoutPipe, whoever still reads.
	reader, writer := io.Pipe()
	cmd.Stdout = writer
	c.stdin, c.answers = stdin, bufio.NewScanner(reader)
	c.answers.Buffer(nil, 16<<20)
	ended, err := Start(cmd)
	if err != nil {
		cancel()
		t.Fatal("hydranpm:", err)
	}
	gone := make(chan error, 1)
	go func() {
		err := <-ended
		_ = writer.Close() // whoever waits for an answer gets none
		gone <- err
	}()
	t.Cleanup(func() {
		_ = stdin.Close() // the end of the calls, and of the script
		if err := <-gone; err != nil {
			t.Errorf("hydranpm: %s: %v\n%s", name, err, c.stderr)
		}
		cancel()
	})
	return c
}

// Call calls a method, such as "acceptOAuth2ConsentRequest", with the object that it takes. The method "pages" is listOAuth2ConsentSessions
// for as long as the header Link leads on: its Data is a list of lists.
func (c *Client) Call(method string, parameters map[string]any) Result {
	c.t.Helper()
	line, err := json.Marshal(map[string]any{"method": method, "parameters": parameters})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.stdin.Write(append(line, '\n')); err != nil {
		c.t.Fatalf("hydranpm: %s: %v\n%s", method, err, c.stderr)
	}
	var r Result
	if !c.answers.Scan() {
		c.t.Fatalf("hydranpm: %s: no answer: %v\n%s", method, c.answers.Err(), c.stderr)
	}
	if err := json.Unmarshal(c.answers.Bytes(), &r); err != nil {
		c.t.Fatalf("hydranpm: %s: %v: %s", method, err, c.answers.Bytes())
	}
	return r
}
