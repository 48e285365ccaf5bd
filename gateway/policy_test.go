package gateway

import (
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

// The map of statuses and phases to verdicts, for every policy that matters.
func TestPolicyDecides(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	seen := func(status events.Status, phase events.Phase, age time.Duration) *sight {
		return &sight{host: "h", status: status, phase: phase, observed: now.Add(-age)}
	}
	const fresh, old = time.Second, time.Hour
	never := &sight{host: "h", status: events.OK, phase: events.Live}
	late := seen(events.OK, events.Live, old)
	late.late = now.Add(-time.Second)
	for _, tt := range []struct {
		query string
		s     *sight
		want  verdict
	}{
		{"", seen(events.OK, events.Live, fresh), passes},
		{"", seen(events.Unknown, events.Live, fresh), degraded},
		{"", seen(events.Warning, events.Live, fresh), degraded},
		{"", seen(events.Critical, events.Live, fresh), fails},
		{"", seen(events.Unknown, events.Pending, fresh), degraded},
		{"", seen(events.Unknown, events.Gone, fresh), degraded},
		{"", seen(events.OK, events.Maintenance, fresh), drains},
		{"", seen(events.Critical, events.Maintenance, fresh), drains},
		{"", seen(events.OK, events.Overridden, fresh), passes},
		{"", seen(events.Critical, events.Overridden, fresh), fails},
		{"", seen(events.OK, "of a later version", fresh), passes},

		{"unknown=fail", seen(events.Unknown, events.Live, fresh), fails},
		{"unknown=ok", seen(events.Unknown, events.Live, fresh), degraded},
		{"unknown=fail", seen(events.Warning, events.Live, fresh), degraded},
		{"unknown=fail", seen(events.Unknown, events.Pending, fresh), fails},
		{"warning=fail", seen(events.Warning, events.Live, fresh), fails},
		{"warning=fail", seen(events.OK, events.Live, fresh), passes},
		{"warning=ok", seen(events.Warning, events.Live, fresh), degraded},

		{"", seen(events.OK, events.Stale, old), passes},
		{"stale=last", seen(events.Critical, events.Stale, old), fails},
		{"stale=open", seen(events.Critical, events.Stale, old), degraded},
		{"stale=open", seen(events.Critical, events.Live, old), fails},
		{"stale=closed", seen(events.OK, events.Stale, old), fails},
		{"stale=closed", seen(events.OK, events.Live, old), passes},
		{"stale=closed", late, fails}, // by the reader's own clock
		{"stale=open", late, degraded},
		{"", late, passes},
		{"stale=closed", seen(events.OK, events.Maintenance, old), drains},
		{"stale=open", seen(events.Critical, events.Maintenance, old), drains},

		{"max-age=30", seen(events.OK, events.Live, old), fails},
		{"max-age=30&stale=last", seen(events.OK, events.Live, old), passes}, // it is stale, and the last status counts
		{"max-age=30&stale=closed", seen(events.OK, events.Live, old), fails},
		{"max-age=30s&stale=closed", seen(events.OK, events.Live, 30*time.Second), passes},
		{"max-age=30s&stale=closed", seen(events.OK, events.Live, 31*time.Second), fails},
		{"max-age=30&stale=open", seen(events.Critical, events.Live, old), degraded},
		{"max-age=30&stale=closed", never, fails},
		{"max-age=30&stale=closed", seen(events.OK, events.Overridden, old), passes}, // set by hand
	} {
		t.Run(tt.query+" "+tt.s.status.String()+" "+string(tt.s.phase), func(t *testing.T) {
			is := is.New(t)
			p, err := parsePolicy(tt.query)
			is.NoErr(err)
			is.Equal(p.decide(tt.s, now), tt.want)
		})
	}
}

func TestPolicyRefuses(t *testing.T) {
	for query, says := range map[string]string{
		"stale=close":                "last, open or closed",
		"max-age=0":                  "above 0",
		"max-age=soon":               "30s",
		"max-age=-1":                 "30s",
		"unknown=maybe":              "ok or fail",
		"warning=":                   "ok or fail",
		"drain=200":                  "404 or 503",
		"weight=0":                   "1 to 100",
		"weight=101":                 "1 to 100",
		"maintenance=off":            "maint or drain",
		"max_age=30":                 "max-age", // what there is
		"stale=open&stale=closed":    "2 times",
		"%zz":                        "cannot be read",
		strings.Repeat("stale&", 99): "512",
	} {
		t.Run(events.Cut(query, 20), func(t *testing.T) {
			is := is.New(t)
			_, err := parsePolicy(query)
			code, detail := codeOf(err)
			is.Equal(code, 400)
			is.True(strings.Contains(detail, says)) // it says what to do
		})
	}
	is := is.New(t)
	p, err := parsePolicy("weight=100&maintenance=drain&drain=404")
	is.NoErr(err)
	is.Equal(p.weight(), 100)
	is.True(p.soft && p.drain404)
	is.Equal(policy{}.weight(), 50)
}

func TestLine(t *testing.T) {
	is := is.New(t)
	now := time.Unix(1_000_000, 0)
	s := sight{
		host: "web01", check: "a/b", status: events.Critical, phase: events.Live, message: "no\nanswer\x00",
		observed: now.Add(-3200 * time.Millisecond), next: now.Add(6800 * time.Millisecond),
	}
	is.Equal(s.line(now), "Critical web01/a/b: no answer  (live, observed 1970-01-12T13:46:36.800Z, age 3.2 s, next in 6.8 s)")
	is.Equal((&sight{host: "h", phase: events.Gone}).line(now), "Unknown h:  (gone, never observed)")
}

func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{"", "stale=open", "max-age=30s&unknown=fail", "weight=7&x", "%", "a=1;b=2", "max-age=1e99", "max-age=NaN"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		p, err := parsePolicy(query)
		if err != nil {
			if code, _ := codeOf(err); code != 400 || p != (policy{}) {
				t.Fatalf("%q: %v", query, err)
			}
			return
		}
		if w := p.weight(); w < 1 || w > 100 || p.maxAge < 0 {
			t.Fatalf("%q: %+v", query, p)
		}
		p.decide(&sight{status: events.OK, phase: events.Stale}, time.Unix(0, 0))
	})
}
