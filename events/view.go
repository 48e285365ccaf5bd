package events

import (
	"encoding/json"
	"time"
)

// HostView is a host as readers see it.
type HostView struct {
	Host        string            `json:"host"`
	Status      Status            `json:"status"`
	Phase       Phase             `json:"phase"`
	Reported    *Status           `json:"reported,omitempty"` // where an override hides it
	Message     string            `json:"message"`
	Number      uint64            `json:"number"`
	Since       Time              `json:"since,omitzero"`
	Observed    Time              `json:"observed,omitzero"`      // of its oldest live check
	AgeSeconds  *float64          `json:"age_seconds,omitempty"`  // since Observed
	NextSeconds *float64          `json:"next_seconds,omitempty"` // until the next result of a check is expected
	Address     string            `json:"address,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Override    *Override         `json:"override,omitempty"`
	Checks      Counts            `json:"checks"`
}

// CheckView is a check as readers see it.
type CheckView struct {
	Host           string            `json:"host"`
	Check          string            `json:"check"`
	Status         Status            `json:"status"`
	Phase          Phase             `json:"phase"`
	Reported       *Status           `json:"reported,omitempty"` // where an override hides it
	Message        string            `json:"message"`
	Number         uint64            `json:"number"`
	Since          Time              `json:"since,omitzero"`
	Observed       Time              `json:"observed,omitzero"`
	AgeSeconds     *float64          `json:"age_seconds,omitempty"`  // since Observed
	NextSeconds    *float64          `json:"next_seconds,omitempty"` // until the next result is expected
	LatencySeconds float64           `json:"latency_seconds,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	Origin         string            `json:"origin,omitempty"`
	Override       *Override         `json:"override,omitempty"`
	Document       json.RawMessage   `json:"document,omitempty"`
	Registration   *Registration     `json:"registration,omitempty"`
}

// StatusQuery is the request on [StatusRequest]: a host, a check of it, or with
// Host empty all hosts.
type StatusQuery struct {
	Host  string `json:"host,omitempty"`
	Check string `json:"check,omitempty"`
	All   bool   `json:"all,omitempty"`
}

// StatusAnswer is the answer to a [StatusQuery].
type StatusAnswer struct {
	Local  string      `json:"local,omitempty"` // the host of the gateway that answered
	Hosts  []HostView  `json:"hosts,omitempty"`
	Checks []CheckView `json:"checks,omitempty"` // of a host, where one was asked for
}

// PresentQuery is the request on [PresentRequest]: a page of the present state of
// what a filter chooses.
type PresentQuery struct {
	Filter Filter `json:"filter,omitzero"`
	After  *Name  `json:"after,omitempty"` // the Next of the page before; nil for the first
}

// Name names a check, or with an empty check a host.
type Name struct {
	Host  string `json:"host"`
	Check string `json:"check,omitempty"`
}

// PresentAnswer is the answer to a [PresentQuery].
type PresentAnswer struct {
	Position uint64            `json:"position"`       // of CHANGES: all up to it is in Events, and maybe more
	Events   []json.RawMessage `json:"events"`         // of type [TypeHostPresent] and [TypeCheckPresent]
	Next     *Name             `json:"next,omitempty"` // ask again with it; nil on the last page
}

// PollQuery is the request on [PollRequest]: poll a check now, unless there is a
// result that is not older than Fresh, one second at least.
type PollQuery struct {
	Host  string   `json:"host,omitempty"`
	Check string   `json:"check"`
	Fresh Duration `json:"fresh,omitzero"`
}

// PollAnswer is the answer to a [PollQuery].
type PollAnswer struct {
	Polled bool      `json:"polled"` // else the result that was there is fresh enough
	Check  CheckView `json:"check"`
}

// PollOrder is what the worker of a partition is asked: the request on [PollSubject].
type PollOrder struct {
	Host  string `json:"host"`
	Check string `json:"check"`
}

// PollReply is what the worker answers to a [PollOrder].
type PollReply struct {
	Position uint64 `json:"position,omitempty"` // of the result in RESULTS
	Worker   string `json:"worker"`
	Refused  string `json:"refused,omitempty"` // why there is none
	Again    bool   `json:"again,omitempty"`   // it may be otherwise in a moment: another worker takes over
	Suspect  string `json:"suspect,omitempty"` // why the result does not count
}

// Heartbeat is what every process tells of itself: the data of [TypeHeartbeat].
type Heartbeat struct {
	Role    string   `json:"role"` // poller, aggregator or gateway
	Name    string   `json:"name"` // unique among running processes
	Host    string   `json:"host,omitempty"`
	Pools   []string `json:"pools,omitempty"`
	Version string   `json:"version,omitempty"`
	Started Time     `json:"started,omitzero"`
	Leases  int      `json:"leases"`
	Stopped bool     `json:"stopped,omitempty"` // a graceful end
	Work    *Work    `json:"work,omitempty"`    // of a poller
}

// Work is how a worker gets on. What is counted is counted over the last minute.
type Work struct {
	Partitions     map[string]int `json:"partitions"`        // held now, by pool
	Checks         int            `json:"checks"`            // in them
	PollsPerSecond float64        `json:"polls_per_second"`  // begun
	ErrorShare     float64        `json:"error_share"`       // 0..1 of the polls: those that found nothing out
	LateSeconds    float64        `json:"late_seconds"`      // how long after its due time the latest poll began, or has been waiting now
	Dropped        uint64         `json:"dropped"`           // polls that were due again before they were begun
	Running        int            `json:"running"`           // polls now
	Slow           int            `json:"slow"`              // of them, those that take longer than a second
	Suspect        string         `json:"suspect,omitempty"` // why its results do not count now
}

// Rejection tells of an event that was refused: the data of [TypeRejected].
type Rejection struct {
	Subject string `json:"subject"`         // where it came from
	Reason  string `json:"reason"`          // what is wrong and what to do
	Event   string `json:"event,omitempty"` // its first 4 KiB
	More    uint64 `json:"more,omitempty"`  // others refused on this subject since the last that was told
}

// Tick is a record of time itself: the data of [TypeTick]. Its bus time counts.
type Tick struct {
	Outage *Outage `json:"outage,omitempty"`
}

// Outage is a time in which the bus stored nothing, so that silence within it
// proves nothing.
type Outage struct {
	From Time `json:"from"`
	To   Time `json:"to"`
}

// Checkpoint is how far an aggregator has come in a partition: all effects of
// results up to Results are in the stream STATE, all transitions of the
// partition up to Changes too.
type Checkpoint struct {
	V       int    `json:"v"`
	Results uint64 `json:"results"`
	Changes uint64 `json:"changes"`
	Time    Time   `json:"time"` // bus time up to which deadlines were looked at

	// Stored is when the result at Results was stored: it tells it from another at
	// the same position, after a power cut. Zero where that is not known.
	Stored time.Time `json:"stored,omitzero"`
}
