package fositeconsent

import (
	"context"
	"slices"
	"time"

	"github.com/ory/fosite"
)

// SetClock replaces the clock of a gate that is not in use yet.
func (g *Gate) SetClock(now func() time.Time) { g.now = now }

// Reasons returns the labels of all reasons an error can have.
func Reasons() (labels []string) {
	for _, r := range reasons {
		labels = append(labels, r.label)
	}
	return labels
}

// CheckPolicy and Claim are steps of a response that a host does not see, as the client hears of them.
func CheckPolicy(ctx context.Context, provider fosite.OAuth2Provider, ar fosite.AuthorizeRequester) error {
	_, err := provider.(*protected).checkPolicy(ctx, ar)
	return asClientError(err, false)
}

func Claim(ctx context.Context, provider fosite.OAuth2Provider, ar fosite.AuthorizeRequester) error {
	return asClientError(provider.(*protected).claim(ctx, ar), false)
}

// Recorded reports whether refusals for that reason are recorded.
func Recorded(label string) bool { return slices.Contains(recordedRefusals, label) }
