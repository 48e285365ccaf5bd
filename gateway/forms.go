package gateway

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/looprock/megaphone/events"
)

// The forms in which a host or check is told, chosen by Accept.
type form uint8

const (
	formJSON   form = iota // the view; also where nothing that is asked for is to be had
	formHealth             // application/health+json
	formText               // one line
	formProm               // Prometheus' text, or OpenMetrics
	formBadge              // SVG
)

// offers are the media types of the forms. Of equals in quality and precision
// the first is taken.
var offers = []struct {
	kind, sub string
	form      form
}{
	{"application", "json", formJSON},
	{"application", "health+json", formHealth},
	{"text", "plain", formText},
	{"application", "openmetrics-text", formProm},
	{"image", "svg+xml", formBadge},
}

const (
	maxAccept = 1024 // bytes of Accept that are read
	maxRanges = 32   // media ranges of it
)

// chooseForm reads Accept. text/plain with a version is what Prometheus asks for.
func chooseForm(accept []string) form {
	if len(accept) == 0 {
		return formJSON
	}
	text := strings.Join(accept, ",")
	if len(text) > maxAccept {
		text = text[:maxAccept]
	}
	var ranges []mediaRange
	for part := range strings.SplitSeq(text, ",") {
		if m, ok := parseRange(part); ok && len(ranges) < maxRanges {
			ranges = append(ranges, m)
		}
	}
	best, bestQ, bestFit := formJSON, 0.0, 0
	for _, o := range offers {
		q, fit, versioned := quality(ranges, o.kind, o.sub)
		if q > bestQ || q > 0 && q == bestQ && fit > bestFit {
			best, bestQ, bestFit = o.form, q, fit
			if o.form == formText && versioned {
				best = formProm
			}
		}
	}
	return best
}

// mediaRange is an item of Accept.
type mediaRange struct {
	kind, sub string
	versioned bool // it has a version, as what Prometheus sends
	q         float64
}

func parseRange(text string) (mediaRange, bool) {
	media, rest, _ := strings.Cut(text, ";")
	kind, sub, ok := strings.Cut(strings.ToLower(strings.TrimSpace(media)), "/")
	m := mediaRange{kind: kind, sub: sub, q: 1}
	for param := range strings.SplitSeq(rest, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		switch strings.ToLower(key) {
		case "version":
			m.versioned = true
		case "q":
			q, err := strconv.ParseFloat(value, 64)
			if err != nil || !(q >= 0 && q <= 1) { // also what is no number
				return m, false
			}
			m.q = q
		}
	}
	return m, ok && kind != "" && sub != ""
}

// quality is what the most precise range that fits says; fit grows with precision.
func quality(ranges []mediaRange, kind, sub string) (q float64, fit int, versioned bool) {
	for _, m := range ranges {
		precision := 0
		switch {
		case m.kind == kind && m.sub == sub:
			precision = 3
		case m.kind == kind && m.sub == "*":
			precision = 2
		case m.kind == "*" && m.sub == "*":
			precision = 1
		}
		if precision > fit || precision > 0 && precision == fit && m.q > q {
			q, fit, versioned = m.q, precision, m.versioned && precision == 3
		}
	}
	return q, fit, versioned
}

// represent answers with a host or check in the form that is asked for. view
// makes the JSON form.
func (s *Server) represent(w http.ResponseWriter, r *http.Request, host, check string, view func() (any, error)) error {
	h := w.Header()
	h["Vary"] = headerVary
	f := chooseForm(r.Header["Accept"])
	if f == formJSON {
		v, err := view()
		if err == nil {
			writeJSON(w, http.StatusOK, v)
		}
		return err
	}
	now := time.Now()
	seen, ok := s.sight(host, check, now)
	if !ok {
		return missing(host, check)
	}
	h.Set(headerNumber, strconv.FormatUint(seen.number, 10))
	switch f {
	case formHealth:
		return s.writeHealth(w, r, &seen, now)
	case formProm:
		s.writeExposition(w, r, host, check, now)
	case formBadge:
		writeBadge(w, &seen, now)
	default:
		tellFreshness(h, &seen, now)
		h["Content-Type"] = headerPlain
		writeBody(w, http.StatusOK, []byte(seen.line(now)+"\n"))
	}
	return nil
}

// writeLines answers with a line for each host. Where there are more, a header
// says how to go on.
func writeLines(w http.ResponseWriter, hosts []events.HostView, next string, now time.Time) {
	var b strings.Builder
	for i := range hosts {
		h := &hosts[i]
		seen := sight{host: h.Host, status: h.Status, phase: h.Phase, message: h.Message, observed: h.Observed.Time}
		if h.NextSeconds != nil {
			seen.next = now.Add(time.Duration(*h.NextSeconds * float64(time.Second)))
		}
		b.WriteString(seen.line(now) + "\n")
	}
	if next != "" {
		w.Header().Set("Link", `</hosts?after=`+url.QueryEscape(next)+`>; rel="next"`)
	}
	w.Header()["Content-Type"] = headerPlain
	writeBody(w, http.StatusOK, []byte(b.String()))
}

// writeExposition answers with the metrics of a host and its checks, or of a
// check; others, which may be nil, come with them.
func (s *Server) writeExposition(w http.ResponseWriter, r *http.Request, host, check string, now time.Time, others ...prometheus.Collector) {
	reg := prometheus.NewRegistry()
	for _, c := range append(others, &statusCollector{view: s.seen, host: host, check: check, local: true}, freshCollector{s, host, check, now}) {
		if err := reg.Register(c); err != nil { // two of one name: a mistake of ours
			s.fail(w, r, err)
			return
		}
	}
	s.metricsHandler(reg).ServeHTTP(w, r)
}

var (
	descAgeOf  = prometheus.NewDesc("megaphone_age_seconds", "How long ago the state was observed; of a host, that of its oldest live check.", []string{"host", "check"}, nil)
	descNextOf = prometheus.NewDesc("megaphone_next_seconds", "Until the next result is expected.", []string{"host", "check"}, nil)
)

// freshCollector tells how current one host or check is. The check of a host is empty.
type freshCollector struct {
	s           *Server
	host, check string
	now         time.Time
}

// Describe implements [prometheus.Collector].
func (c freshCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- descAgeOf
	ch <- descNextOf
}

// Collect implements [prometheus.Collector].
func (c freshCollector) Collect(ch chan<- prometheus.Metric) {
	seen, ok := c.s.sight(c.host, c.check, c.now)
	if !ok {
		return
	}
	if age, ok := seen.age(c.now); ok {
		ch <- prometheus.MustNewConstMetric(descAgeOf, prometheus.GaugeValue, age.Seconds(), c.host, c.check)
	}
	if next, ok := seen.nextIn(c.now); ok {
		ch <- prometheus.MustNewConstMetric(descNextOf, prometheus.GaugeValue, next.Seconds(), c.host, c.check)
	}
}
