package events

import (
	"fmt"
	"slices"
	"strings"
)

// Filter chooses transitions. The zero value chooses all. The iterator of
// package bus, `megaphone watch` and GET /events use the same words with the
// same meaning.
//
// A transition passes a filter by status on the way there and on the way back:
// what was Critical and is no longer concerns whoever asked for Critical.
type Filter struct {
	Host   string   `json:"host,omitempty"`   // pattern of the host's name, case is folded; empty: any
	Check  string   `json:"check,omitempty"`  // pattern of a check's id: of checks only; empty: any, and hosts themselves
	Hosts  bool     `json:"hosts,omitempty"`  // of hosts themselves only
	Least  *Status  `json:"least,omitempty"`  // the status before or after is at least this severe; nil: any
	Labels []string `json:"labels,omitempty"` // all of these hold: "key=value", or "key" for any value
}

// Patterns: "*" stands for any run of characters, "?" for one.
const patternRunes = "*?"

// MaxFilterPattern is the longest pattern of a filter, in bytes.
const MaxFilterPattern = MaxCheck

// FilterWords are the words from which [ParseFilter] makes a filter: the flags
// of `megaphone watch` and the query of GET /events.
type FilterWords struct {
	Host, Check string
	Hosts       bool
	Status      string // the least
	Labels      []string
}

// ParseFilter makes a filter from words. The error wraps [ErrName] or [ErrStatus].
func ParseFilter(w FilterWords) (Filter, error) {
	f := Filter{Host: w.Host, Check: w.Check, Hosts: w.Hosts, Labels: w.Labels}
	if w.Status != "" {
		s, err := ParseStatus(w.Status)
		if err != nil {
			return f, err
		}
		f.Least = &s
	}
	return f, f.Validate()
}

// Validate reports what cannot be meant. The error wraps [ErrName].
func (f Filter) Validate() error {
	if f.Host != "" && !isPattern(f.Host) {
		if _, err := ParseHost(f.Host); err != nil {
			return err
		}
	}
	if f.Check != "" && !isPattern(f.Check) {
		if _, err := ParseCheck(f.Check); err != nil {
			return err
		}
	}
	switch {
	case f.Check != "" && f.Hosts:
		return fmt.Errorf("%w: a filter is of hosts or of a check, not both", ErrName)
	case len(f.Host) > MaxFilterPattern || len(f.Check) > MaxFilterPattern:
		return fmt.Errorf("%w: a pattern has at most %d bytes", ErrName, MaxFilterPattern)
	case len(f.Labels) > MaxLabels:
		return fmt.Errorf("%w: a filter has at most %d labels", ErrName, MaxLabels)
	case slices.Contains(f.Labels, ""):
		return fmt.Errorf("%w: a label is a key, or key=value", ErrName)
	}
	return nil
}

// Match reports whether f chooses a transition.
func (f Filter) Match(t Transition) bool {
	return f.MatchName(t.Host, t.Check) && f.matchStatus(t) && MatchLabels(f.Labels, t.Labels)
}

// MatchName reports whether f may choose transitions of a check, or with an
// empty check of a host itself.
func (f Filter) MatchName(host, check string) bool {
	switch {
	case check == "" && f.Check != "", check != "" && f.Hosts:
		return false
	case f.Host != "" && !matchPattern(strings.ToLower(f.Host), host):
		return false
	}
	return f.Check == "" || matchPattern(f.Check, check)
}

func (f Filter) matchStatus(t Transition) bool {
	if f.Least == nil {
		return true
	}
	for _, m := range []Moment{t.Previous, t.Current} {
		if m.Status != nil && m.Status.Severity() >= f.Least.Severity() {
			return true
		}
	}
	return false
}

// MatchLabels reports whether all of wanted hold: "key=value", or "key" for any
// value.
func MatchLabels(wanted []string, labels map[string]string) bool {
	for _, label := range wanted {
		key, value, exact := strings.Cut(label, "=")
		if got, ok := labels[key]; !ok || exact && got != value {
			return false
		}
	}
	return true
}

// Subjects are those on which everything lies that f can choose: names without
// pattern are left to the server, the rest of f is not.
func (f Filter) Subjects() []string {
	host := "*"
	if f.Host != "" && !isPattern(f.Host) {
		host = Token(strings.ToLower(f.Host))
	}
	check := "*"
	if f.Check != "" && !isPattern(f.Check) {
		check = Token(f.Check)
	}
	hosts, checks := root+"status.host."+host, root+"status.check."+host+"."+check
	switch {
	case f.Hosts:
		return []string{hosts}
	case f.Check != "":
		return []string{checks}
	case host == "*":
		return []string{StatusSubjects}
	}
	return []string{hosts, checks}
}

func isPattern(s string) bool { return strings.ContainsAny(s, patternRunes) }

// matchPattern goes back to the last "*" only, so that its time is at most the
// product of both lengths.
func matchPattern(pattern, s string) bool {
	p, t := []rune(pattern), []rune(s)
	i, j, star, resume := 0, 0, -1, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, resume = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			resume++
			i, j = star+1, resume
		default:
			return false
		}
	}
	return strings.Trim(string(p[i:]), "*") == ""
}
