package gateway

import (
	"net/http"
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

// getBalanced answers a load balancer: 200 for work, 503 for none, 404 for what
// is not there, and where it asks so for maintenance.
func (s *Server) getBalanced(w http.ResponseWriter, r *http.Request) {
	s.named(w, r, func(host, check string) error {
		p, err := parsePolicy(r.URL.RawQuery)
		if err != nil {
			return err
		}
		now := time.Now()
		seen, ok := s.sight(host, check, now)
		if !ok {
			return missing(host, check)
		}
		v, h := p.decide(&seen, now), w.Header()
		tellFreshness(h, &seen, now)
		tellEnvoy(h, &seen, v)
		h["Content-Type"] = headerPlain
		if r.Method == http.MethodOptions {
			h["Allow"] = headerLB
		}
		writeBody(w, p.code(v), []byte(v.String()+" "+seen.line(now)+"\n"))
		return nil
	})
}

// getLocalBalanced is for load balancers that ask all their servers for the same path.
func (s *Server) getLocalBalanced(w http.ResponseWriter, r *http.Request) {
	if s.local == "" {
		s.fail(w, r, refuse(http.StatusNotFound, "this gateway has no host of its own: ask for /lb/HOST"))
		return
	}
	r.SetPathValue("host", s.local)
	s.getBalanced(w, r)
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
	if seen.cluster != "" {
		h.Set(headerCluster, oneLine(seen.cluster))
	}
}
