package events

import (
	"fmt"
	"strconv"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// Cause says why a transition happened. Readers accept causes they do not know.
type Cause string

// The causes of transitions.
const (
	CauseResult       Cause = "result"       // a poll or push said so
	CauseSilence      Cause = "silence"      // a push check was silent for longer than its ttl
	CauseAway         Cause = "away"         // no worker polled the check: our failure
	CauseOverride     Cause = "override"     // set or cleared by hand
	CauseExpired      Cause = "expired"      // an override ended
	CauseRegistration Cause = "registration" // registered anew, changed or deregistered
	CauseDependency   Cause = "dependency"   // another check's transition
	CausePresent      Cause = "present"      // no transition: how a check or host is
)

// Moment is one side of a transition. The very first one of a subject has a
// phase only.
type Moment struct {
	Status *Status `json:"status,omitempty"`
	Phase  Phase   `json:"phase"`
	Since  Time    `json:"since,omitzero"`
}

// Transition is a numbered change of the status or phase of a check or host:
// the data of [TypeCheckChanged] and [TypeHostChanged]. Check is empty for a host.
type Transition struct {
	Host     string            `json:"host"`
	Check    string            `json:"check,omitempty"`
	Number   uint64            `json:"number"` // 1, 2, 3 ... per check and per host
	Previous Moment            `json:"previous"`
	Current  Moment            `json:"current"`
	Message  string            `json:"message"`
	Labels   map[string]string `json:"labels,omitempty"`
	Cause    Cause             `json:"cause"`
	Checks   []string          `json:"checks,omitempty"` // of a host: ids that are not OK, 20 at most
}

// MaxTold is how many ids a host's transition names.
const MaxTold = 20

// ID returns the CloudEvents id of the transition: with its source it is
// unique, and the same whoever tells it.
func (t Transition) ID() string { return TransitionID(t.Host, t.Check, t.Number) }

// TransitionID is the CloudEvents id of the n-th transition of a check, or with
// an empty check of a host.
func TransitionID(host, check string, n uint64) string {
	id := Token(host)
	if check != "" {
		id += "." + Token(check)
	}
	return id + "#" + strconv.FormatUint(n, 10)
}

// TransitionSource is the CloudEvents source of transitions: their subject's
// owner, never a process. created is when the stream CHANGES was made: numbers
// start again when all data is lost, source and id must not repeat.
func TransitionSource(created time.Time, host, check string) string {
	s := fmt.Sprintf("urn:megaphone:%d:%s", created.UnixMicro(), Token(host))
	if check != "" {
		s += ":" + Token(check)
	}
	return s
}

// Present is how a check or host is, in the form of a transition: the last one
// that there was, with both sides alike. number is 0 before the first.
func Present(host, check string, number uint64, now Moment, message string, labels map[string]string) Transition {
	return Transition{
		Host: host, Check: check, Number: number, Previous: now, Current: now, Message: message, Labels: labels, Cause: CausePresent,
	}
}

// PresentEvent is the event that tells what [Present] made, of type
// [TypeCheckPresent] or [TypeHostPresent]. Its time is that since which it is
// so. created is that of [TransitionSource].
func PresentEvent(created time.Time, t Transition) (event.Event, error) {
	h := Header{
		Type: TypeCheckPresent, Source: TransitionSource(created, t.Host, t.Check), ID: t.ID() + ".present",
		Host: t.Host, Check: t.Check, Time: t.Current.Since.Time, Sequence: Sequence(t.Number),
	}
	if t.Check == "" {
		h.Type = TypeHostPresent
	}
	return New(h, t)
}

// Sequence is a transition's number as the CloudEvents extension sequence:
// 20 digits, so that it orders as text.
func Sequence(n uint64) string { return fmt.Sprintf("%020d", n) }

// SubjectName is the CloudEvents subject: hosts/<host>/checks/<check>, or with
// an empty check hosts/<host>; plain names.
func SubjectName(host, check string) string { return string(appendSubjectName(nil, host, check)) }

func appendSubjectName(b []byte, host, check string) []byte {
	b = append(b, "hosts/"...)
	b = append(b, host...)
	if check != "" {
		b = append(b, "/checks/"...)
		b = append(b, check...)
	}
	return b
}
