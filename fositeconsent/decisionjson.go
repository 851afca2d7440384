package fositeconsent

import (
	"encoding/hex"
	"encoding/json"
	"time"
)

// decisionSchema names the form of a record in JSON. What is added to it changes no name.
const decisionSchema = "fosite-consent/decision/1"

// decisionJSON has the field names of ISO/IEC TS 27560:2023, as far as that has them; the rest has
// names of our own.
type decisionJSON struct {
	SchemaVersion     string          `json:"schema_version"`
	RecordID          string          `json:"record_id"`
	PIIPrincipalID    string          `json:"pii_principal_id"`
	PIIControllers    []string        `json:"pii_controllers"`
	ThirdParties      []string        `json:"recipient_third_parties"`
	PrivacyNotice     string          `json:"privacy_notice,omitempty"`
	Purposes          []string        `json:"purposes"`
	Services          []string        `json:"services"`
	Event             decisionJSONOne `json:"event"`
	RequestedPurposes []string        `json:"requested_purposes,omitempty"`
	RequestedServices []string        `json:"requested_services,omitempty"`
	ConsentIDs        []string        `json:"consent_ids"`
}

type decisionJSONOne struct {
	Time   string `json:"event_time"`
	Type   string `json:"event_type"`
	State  string `json:"event_state"`
	Reason string `json:"reason,omitempty"`
}

// consentState is the state of consent that an outcome leaves, in the words that are common for
// it, and whether it was expressed or taken for granted.
func (r DecisionRecord) consentState() (eventType, state string) {
	switch r.Outcome {
	case OutcomeApproved:
		return "explicit", "given"
	case OutcomeDenied:
		return "explicit", "refused"
	case OutcomePassed:
		return string(r.Basis), "given"
	case OutcomeRevoked:
		return "explicit", "withdrawn"
	case OutcomeRefused:
		return "none", "invalid"
	default:
		return "none", "unknown"
	}
}

// MarshalJSON returns the record in the field names of ISO/IEC TS 27560:2023: the subject is
// pii_principal_id, the issuer one of pii_controllers, the client one of recipient_third_parties, scopes
// are purposes, the audience is services, and the digest of what was shown is privacy_notice, as
// "sha-256:" and hexadecimal digits. event_state is given, refused, withdrawn or, of what
// the gate refused, invalid; event_type is explicit where the resource owner acted, the
// [Basis] where a response passed, and otherwise none. schema_version, requested_purposes,
// requested_services, consent_ids and event.reason are our own. Empty lists are there as such, but for
// what was requested.
func (r DecisionRecord) MarshalJSON() ([]byte, error) {
	j := decisionJSON{
		SchemaVersion: decisionSchema, RecordID: r.ID.String(), PIIPrincipalID: r.Subject,
		PIIControllers: []string{r.Issuer}, ThirdParties: []string{}, Purposes: listed(r.Scopes), Services: listed(r.Audience),
		RequestedPurposes: r.RequestedScopes, RequestedServices: r.RequestedAudience, ConsentIDs: idTexts(r.ConsentIDs),
	}
	if r.ClientID != "" {
		j.ThirdParties = []string{r.ClientID}
	}
	if r.Shown != (Digest{}) {
		j.PrivacyNotice = "sha-256:" + hex.EncodeToString(r.Shown[:])
	}
	j.Event.Type, j.Event.State = r.consentState()
	j.Event.Time, j.Event.Reason = r.RecordedAt.UTC().Format(time.RFC3339Nano), r.Reason
	return json.Marshal(j)
}

// listed is never null in JSON.
func listed(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
