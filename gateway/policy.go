package gateway

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/looprock/megaphone/events"
)

// What a prober is told. Status and phase are facts; what follows from them is
// the prober's to choose. Everything here is a function of values: no clock, no
// network. docs/probes.md has the table of which verdict becomes what in which
// protocol.

// sight is what a prober may know of a host or check.
type sight struct {
	host, check string // check is empty for a host
	status      events.Status
	phase       events.Phase
	message     string
	number      uint64
	since       time.Time
	observed    time.Time // of a host: of its oldest live check; zero where nothing was
	next        time.Time // when the next result is expected; zero for no expectation
	late        time.Time // from when on it is stale, whatever the phase says; zero for never
	latency     float64   // seconds that the last poll took
	cluster     string    // the host's label of this name

	texts *sightTexts // made in advance, where the sight is kept for a while; else nil
}

// sightTexts are the parts of an answer that stay as they are while the sight does.
type sightTexts struct {
	says     string   // "OK web01: Everything is OK!"
	observed []string // as a header has it; nil where nothing was observed
	cluster  []string // nil where the host has no such label

	balanced atomic.Pointer[balanced] // the newest
}

func newSightTexts(s *sight) *sightTexts {
	t := &sightTexts{says: s.status.String() + " " + s.name() + ": " + oneLine(s.message)}
	if !s.observed.IsZero() {
		t.observed = []string{s.observed.UTC().Format(observedLayout)}
	}
	if s.cluster != "" {
		t.cluster = []string{oneLine(s.cluster)}
	}
	return t
}

// written are the texts of s.
func (s *sight) written() *sightTexts {
	if s.texts == nil {
		s.texts = newSightTexts(s)
	}
	return s.texts
}

// name is how a prober writes the host or check.
func (s *sight) name() string {
	if s.check == "" {
		return s.host
	}
	return s.host + "/" + s.check
}

// phaseAt is the phase by the reader's own clock: no transition tells of results
// that stay away while the aggregator, or the bus, is away.
func (s *sight) phaseAt(now time.Time) events.Phase {
	if s.phase == events.Live && !s.late.IsZero() && now.After(s.late) {
		return events.Stale
	}
	return s.phase
}

// age is how long ago the state was observed; ok is false where it never was.
func (s *sight) age(now time.Time) (age time.Duration, ok bool) {
	if s.observed.IsZero() {
		return 0, false
	}
	return max(now.Sub(s.observed), 0), true
}

// nextIn is how long until the next result is expected; ok is false where none is.
func (s *sight) nextIn(now time.Time) (in time.Duration, ok bool) {
	if s.next.IsZero() {
		return 0, false
	}
	return max(s.next.Sub(now), 0), true
}

// verdict is what a prober is told, before it is put into the words of a protocol.
type verdict uint8

// The verdicts.
const (
	passes   verdict = iota // give it work
	degraded                // give it work, rather less
	fails                   // give it none
	drains                  // give it none that is new: maintenance
	absent                  // there is no such host or check
)

var verdictWords = [...]string{passes: "pass", degraded: "warn", fails: "fail", drains: "drain", absent: "unknown"}

func (v verdict) String() string { return verdictWords[v] }

// works reports whether the verdict lets work through.
func (v verdict) works() bool { return v == passes || v == degraded }

// policy is what a prober chose in its query. The zero value is the default.
type policy struct {
	stale        stalePolicy
	maxAge       time.Duration // older than this is stale, and stale fails where the query says no more; 0: as the phase says
	unknownFails bool
	warningFails bool
	drain404     bool // 404 for maintenance, over HTTP
	percent      int  // of its weight that a degraded server keeps; 0: half; agent-check
	soft         bool // drain for maintenance, instead of maint; agent-check
}

// stalePolicy is what counts while results stay away.
type stalePolicy uint8

const (
	staleLast   stalePolicy = iota // the last status
	staleOpen                      // it is well
	staleClosed                    // it is not
)

// maxPolicy is how many bytes a query with a policy has at most.
const maxPolicy = 512

// policyKeys are the parameters of a policy.
var policyKeys = []string{"stale", "max-age", "unknown", "warning", "drain", "weight", "maintenance"}

// parsePolicy reads a query that holds a policy and nothing but that and other
// keys. What it does not understand is an error, not a default: a prober that is
// configured wrongly must be told, at once.
func parsePolicy(query string, others ...string) (policy, error) {
	if query == "" {
		return policy{}, nil
	}
	if len(query) > maxPolicy {
		return policy{}, refuse(http.StatusBadRequest, "the query has %d bytes, %d are allowed", len(query), maxPolicy)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return policy{}, refuse(http.StatusBadRequest, "the query cannot be read: %v", err)
	}
	for key := range values {
		if !slices.Contains(policyKeys, key) && !slices.Contains(others, key) {
			return policy{}, refuse(http.StatusBadRequest, "there is no ?%s=: use %s", events.Cut(key, 64), strings.Join(append(slices.Clone(policyKeys), others...), ", "))
		}
	}
	return policyOf(values)
}

// policyOf reads the policy among the values of a query.
func policyOf(values url.Values) (policy, error) {
	var p policy
	for _, key := range policyKeys {
		got := values[key]
		if len(got) == 0 {
			continue
		}
		if len(got) > 1 {
			return policy{}, refuse(http.StatusBadRequest, "?%s= is given %d times", key, len(got))
		}
		if err := p.set(key, got[0]); err != nil {
			return policy{}, err
		}
	}
	if p.maxAge > 0 && len(values["stale"]) == 0 {
		p.stale = staleClosed // who names an age wants nothing that is older
	}
	return p, nil
}

// set takes one parameter.
func (p *policy) set(key, value string) error {
	var ok bool
	var choices string
	switch key {
	case "stale":
		choices = "last, open or closed"
		i := slices.Index([]string{staleLast: "last", staleOpen: "open", staleClosed: "closed"}, value)
		if ok = i >= 0; ok {
			p.stale = stalePolicy(i)
		}
	case "max-age":
		choices = "a number of seconds or a span such as 30s, above 0"
		d, err := events.ParseDuration(value)
		p.maxAge, ok = d.D(), err == nil && d > 0
	case "unknown":
		choices = "ok or fail"
		p.unknownFails, ok = value == "fail", value == "ok" || value == "fail"
	case "warning":
		choices = "ok or fail"
		p.warningFails, ok = value == "fail", value == "ok" || value == "fail"
	case "drain":
		choices = "404 or 503"
		p.drain404, ok = value == "404", value == "404" || value == "503"
	case "weight":
		choices = "percent, 1 to 100"
		n, err := strconv.ParseUint(value, 10, 8)
		p.percent, ok = int(n), err == nil && n >= 1 && n <= 100
	case "maintenance":
		choices = "maint or drain"
		p.soft, ok = value == "drain", value == "drain" || value == "maint"
	}
	if !ok {
		return refuse(http.StatusBadRequest, "?%s= may be %s, not %q", key, choices, events.Cut(value, 64))
	}
	return nil
}

// weight is the percentage of its weight that a degraded server is to have.
func (p policy) weight() int {
	if p.percent == 0 {
		return 50
	}
	return p.percent
}

// decide says what a prober with this policy is told about s at now. Maintenance
// comes first: nothing that is older, or better, makes a host in maintenance fit.
func (p policy) decide(s *sight, now time.Time) verdict {
	if s.phase == events.Maintenance {
		return drains
	}
	if p.stale != staleLast && p.isStale(s, now) {
		if p.stale == staleOpen {
			return degraded
		}
		return fails
	}
	switch s.status {
	case events.OK:
		return passes
	case events.Warning:
		return failsIf(p.warningFails)
	case events.Critical:
		return fails
	}
	return failsIf(p.unknownFails)
}

func failsIf(fail bool) verdict {
	if fail {
		return fails
	}
	return degraded
}

// isStale reports whether results stay away for too long. What is set by hand
// does not age, and what never was observed is too old for any age.
func (p policy) isStale(s *sight, now time.Time) bool {
	phase := s.phaseAt(now)
	switch {
	case phase == events.Overridden:
		return false
	case phase == events.Stale:
		return true
	case p.maxAge == 0:
		return false
	}
	age, ok := s.age(now)
	return !ok || age > p.maxAge
}

// seconds writes a span as protocols and people read it: "3.2s" without the s.
func seconds(d time.Duration) string { return string(appendSeconds(nil, d)) }

// appendSeconds is seconds for spans that are not negative, by whole numbers: it
// is done several times for each answer to a load balancer.
func appendSeconds(b []byte, d time.Duration) []byte {
	millis := d.Round(time.Millisecond).Milliseconds()
	b = strconv.AppendInt(b, millis/1000, 10)
	rest := millis % 1000
	if rest == 0 {
		return b
	}
	digits := []byte{'.', byte('0' + rest/100), byte('0' + rest/10%10), byte('0' + rest%10)}
	return append(b, bytes.TrimRight(digits, "0")...)
}

// line tells everything on one line: "Critical web01: db:Critical:no answer
// (live, age 3.2 s, next in 6.8 s)".
func (s *sight) line(now time.Time) string { return string(s.appendLine(nil, now)) }

// lineRoom is what a line takes beside what is said, at most.
const lineRoom = 128

func (s *sight) appendLine(b []byte, now time.Time) []byte {
	t := s.written()
	b = slices.Grow(b, len(t.says)+lineRoom)
	b = append(append(append(b, t.says...), " ("...), s.phaseAt(now)...)
	if age, ok := s.age(now); ok {
		b = append(append(b, ", observed "...), t.observed[0]...)
		b = append(appendSeconds(append(b, ", age "...), age), " s"...)
	} else {
		b = append(b, ", never observed"...)
	}
	if next, ok := s.nextIn(now); ok {
		b = append(appendSeconds(append(b, ", next in "...), next), " s"...)
	}
	return append(b, ')')
}

const observedLayout = "2006-01-02T15:04:05.000Z07:00"

// oneLine makes line ends and other control characters spaces.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
}
