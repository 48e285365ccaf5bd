package gateway

import (
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/looprock/megaphone/events"
)

// Each host and check has one sample per status, of which exactly one is 1.
func TestMetricsOfTheView(t *testing.T) {
	is := is.New(t)
	v, r := viewOf(false)
	r.add("web02", "b", 1, true)
	v.RefreshRegistration("", "")
	s := record(3, 7, events.Warning, "disk 91%")
	s.Observed = time.Unix(1795378487, 120e6)
	v.ApplyCheck(s, true)

	s = record(1, 8, events.Critical, "silent")
	s.Check, s.Phase, s.Basis = "late", events.Stale, events.Stale
	r.add("web01", "late", 2, true)
	v.RefreshRegistration("web01", "late")
	v.ApplyCheck(s, true)

	for name, tt := range map[string]struct {
		collector *statusCollector
		hosts     int
	}{
		"local": {&statusCollector{view: func() *View { return v }, host: "web01", local: true}, 1},
		"none":  {&statusCollector{view: func() *View { return v }, local: true}, 0},
		"fleet": {&statusCollector{view: func() *View { return v }}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			reg := prometheus.NewPedanticRegistry() // checks what is collected against what is described
			is.NoErr(reg.Register(tt.collector))
			families, err := reg.Gather()
			is.NoErr(err)
			values := map[string]float64{}
			ones := 0
			for _, f := range families {
				for _, m := range f.GetMetric() {
					key := f.GetName()
					for _, l := range m.GetLabel() {
						key += " " + l.GetName() + "=" + l.GetValue()
					}
					values[key] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
					if f.GetName() == "megaphone_host_status" && values[key] == 1 {
						ones++
					}
				}
			}
			is.Equal(ones, tt.hosts)
			if tt.hosts == 0 {
				return
			}
			is.Equal(values["megaphone_host_status host=web01 status=critical"], 1.0)
			is.Equal(values["megaphone_host_maintenance host=web01"], 0.0)
			is.Equal(values["megaphone_check_stale check=a host=web01"], 0.0)
			is.Equal(values["megaphone_check_stale check=late host=web01"], 1.0)
			is.Equal(values["megaphone_check_status check=a host=web01 status=warning"], 1.0)
			is.Equal(values["megaphone_check_status check=a host=web01 status=ok"], 0.0)
			is.Equal(values["megaphone_check_transitions_total check=a host=web01"], 3.0)
			is.Equal(values["megaphone_check_last_result_timestamp_seconds check=a host=web01"], 1795378487.12)
		})
	}
}
