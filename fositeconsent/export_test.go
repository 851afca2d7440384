package fositeconsent

import "time"

// SetClock replaces the clock of a gate that is not in use yet.
func (g *Gate) SetClock(now func() time.Time) { g.now = now }

// Reasons returns the labels of all reasons an error can have.
func Reasons() (labels []string) {
	for _, r := range reasons {
		labels = append(labels, r.label)
	}
	return labels
}
