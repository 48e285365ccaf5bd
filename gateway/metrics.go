package gateway

import (
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func (s *Server) getMetrics(w http.ResponseWriter, r *http.Request) { s.metrics.ServeHTTP(w, r) }

func (s *Server) getFleet(w http.ResponseWriter, r *http.Request) { s.fleet.ServeHTTP(w, r) }

// newMetrics makes the handlers of /metrics (this process and its local host)
// and /metrics/hosts (all hosts). Each scrape reads the view.
func (s *Server) newMetrics() (own, fleet http.Handler) {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "megaphone_build_info", Help: "What runs here; always 1.",
		ConstLabels: prometheus.Labels{"version": s.cfg.Version, "goversion": runtime.Version()},
	})
	build.Set(1)
	process := prometheus.NewRegistry()
	process.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		&statusCollector{view: s.seen, host: s.local, local: true}, processCollector{s})
	process.MustRegister(s.cfg.Metrics...)
	hosts := prometheus.NewRegistry()
	hosts.MustRegister(&statusCollector{view: s.seen})
	return s.metricsHandler(process), s.metricsHandler(hosts)
}

// maxScrapes is how many scrapes of one path are answered at the same time.
const maxScrapes = 8

func (s *Server) metricsHandler(reg *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: maxScrapes, Timeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	})
}

// The metrics of hosts and checks. Of an enumeration exactly one sample is 1;
// texts that change are never labels.
var (
	descHost        = prometheus.NewDesc("megaphone_host_status", "1 for the status that the host has, 0 for the others.", []string{"host", "status"}, nil)
	descCheck       = prometheus.NewDesc("megaphone_check_status", "1 for the status that the check has, 0 for the others.", []string{"host", "check", "status"}, nil)
	descSeen        = prometheus.NewDesc("megaphone_check_last_result_timestamp_seconds", "When the last result was observed, Unix time.", []string{"host", "check"}, nil)
	descStale       = prometheus.NewDesc("megaphone_check_stale", "1 while the check has had no result for longer than it may.", []string{"host", "check"}, nil)
	descMaintenance = prometheus.NewDesc("megaphone_host_maintenance", "1 while the host is in maintenance: its status should wake nobody.", []string{"host"}, nil)
	descTransitions = prometheus.NewDesc("megaphone_check_transitions_total", "Changes of status or phase: the number of the last one.", []string{"host", "check"}, nil)
)

// statusCollector shows hosts and their checks as the view has them.
type statusCollector struct {
	view  func() *View
	host  string // the one host
	check string // only this check of it; empty for all
	local bool   // only the one host, of which there may be none
}

// Describe implements [prometheus.Collector].
func (c *statusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descHost, descMaintenance, descCheck, descSeen, descStale, descTransitions} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *statusCollector) Collect(ch chan<- prometheus.Metric) {
	now, view := time.Now(), c.view()
	if c.local {
		if h, ok := view.Host(c.host, now); ok {
			c.collectHost(ch, view, h, now)
		}
		return
	}
	for after := ""; ; {
		hosts, next := view.Hosts(HostFilter{After: after, Limit: maxPage}, now)
		for _, h := range hosts {
			c.collectHost(ch, view, h, now)
		}
		if next == "" {
			return
		}
		after = next
	}
}

func (c *statusCollector) collectHost(ch chan<- prometheus.Metric, view *View, h events.HostView, now time.Time) {
	if c.check == "" {
		enumerate(ch, descHost, h.Status, h.Host)
		ch <- prometheus.MustNewConstMetric(descMaintenance, prometheus.GaugeValue, oneIf(h.Phase == events.Maintenance), h.Host)
	}
	checks, _ := view.Checks(h.Host, now) // a host may have none
	for _, k := range checks {
		if c.check != "" && c.check != k.Check {
			continue
		}
		enumerate(ch, descCheck, k.Status, k.Host, k.Check)
		ch <- prometheus.MustNewConstMetric(descStale, prometheus.GaugeValue, oneIf(k.Phase == events.Stale), k.Host, k.Check)
		ch <- prometheus.MustNewConstMetric(descTransitions, prometheus.CounterValue, float64(k.Number), k.Host, k.Check)
		if !k.Observed.IsZero() {
			ch <- prometheus.MustNewConstMetric(descSeen, prometheus.GaugeValue, float64(k.Observed.UnixMilli())/1000, k.Host, k.Check)
		}
	}
}

// enumerate writes a sample for each status, of which one is 1.
func enumerate(ch chan<- prometheus.Metric, d *prometheus.Desc, has events.Status, labels ...string) {
	for _, s := range events.Statuses() {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, oneIf(s == has), append(append([]string{}, labels...), strings.ToLower(s.String()))...)
	}
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

var (
	descBus     = prometheus.NewDesc("megaphone_bus_connected", "1 while the bus is connected.", nil, nil)
	descAge     = prometheus.NewDesc("megaphone_view_age_seconds", "How long the bus has been away; 0 while it is there.", nil, nil)
	descStreams = prometheus.NewDesc("megaphone_event_streams", "Clients of GET /events.", nil, nil)
)

// processCollector shows the gateway itself.
type processCollector struct{ s *Server }

// Describe implements [prometheus.Collector].
func (c processCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descBus
	ch <- descAge
	ch <- descStreams
}

// Collect implements [prometheus.Collector].
func (c processCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(descBus, prometheus.GaugeValue, oneIf(c.s.conn.NATS().IsConnected()))
	ch <- prometheus.MustNewConstMetric(descAge, prometheus.GaugeValue, c.s.follower.Age(time.Now()).Seconds())
	ch <- prometheus.MustNewConstMetric(descStreams, prometheus.GaugeValue, float64(c.s.streams.Load()))
}
