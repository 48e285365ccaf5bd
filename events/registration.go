package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Limits of a registration.
const (
	MaxMessage    = 4 << 10  // bytes of a message; longer ones are cut
	MaxDocument   = 64 << 10 // bytes of a status document
	MaxLabels     = 32
	MaxLabelBytes = 128     // of a key, and of a value
	MaxURL        = 8 << 10 // bytes of the url of a registration
	MaxOrigin     = 512     // and of its origin
	MaxStreak     = 1000    // highest rise or fall
)

// ErrRegistration is wrapped by every error about a registration's content.
var ErrRegistration = errors.New("bad registration")

// Registration is the record that a check exists: its id, its address and how
// to treat it. It is the data of [TypeRegistered]. Zero fields mean the defaults
// of the process that uses them.
type Registration struct {
	ID   string `json:"id"`
	Host string `json:"host,omitempty"`
	// URL is the original's url, kept byte for byte as posted: a string, or an
	// object with addr, jsonpath, statusoverride and whatever else the client
	// put there. Absent for a check that is only pushed to.
	URL         json.RawMessage   `json:"url,omitempty"`
	Interval    Duration          `json:"interval,omitzero"`     // between two polls; default --interval
	Timeout     Duration          `json:"timeout,omitzero"`      // of one poll; default --timeout
	TTL         Duration          `json:"ttl,omitzero"`          // of a push: silence for longer is told
	OnSilence   *Status           `json:"on_silence,omitempty"`  // default Critical
	Rise        int               `json:"rise,omitempty"`        // results in a row needed to become better; default 1
	Fall        int               `json:"fall,omitempty"`        // results in a row needed to become worse; default 1
	StartPeriod Duration          `json:"start_period,omitzero"` // failures within it are shown as pending
	Labels      map[string]string `json:"labels,omitempty"`
	Pool        string            `json:"pool,omitempty"`   // which workers may poll it; see PoolName
	Origin      string            `json:"origin,omitempty"` // who registered it: http, cli, nats, push, cache, file:NAME or discovered:RULE
}

// Target is what the url of a registration says.
type Target struct {
	Addr     string // empty where an object has no addr
	JSONPath string // "/"-separated keys; empty for none
	Override string // the original's statusoverride; empty for none; not checked
	Object   bool   // the url is an object, not a string
	Options  string // its other keys that some kind of check knows, as JSON; empty for none; see ParseOptions
}

// Push reports whether the check has no address: its service pushes.
func (r Registration) Push() bool { return len(r.URL) == 0 || string(r.URL) == "null" }

// Target reads the url; the zero Target where there is none. The error wraps
// [ErrRegistration].
func (r Registration) Target() (Target, error) {
	if r.Push() {
		return Target{}, nil
	}
	if skipString(r.URL, 0) == len(r.URL) { // most are, and this is asked for often
		if addr, ok := plainString(r.URL); ok && addr != "" {
			return Target{Addr: addr}, nil
		}
	}
	var addr string
	if json.Unmarshal(r.URL, &addr) == nil {
		if addr == "" {
			return Target{}, fmt.Errorf("%w: url must not be empty", ErrRegistration)
		}
		return Target{Addr: addr}, nil
	}
	var o map[string]json.RawMessage
	if err := json.Unmarshal(r.URL, &o); err != nil {
		return Target{}, fmt.Errorf("%w: url must be a string or an object with addr", ErrRegistration)
	}
	t := Target{Object: true}
	for name, field := range map[string]*string{"addr": &t.Addr, "jsonpath": &t.JSONPath} {
		if v, ok := o[name]; ok && string(v) != "null" {
			if err := json.Unmarshal(v, field); err != nil {
				return t, fmt.Errorf("%w: %s must be a string", ErrRegistration, name)
			}
		}
	}
	t.Override = overrideText(o["statusoverride"])
	t.Options = optionsText(o)
	return t, nil
}

// overrideText reads a statusoverride: false and null mean none, what is no
// string is shown as JSON.
func overrideText(v json.RawMessage) string {
	switch s := string(v); {
	case s == "", s == "false", s == "null":
		return ""
	case json.Unmarshal(v, &s) == nil:
		return s
	default:
		return string(v)
	}
}

// Validate checks everything that holds for every registration, that of the
// original's POST /checks included. The error wraps [ErrRegistration],
// [ErrName] or [ErrDuration] and says what to do. It does not change r.
func (r Registration) Validate() error {
	if _, err := ParseCheck(r.ID); err != nil {
		return err
	}
	if r.Host != "" {
		if _, err := ParseHost(r.Host); err != nil {
			return err
		}
	}
	if len(r.Origin) > MaxOrigin {
		return fmt.Errorf("%w: origin has %d bytes, %d are allowed", ErrRegistration, len(r.Origin), MaxOrigin)
	}
	if len(r.URL) > MaxURL {
		return fmt.Errorf("%w: url has %d bytes, %d are allowed", ErrRegistration, len(r.URL), MaxURL)
	}
	t, err := r.Target()
	if err != nil {
		return err
	}
	if err := r.validateLocal(t, false); err != nil {
		return err
	}
	if r.Push() && r.TTL == 0 {
		return fmt.Errorf("%w: %s needs a url to poll, or a ttl if its service pushes", ErrRegistration, r.ID)
	}
	if r.Pool != "" {
		if _, err := ParsePool(r.Pool); err != nil {
			return err
		}
	}
	return r.validateNumbers()
}

func (r Registration) validateNumbers() error {
	for name, n := range map[string]int{"rise": r.Rise, "fall": r.Fall} {
		if n < 0 || n > MaxStreak {
			return fmt.Errorf("%w: %s is %d, it must be 1 to %d", ErrRegistration, name, n, MaxStreak)
		}
	}
	for name, d := range map[string]Duration{"interval": r.Interval, "timeout": r.Timeout, "ttl": r.TTL} {
		if d != 0 && d.D() < MinDuration {
			return fmt.Errorf("%w: %s is %s, it must be at least %s", ErrRegistration, name, d, Duration(MinDuration))
		}
	}
	if len(r.Labels) > MaxLabels {
		return fmt.Errorf("%w: %d labels, %d are allowed", ErrRegistration, len(r.Labels), MaxLabels)
	}
	for k, v := range r.Labels {
		if k == "" || len(k) > MaxLabelBytes || len(v) > MaxLabelBytes {
			return fmt.Errorf("%w: label %q: keys have 1 to %d bytes, values at most %d", ErrRegistration, k, MaxLabelBytes, MaxLabelBytes)
		}
	}
	return nil
}

// ValidateStrict checks what the new resources demand beyond [Registration.Validate]: an
// addr of a known kind of check with the options of that kind, and a valid statusoverride.
// The original's POST /checks accepts others and shows them as Critical.
func (r Registration) ValidateStrict() error {
	if err := r.Validate(); err != nil || r.Push() {
		return err
	}
	t, err := r.Target()
	if err != nil {
		return err
	}
	if err := r.validateLocal(t, true); err != nil {
		return err
	}
	if err := validateTarget(r, t); err != nil {
		return err
	}
	if t.Override != "" {
		if _, err := ParseStatus(t.Override); err != nil {
			return fmt.Errorf("%w: statusoverride: %w", ErrRegistration, err)
		}
	}
	return nil
}

// PoolName returns which workers may poll the check: its own pool; else
// "@<host>" where the address is local to its host (localhost, a loopback or an
// unspecified address), so that no other machine polls it; else "default". A
// check of a local kind is always the host's own.
func (r Registration) PoolName() string {
	t, err := r.Target()
	k, _ := FindCheckKind(t.Addr)
	switch {
	case r.Pool != "" && !k.Local:
		return r.Pool
	case err != nil || localHostOf(t):
		return "@" + r.Host
	}
	return DefaultPool
}

// DefaultPool is the pool of checks whose address any machine can reach.
const DefaultPool = "default"

// Silence is the status of the check once it has been silent for its ttl.
func (r Registration) Silence() Status {
	if r.OnSilence != nil {
		return *r.OnSilence
	}
	return Critical
}

// Equal reports whether two registrations say the same, their origin aside.
func (r Registration) Equal(o Registration) bool {
	r.Origin, o.Origin = "", ""
	a, errA := json.Marshal(r)
	b, errB := json.Marshal(o)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// HostRecord is what is registered of a host itself: the data of
// [TypeHostRegistered]. Checks inherit its labels.
type HostRecord struct {
	Host    string            `json:"host"`
	Address string            `json:"address,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Origin  string            `json:"origin,omitempty"`
}
