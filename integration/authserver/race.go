//go:build race

package authserver

// Race tells whether this test has the race detector, and so the servers that it starts.
const Race = true
