package fositeconsent

import "time"

// Digest tmp
type Digest [32]byte

// MaxPromptLifespan tmp
const MaxPromptLifespan = 12 * time.Hour
