package gateway

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/looprock/megaphone/events"
)

// The push URL of Uptime Kuma's monitors of type "Push":
// /api/push/TOKEN?status=up&msg=OK&ping=

// kumaAnswer is what Uptime Kuma answers.
type kumaAnswer struct {
	OK  bool   `json:"ok"`
	Msg string `json:"msg,omitempty"`
}

func (s *Server) kuma(w http.ResponseWriter, r *http.Request) {
	err := s.foreign(r, "uptime-kuma", func(pushToken) (*events.Result, error) {
		return readKuma(r.URL.Query()), nil
	})
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		code, detail := s.foreignFault(w, "uptime-kuma", err)
		writeJSON(w, code, kumaAnswer{Msg: detail})
		return
	}
	writeJSON(w, http.StatusOK, kumaAnswer{OK: true})
}

// maxKumaPing is the largest ping that Uptime Kuma takes, in milliseconds.
const maxKumaPing = 1e11

// readKuma reads the query of a push. Nothing of it is required.
func readKuma(q url.Values) *events.Result {
	res := &events.Result{Status: events.OK, Message: q.Get("msg")}
	if status := q.Get("status"); status != "" && status != "up" {
		res.Status = events.Critical
	}
	switch {
	case res.Message != "":
	case res.Status == events.OK:
		res.Message = "OK" // Uptime Kuma's own
	default:
		res.Message = events.NoMessage(res.Status)
	}
	if ms, err := strconv.ParseFloat(q.Get("ping"), 64); err == nil && ms > 0 && ms <= maxKumaPing {
		res.LatencySeconds = ms / 1000
	}
	return res
}
