package gateway

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// The form application/health+json: draft-inadarei-api-health-check-06, with a
// key "megaphone" for what it has no word for.

// healthAnswer is the answer of a host or check.
type healthAnswer struct {
	Status      string                   `json:"status"`
	ServiceID   string                   `json:"serviceId"`
	Description string                   `json:"description,omitempty"`
	Output      string                   `json:"output,omitempty"`
	Checks      map[string][]healthCheck `json:"checks,omitempty"`
	Megaphone   healthExtra              `json:"megaphone"`
}

// healthCheck is one check of a host. observedValue is the status in our words.
type healthCheck struct {
	ComponentID   string      `json:"componentId"`
	ComponentType string      `json:"componentType"`
	ObservedValue string      `json:"observedValue"`
	Status        string      `json:"status"`
	Time          events.Time `json:"time,omitzero"`
	Output        string      `json:"output,omitempty"`
	Megaphone     healthExtra `json:"megaphone"`
}

// healthExtra is what Megaphone knows beyond the draft.
type healthExtra struct {
	Status   events.Status `json:"status"`
	Phase    events.Phase  `json:"phase"`
	Number   uint64        `json:"seq"`
	Observed events.Time   `json:"observed,omitzero"`
	Age      *float64      `json:"age_seconds,omitempty"`
	Next     *float64      `json:"next_seconds,omitempty"`
}

func (s *sight) extra(now time.Time) healthExtra {
	return healthExtra{s.status, s.phaseAt(now), s.number, events.At(s.observed), age(s.observed, now), until(s.next, now)}
}

// health is the draft's word for a verdict. It knows no maintenance: that takes
// no work, so it is a failure.
func (v verdict) health() string {
	if v == drains {
		v = fails
	}
	return v.String()
}

// output is the message, which the draft wants absent where all is well.
func (s *sight) output(v verdict) string {
	if v == passes {
		return ""
	}
	return s.message
}

// writeHealth answers with health+json by the policy in the query: pass and warn
// are 200, fail is 503.
func (s *Server) writeHealth(w http.ResponseWriter, r *http.Request, seen *sight, now time.Time) error {
	p, err := policyOf(r.URL.Query())
	if err != nil {
		return err
	}
	v := p.decide(seen, now)
	a := healthAnswer{
		Status: v.health(), ServiceID: seen.name(), Description: "as Megaphone sees it", Output: seen.output(v), Megaphone: seen.extra(now),
	}
	if seen.check == "" {
		a.Checks = s.healthChecks(seen.host, p, now)
	}
	body, err := json.Marshal(a)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/health+json")
	cacheUntilNext(h, seen, now)
	writeBody(w, p.code(v), append(body, '\n'))
	return nil
}

// cacheUntilNext lets an answer be kept until the next result is expected.
func cacheUntilNext(h http.Header, seen *sight, now time.Time) {
	next, _ := seen.nextIn(now)
	h.Set("Cache-Control", "max-age="+strconv.FormatInt(int64(next/time.Second), 10))
}

func (s *Server) healthChecks(host string, p policy, now time.Time) map[string][]healthCheck {
	checks := map[string][]healthCheck{}
	for _, c := range s.seen().sightChecks(host) {
		v := p.decide(&c, now)
		checks[healthKey(c.check)] = []healthCheck{{
			ComponentID: c.check, ComponentType: "component", ObservedValue: c.status.String(), Status: v.health(),
			Time: events.At(c.observed), Output: c.output(v), Megaphone: c.extra(now),
		}}
	}
	return checks
}

// healthKey is "component:measurement", in which a colon of the id is escaped,
// and so is what escapes it.
func healthKey(id string) string {
	return strings.NewReplacer("%", "%25", ":", "%3A").Replace(id) + ":status"
}
