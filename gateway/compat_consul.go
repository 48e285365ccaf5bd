package gateway

import (
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/looprock/megaphone/events"
)

// The calls by which a service tells a Consul agent how its TTL check is,
// https://developer.hashicorp.com/consul/api-docs/agent/check. The token stands
// where Consul has the id of the check.

func (s *Server) consul(w http.ResponseWriter, r *http.Request) {
	err := s.foreign(r, "consul", func(pushToken) (*events.Result, error) {
		action := r.PathValue("action")
		if action != "update" {
			return readConsulNote(action, r.URL.Query())
		}
		body, err := readBody(w, r, maxBody)
		if err != nil {
			return nil, err
		}
		return readConsulUpdate(body)
	})
	if err != nil {
		code, detail := s.foreignFault(w, "consul", err)
		answerPlain(w, code, detail)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	writeBody(w, http.StatusOK, nil)
}

// readConsulNote reads /pass, /warn and /fail with ?note=.
func readConsulNote(action string, q url.Values) (*events.Result, error) {
	status, ok := map[string]events.Status{"pass": events.OK, "warn": events.Warning, "fail": events.Critical}[action]
	if !ok {
		return nil, refuse(http.StatusNotFound, "a check is told by /pass, /warn, /fail or /update")
	}
	return consulResult(status, q.Get("note")), nil
}

// readConsulUpdate reads the body of /update.
func readConsulUpdate(body []byte) (*events.Result, error) {
	var in struct{ Status, Output string } // read in any case, as Consul does
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, refuse(http.StatusBadRequest, "Request decode failed: %v", err)
	}
	status, ok := map[string]events.Status{"passing": events.OK, "warning": events.Warning, "critical": events.Critical}[in.Status]
	if !ok {
		return nil, refuse(http.StatusBadRequest, "Invalid check status: %q; use passing, warning or critical", events.Cut(in.Status, 64))
	}
	return consulResult(status, in.Output), nil
}

func consulResult(status events.Status, output string) *events.Result {
	if output == "" {
		output = events.NoMessage(status)
	}
	return &events.Result{Status: status, Message: output}
}
