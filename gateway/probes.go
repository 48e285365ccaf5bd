package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
)

// What is common to the answers for probers: load balancers and monitoring.

// probeTable are the routes for probers, a part of the one table.
func (s *Server) probeTable() []route {
	const get, options = http.MethodGet, http.MethodOptions
	return []route{
		{get, "/lb", "whether the local host is to get work", false, false, s.getLocalBalanced},
		{options, "/lb", "the same of the local host, as HAProxy asks", false, false, s.getLocalBalanced},
		{get, "/lb/{host}", "whether a host is to get work", false, false, s.getBalanced},
		{options, "/lb/{host}", "the same, as HAProxy asks", false, false, s.getBalanced},
		{get, "/lb/{host}/{id}", "whether a check lets work through", false, false, s.getBalanced},
		{get, "/hosts/{host}/badge.svg", "a host as a picture", false, false, s.getBadge},
		{get, "/hosts/{host}/checks/{id}/badge.svg", "a check as a picture", false, false, s.getBadge},
		{get, "/probe", "a host or check as the blackbox exporter tells it", false, false, s.getProbe},
		{get, "/sd", "hosts for Prometheus' service discovery", false, false, s.getTargets},
		{options, "/lb/{host}/{id}", "the same, as HAProxy asks, of a check", false, false, s.getBalanced},
	}
}

// probePath reports whether a path that is not there lies among the routes for
// probers.
func probePath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains([]string{"lb", "probe", "sd"}, first)
}

// parseTarget reads "host" or "host/check", as probers write it outside of a
// path. What follows the first slash is the id, as it is or escaped.
func parseTarget(target string) (host, check string, err error) {
	host, id, has := strings.Cut(target, "/")
	if host, err = events.ParseHost(host); err != nil {
		return "", "", err
	}
	if !has {
		return host, "", nil
	}
	if plain, err := url.PathUnescape(id); err == nil {
		id = plain
	}
	if check, err = events.ParseCheck(id); err != nil {
		return "", "", err
	}
	return host, check, nil
}

// Headers that say how current an answer is, in every form that has no better
// place for it.
const (
	headerAge      = "Age"                // seconds since the state was observed, whole
	headerObserved = "Megaphone-Observed" // when
	headerNext     = "Megaphone-Next"     // seconds until the next result is expected
)

var headerNoStore = []string{"no-store"}

// tellFreshness sets the headers that say how current the state is. Between two
// observations an override, or another check of the host, may change everything:
// so nothing is kept by those between us and the prober.
func tellFreshness(h http.Header, seen *sight, now time.Time) {
	h["Cache-Control"] = headerNoStore
	if age, ok := seen.age(now); ok {
		h[headerAge] = []string{strconv.FormatInt(int64(age/time.Second), 10)}
		h[headerObserved] = seen.written().observed
	}
	if next, ok := seen.nextIn(now); ok {
		h[headerNext] = []string{seconds(next)}
	}
}
