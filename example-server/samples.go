package main

import (
	"bytes"
	"fmt"
)

// What the files in samples have in place of secrets, which everybody can read.
const (
	sampleClientSecret = "replace this with a random text"
	samplePasswordHash = "$2a$12$Hk7Zy3FuKBZH6a5OlCUjTeNJGJ/wYNYZtSHLp/kbAqVejgBMXvgcK"
)

// refuseSamples returns an error if one of them is in use. They are for trying things out
// on one's own machine.
func refuseSamples(clients []*client, accounts *users) error {
	const forOneMachine = "which everybody can read in example-server/samples: replace it, or use a loopback -issuer"
	for _, c := range clients {
		if bytes.Equal(c.Secret, hashSecret([]byte(sampleClientSecret))) {
			return fmt.Errorf("-clients: client %q has the secret of the samples, %s", c.ID, forOneMachine)
		}
	}
	for name, hash := range accounts.hashes {
		if string(hash) == samplePasswordHash {
			return fmt.Errorf("-users: user %q has the password of the samples, %s", name, forOneMachine)
		}
	}
	return nil
}
