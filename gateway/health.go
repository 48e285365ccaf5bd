package gateway

import (
	"net/http"
	"time"

	"github.com/looprock/megaphone/events"
)

// livez says that the process runs and answers.
func (s *Server) livez(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readiness is the answer on /readyz.
type readiness struct {
	Ready      bool    `json:"ready"`
	Reason     string  `json:"reason,omitempty"`
	Bus        bool    `json:"bus"`         // the bus is connected
	AgeSeconds float64 `json:"age_seconds"` // of the view; 0 while the bus is there
	Version    string  `json:"version,omitempty"`
}

// readyz says whether answers are complete and current. A gateway that is not
// ready still answers, with what it has.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	a := readiness{
		Ready: true, Bus: s.conn.NATS().IsConnected(), AgeSeconds: s.follower.Age(time.Now()).Round(time.Millisecond).Seconds(),
		Version: s.cfg.Version,
	}
	select {
	case <-s.follower.Ready():
	default:
		a.Ready, a.Reason = false, "the view is not complete yet"
	}
	if a.Ready && (!a.Bus || a.AgeSeconds > 0) {
		a.Ready, a.Reason = false, "the bus is away: answers are as old as age_seconds says"
	}
	select {
	case <-s.stopping:
		a.Ready, a.Reason = false, "the gateway stops"
	default:
	}
	code := http.StatusOK
	if !a.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, a)
}

// getSchema answers the schema of an event type's data.
func (s *Server) getSchema(w http.ResponseWriter, r *http.Request) {
	schema, ok := events.Schema(r.PathValue("type"))
	if !ok {
		s.fail(w, r, refuse(http.StatusNotFound, "there is no event type %q", events.Cut(r.PathValue("type"), 128)))
		return
	}
	w.Header().Set("Content-Type", "application/schema+json")
	writeBody(w, http.StatusOK, schema)
}
