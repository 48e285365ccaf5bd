package gateway

import (
	"maps"
	"net/http"
	"strconv"
	"time"
)

// Headers that Envoy's health checker reads.
const (
	headerDegraded  = "X-Envoy-Degraded"
	headerImmediate = "X-Envoy-Immediate-Health-Check-Fail"
	headerCluster   = "X-Envoy-Upstream-Healthchecked-Cluster"
)

var (
	headerTrue  = []string{"true"}
	headerPlain = []string{"text/plain; charset=utf-8"}
	headerLB    = []string{"GET, HEAD, OPTIONS"}
)

// balanced is an answer to a load balancer, kept for others who ask the same a
// little later.
type balanced struct {
	query  string
	until  time.Time
	code   int
	header http.Header
	body   []byte
}

// balancedTime is how long an answer is kept: its age and its verdict by the clock
// may be behind by this. What changes the status ends it at once.
const balancedTime = 10 * time.Millisecond

// getBalanced answers a load balancer: 200 for work, 503 for none, 404 for what
// is not there, and where it asks so for maintenance.
func (s *Server) getBalanced(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		now := time.Now()
		seen, ok := s.sight(host, check, now)
		a, err := seen.balanced(r.URL.RawQuery, now)
		switch {
		case err != nil:
			return err
		case !ok:
			return missing(host, check)
		}
		a.write(w, r)
		return nil
	})
}

// writeKept answers with what was answered for a host a moment ago.
func (s *Server) writeKept(w http.ResponseWriter, r *http.Request, host string) bool {
	a := s.seen().kept(host, r.URL.RawQuery, time.Now())
	if a != nil {
		a.write(w, r)
	}
	return a != nil
}

func (a *balanced) write(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	maps.Copy(h, a.header)
	if r.Method == http.MethodOptions {
		h["Allow"] = headerLB
	}
	w.WriteHeader(a.code)
	_, _ = w.Write(a.body) // a client that is gone is no fault of ours
}

// kept is the newest answer for a host if it is the answer now, else nil.
func (v *View) kept(host, query string, now time.Time) *balanced {
	v.mu.RLock()
	defer v.mu.RUnlock()
	h := v.hosts[host]
	if h == nil {
		return nil
	}
	seen := h.seen.Load()
	if seen == nil || !now.Before(seen.till) {
		return nil
	}
	if a := seen.texts.balanced.Load(); a != nil && a.query == query && now.Before(a.until) {
		return a
	}
	return nil
}

// balanced is the answer by the policy of a query.
func (s *sight) balanced(query string, now time.Time) (*balanced, error) {
	t := s.written()
	p, err := parsePolicy(query)
	if err != nil {
		return nil, err
	}
	v := p.decide(s, now)
	body := append(append(make([]byte, 0, len(t.says)+lineRoom), v.String()...), ' ')
	a := &balanced{query: query, until: now.Add(balancedTime), code: p.code(v), header: http.Header{}, body: append(s.appendLine(body, now), '\n')}
	tellFreshness(a.header, s, now)
	tellEnvoy(a.header, s, v)
	a.header["Content-Type"] = headerPlain
	a.header["Content-Length"] = []string{strconv.Itoa(len(a.body))}
	t.balanced.Store(a)
	return a, nil
}

// getLocalBalanced is for load balancers that ask all their servers for the same path.
func (s *Server) getLocalBalanced(w http.ResponseWriter, r *http.Request) {
	if s.local == "" {
		s.fail(w, r, refuse(http.StatusNotFound, "this gateway has no host of its own: ask for /lb/HOST"))
		return
	}
	if !s.writeKept(w, r, s.local) {
		r.SetPathValue("host", s.local)
		s.getBalanced(w, r)
	}
}

// code is the answer to a load balancer.
func (p policy) code(v verdict) int {
	switch {
	case v.works():
		return http.StatusOK
	case v == absent, v == drains && p.drain404:
		return http.StatusNotFound
	}
	return http.StatusServiceUnavailable
}

func tellEnvoy(h http.Header, seen *sight, v verdict) {
	switch v {
	case degraded:
		h[headerDegraded] = headerTrue
	case drains:
		h[headerImmediate] = headerTrue
	}
	if cluster := seen.written().cluster; cluster != nil {
		h[headerCluster] = cluster
	}
}
