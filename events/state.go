package events

import (
	"strings"
	"time"
)

// RecordVersion is the version of state records, checkpoints and leases. A
// record with a higher one is not interpreted.
const RecordVersion = 1

// TombstoneKept is for how long a check or host that is gone keeps its number. One that
// comes back later begins again with 1.
const TombstoneKept = 60 * 24 * time.Hour

// StateHeader is the message header that a transition bears: the complete state
// of its subject after it, as JSON ([CheckState] or [HostState]).
const StateHeader = "Megaphone-State"

// CheckState is everything that is known of a check: what the aggregator keeps
// in the stream STATE and what a transition carries in its header.
//
// Fields under "soft" are refreshed by every accepted result without being
// written; after a restart they are read again from the stream RESULTS.
type CheckState struct {
	V      int               `json:"v"`
	Host   string            `json:"host"`
	Check  string            `json:"check"`
	Number uint64            `json:"number"` // of the last transition; 0 before the first
	Status Status            `json:"status"` // as told, overrides included
	Phase  Phase             `json:"phase"`
	Since  time.Time         `json:"since,omitzero"` // bus time of the last transition
	Labels map[string]string `json:"labels,omitempty"`

	Reported Status    `json:"reported"`           // without its override
	Basis    Phase     `json:"basis"`              // pending, stale, live or gone: the phase without its override
	Started  time.Time `json:"started,omitzero"`   // bus time of the registration that began the present life
	Reg      uint64    `json:"reg,omitempty"`      // position of the registration applied
	Spec     string    `json:"spec,omitempty"`     // fingerprint of that registration
	Addr     string    `json:"addr,omitempty"`     // its address
	Origin   string    `json:"origin,omitempty"`   // who registered it
	Override *Override `json:"override,omitempty"` // the one that holds
	OverPos  uint64    `json:"over_pos,omitempty"` // its position
	Ended    uint64    `json:"ended,omitempty"`    // position up to which overrides have ended by time or push

	Candidate Status   `json:"candidate,omitempty"` // what the last Streak results said, differing from Reported
	Streak    int      `json:"streak,omitempty"`
	TTL       Duration `json:"ttl,omitzero"` // of the last push, where it gave one

	Order   Order     `json:"order,omitzero"`    // of the last polled result counted
	Applied uint64    `json:"applied,omitempty"` // position in RESULTS of the last result counted
	Seen    time.Time `json:"seen,omitzero"`     // its bus time
	Grace   time.Time `json:"grace,omitzero"`    // no deadline fires before: an outage of our own

	// Soft.
	Pace           int64     `json:"pace,omitempty"`    // milliseconds between polls, by those of the present worker: see Polled
	Message        string    `json:"message,omitempty"` // what the reported status came with
	Observed       time.Time `json:"observed,omitzero"` // when the service was looked at, as its observer says
	LatencySeconds float64   `json:"latency_seconds,omitempty"`
	Suspect        string    `json:"suspect,omitempty"` // why the newest results do not count; empty where they do
}

// Text is the message that is shown with the check's status.
func (s CheckState) Text() string {
	switch {
	case s.Phase == Pending:
		return "no result yet"
	case s.Override != nil && (s.Phase == Overridden || s.Phase == Maintenance):
		return s.Override.Text()
	}
	return s.Message
}

// Moment is the present side of the check's next transition.
func (s CheckState) Moment() Moment { return moment(s.Number, s.Status, s.Phase, s.Since) }

func moment(number uint64, status Status, phase Phase, since time.Time) Moment {
	if number == 0 {
		return Moment{Phase: Pending}
	}
	return Moment{Status: &status, Phase: phase, Since: At(since)}
}

// HostState is everything that is known of a host itself.
type HostState struct {
	V        int               `json:"v"`
	Host     string            `json:"host"`
	Number   uint64            `json:"number"`
	Status   Status            `json:"status"`
	Phase    Phase             `json:"phase"`
	Reported Status            `json:"reported"`
	Since    time.Time         `json:"since,omitzero"`
	Labels   map[string]string `json:"labels,omitempty"`
	Override *Override         `json:"override,omitempty"`
	OverPos  uint64            `json:"over_pos,omitempty"`
	Ended    uint64            `json:"ended,omitempty"`
}

// Moment is the present side of the host's next transition.
func (s HostState) Moment() Moment { return moment(s.Number, s.Status, s.Phase, s.Since) }

// Counts are how many checks of a host have each status, pending ones apart.
type Counts struct {
	OK       int `json:"OK"`
	Unknown  int `json:"Unknown"`
	Warning  int `json:"Warning"`
	Critical int `json:"Critical"`
	Pending  int `json:"pending"`
}

func (c *Counts) add(s Status) {
	switch s {
	case OK:
		c.OK++
	case Unknown:
		c.Unknown++
	case Warning:
		c.Warning++
	case Critical:
		c.Critical++
	}
}

// Summary is what the checks of a host amount to.
type Summary struct {
	Status  Status // the worst; Unknown where none counts
	Phase   Phase  // live; pending, stale or maintenance where that holds for all; gone where there is none
	Message string // the original's: id:Status:message of all that are not OK, joined by "|"
	NotOK   []string
	Counts  Counts
}

// Texts of the original for a host without anything to tell.
const (
	TextAllOK    = "Everything is OK!"
	TextNoChecks = "No checks are registered!"
)

// Summarize reduces the checks of one host. checks must be ordered by id; those
// that are gone do not count, those in maintenance are counted but are not
// allowed to make the host worse, pending ones neither.
func Summarize(checks []*CheckState) Summary {
	sum := Summary{Status: OK, Phase: Gone}
	var text, waiting strings.Builder
	live, stale, pending, maintenance := 0, 0, 0, 0
	for _, c := range checks {
		switch c.Phase {
		case Gone:
			continue
		case Pending:
			pending++
			sum.Counts.Pending++
			tell(&waiting, c)
			continue
		}
		sum.Counts.add(c.Status)
		switch c.Phase {
		case Maintenance:
			maintenance++
			tell(&waiting, c)
			continue
		case Stale:
			stale++
		default:
			live++
		}
		sum.Status = Worse(sum.Status, c.Status)
		if c.Status != OK {
			sum.NotOK = append(sum.NotOK, c.Check)
			tell(&text, c)
		}
	}
	switch {
	case live > 0:
		sum.Phase = Live
	case stale > 0:
		sum.Phase = Stale
	case maintenance > 0:
		sum.Phase = Maintenance
	case pending > 0:
		sum.Phase = Pending
	}
	sum.Message = text.String()
	switch {
	case sum.Phase == Gone:
		sum.Status, sum.Message = Unknown, TextNoChecks
	case live+stale == 0:
		sum.Status, sum.Message = Unknown, waiting.String()
	case sum.Status == OK:
		sum.Message = TextAllOK
	}
	return sum
}

func tell(b *strings.Builder, c *CheckState) {
	if b.Len() > 0 {
		b.WriteByte('|')
	}
	b.WriteString(c.Check)
	b.WriteByte(':')
	b.WriteString(c.Status.String())
	b.WriteByte(':')
	b.WriteString(c.Text())
}

// Apply puts the host's override on top of what its checks amount to and
// returns the status and phase to tell, and the status without the override.
func (s Summary) Apply(o *Override) (told Status, phase Phase, reported Status) {
	switch {
	case s.Phase == Gone && o == nil:
		return Unknown, Gone, Unknown
	case o == nil:
		return s.Status, s.Phase, s.Status
	case o.Maintenance:
		return s.Status, Maintenance, s.Status
	}
	return *o.Status, Overridden, s.Status
}

// FreshResult reports whether a result stored at position counts for a check in
// state s: not one that was counted before, and a polled one only if its order
// key grows. Aggregator and gateway share this rule, so that no one shows a
// result that the other dropped.
func (s CheckState) FreshResult(r Result, polled bool, position uint64) bool {
	if position <= s.Applied || s.Basis == Gone || s.Spec == "" {
		return false
	}
	return !polled || r.Order().After(s.Order)
}

// Polled notes the order key of a polled result that counts, and how long after the
// one before its poll was due: a longer time is half forgotten with each result.
func (s *CheckState) Polled(o Order) {
	if s.Order.Due > 0 && o.Reg == s.Order.Reg && o.Lease == s.Order.Lease {
		s.Pace = max(o.Due-s.Order.Due, s.Pace/2)
	} else {
		s.Pace = 0
	}
	s.Order = o
}

// missedPolls is after how many intervals without a result a polled check is stale.
const missedPolls = 3

// Patience is how long a polled check may be without a result: three intervals; or
// three times as long as its worker lately took from one poll to the next, where that
// was longer, because it has more to do than it can. Of that [MaxReportInterval]
// counts: what came in reports is not read again after [ReportWindow].
func (s CheckState) Patience(interval time.Duration) time.Duration {
	pace := min(time.Duration(s.Pace)*time.Millisecond, MaxReportInterval)
	return missedPolls * max(interval, pace)
}

// Doubt notes a fresh result that does not count, because its worker suspects
// itself. Its order key is spent: nothing of a superseded worker counts after it.
func (s *CheckState) Doubt(r Result) {
	s.Order, s.Suspect = r.Order(), "the worker "+r.Worker+" suspects itself: "+r.Suspect
}

// Refresh updates the soft fields by a result that counts. The message is that
// of the status that is told: a failure that does not count yet does not
// replace it.
func (s *CheckState) Refresh(r Result, observed time.Time) {
	s.Observed, s.LatencySeconds, s.Suspect = observed, r.LatencySeconds, ""
	if r.Status == s.Reported {
		s.Message = r.Message
	}
}
