package gateway

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looprock/megaphone/events"
)

var (
	descSuccess  = prometheus.NewDesc("probe_success", "1 where the target is to get work, by the policy of the query.", nil, nil)
	descDuration = prometheus.NewDesc("probe_duration_seconds", "What the last poll of the check took; 0 for hosts and pushes.", nil, nil)
)

// probeResult is what the blackbox exporter tells of a probe.
type probeResult struct{ success, duration float64 }

// Describe implements [prometheus.Collector].
func (p probeResult) Describe(ch chan<- *prometheus.Desc) {
	ch <- descSuccess
	ch <- descDuration
}

// Collect implements [prometheus.Collector].
func (p probeResult) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(descSuccess, prometheus.GaugeValue, p.success)
	ch <- prometheus.MustNewConstMetric(descDuration, prometheus.GaugeValue, p.duration)
}

// getProbe answers as the blackbox exporter does: what fails, or is not there,
// is a success of 0 and not an error.
func (s *Server) getProbe(w http.ResponseWriter, r *http.Request) {
	host, check, p, err := probeQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	now := time.Now()
	result := probeResult{}
	if seen, ok := s.sight(host, check, now); ok {
		tellFreshness(w.Header(), &seen, now)
		result.duration = seen.latency
		if p.decide(&seen, now).works() {
			result.success = 1
		}
	}
	s.writeExposition(w, r, host, check, now, result)
}

// probeQuery reads ?target=HOST[/CHECK] and the policy. The module of scrape
// configurations for the blackbox exporter is let pass.
func probeQuery(r *http.Request) (host, check string, p policy, err error) {
	if p, err = parsePolicy(r.URL.RawQuery, "target", "module"); err != nil {
		return "", "", p, err
	}
	target := r.URL.Query().Get("target")
	if target == "" {
		return "", "", p, refuse(http.StatusBadRequest, "?target= must name a HOST or HOST/CHECK")
	}
	host, check, err = parseTarget(target)
	return host, check, p, err
}

// targetGroup is an item of Prometheus' HTTP service discovery.
type targetGroup struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// getTargets lists all hosts for service discovery: the address of the host's
// record, else its name, with ?port= where that names no port.
func (s *Server) getTargets(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	port := q.Get("port")
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		s.fail(w, r, refuse(http.StatusBadRequest, "?port= must be 1 to 65535"))
		return
	}
	groups := []targetGroup{}
	for after := ""; ; {
		hosts, next := s.seen().Hosts(HostFilter{Labels: q["label"], After: after, Limit: maxPage}, time.Now())
		for i := range hosts {
			groups = append(groups, newTargetGroup(&hosts[i], port))
		}
		if next == "" {
			break
		}
		after = next
	}
	body, err := json.Marshal(groups)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header()["Content-Type"] = headerJSON
	writeBody(w, http.StatusOK, append(body, '\n'))
}

func newTargetGroup(h *events.HostView, port string) targetGroup {
	address := h.Address
	if address == "" {
		address = h.Host
	}
	g := targetGroup{[]string{withPort(address, port)}, map[string]string{"__meta_megaphone_host": h.Host}}
	for key, value := range h.Labels {
		g.Labels["__meta_megaphone_label_"+notInLabel.ReplaceAllString(key, "_")] = value
	}
	return g
}

var notInLabel = regexp.MustCompile(`[^a-zA-Z0-9_]`)

// withPort appends a port to an address that has none.
func withPort(address, port string) string {
	switch ip, err := netip.ParseAddr(strings.Trim(address, "[]")); {
	case port == "":
		return address
	case err == nil && ip.Is6():
		return "[" + ip.String() + "]:" + port
	case err != nil && strings.Contains(address, ":"):
		return address
	}
	return address + ":" + port
}
