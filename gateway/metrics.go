package gateway

import "net/http"

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) { s.metrics.ServeHTTP(w, r) }

func (s *Server) getFleet(w http.ResponseWriter, r *http.Request) { s.fleet.ServeHTTP(w, r) }

func (s *Server) newMetrics() (own, fleet http.Handler) {
	none := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotImplemented) })
	return none, none
}
