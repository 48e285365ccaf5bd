package events_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestFilter(t *testing.T) {
	at := func(s events.Status) events.Moment { return events.Moment{Status: &s, Phase: events.Live} }
	check := events.Transition{
		Host: "web01.example", Check: "queue/depth", Previous: at(events.Critical), Current: at(events.OK),
		Labels: map[string]string{"env": "prod", "empty": ""},
	}
	host := check
	host.Check, host.Previous = "", at(events.OK)
	first := check
	first.Previous = events.Moment{Phase: events.Pending}
	for name, tt := range map[string]struct {
		words              events.FilterWords
		check, host, first bool
		subjects           string
	}{
		"everything":                {events.FilterWords{}, true, true, true, "megaphone.status.>"},
		"a host":                    {events.FilterWords{Host: "WEB01.example"}, true, true, true, "megaphone.status.host.web01%2Eexample megaphone.status.check.web01%2Eexample.*"},
		"another host":              {events.FilterWords{Host: "web02"}, false, false, false, "megaphone.status.host.web02 megaphone.status.check.web02.*"},
		"hosts by pattern":          {events.FilterWords{Host: "web??.*"}, true, true, true, "megaphone.status.>"},
		"a pattern is of the whole": {events.FilterWords{Host: "web0?"}, false, false, false, "megaphone.status.>"},
		"hosts only":                {events.FilterWords{Hosts: true}, false, true, false, "megaphone.status.host.*"},
		"one host itself":           {events.FilterWords{Hosts: true, Host: "web01.example"}, false, true, false, "megaphone.status.host.web01%2Eexample"},
		"a check of any host":       {events.FilterWords{Check: "queue/depth"}, true, false, true, "megaphone.status.check.*.queue%2Fdepth"},
		"checks by pattern":         {events.FilterWords{Check: "*/*"}, true, false, true, "megaphone.status.check.*.*"},
		"other checks":              {events.FilterWords{Check: "*/size"}, false, false, false, "megaphone.status.check.*.*"},
		"a check of a host":         {events.FilterWords{Host: "web01.example", Check: "queue/depth"}, true, false, true, "megaphone.status.check.web01%2Eexample.queue%2Fdepth"},
		"Critical, there and back":  {events.FilterWords{Status: "Critical"}, true, false, false, "megaphone.status.>"},
		"any status":                {events.FilterWords{Status: "OK"}, true, true, true, "megaphone.status.>"},
		"labels":                    {events.FilterWords{Labels: []string{"env=prod", "empty", "empty="}}, true, true, true, "megaphone.status.>"},
		"a label that is missing":   {events.FilterWords{Labels: []string{"env=prod", "rack"}}, false, false, false, "megaphone.status.>"},
		"a label of another value":  {events.FilterWords{Labels: []string{"env="}}, false, false, false, "megaphone.status.>"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			f, err := events.ParseFilter(tt.words)
			is.NoErr(err)
			is.Equal(f.Match(check), tt.check)
			is.Equal(f.Match(host), tt.host)
			is.Equal(f.Match(first), tt.first)
			is.Equal(strings.Join(f.Subjects(), " "), tt.subjects)
		})
	}
}

func TestFilterRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		words events.FilterWords
		want  error
	}{
		"a bad host":             {events.FilterWords{Host: "web 01"}, events.ErrName},
		"a bad check":            {events.FilterWords{Check: "a\nb"}, events.ErrName},
		"a bad status":           {events.FilterWords{Status: "critical"}, events.ErrStatus},
		"hosts and a check":      {events.FilterWords{Hosts: true, Check: "db"}, events.ErrName},
		"a pattern without end":  {events.FilterWords{Host: strings.Repeat("*", events.MaxFilterPattern+1)}, events.ErrName},
		"a label without a name": {events.FilterWords{Labels: []string{""}}, events.ErrName},
		"too many labels":        {events.FilterWords{Labels: make([]string, events.MaxLabels+1)}, events.ErrName},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			_, err := events.ParseFilter(tt.words)
			is.True(errors.Is(err, tt.want))
		})
	}
}

// A pattern agrees with the plain recursive definition of one, and what a filter
// chooses lies on its subjects.
func FuzzFilter(f *testing.F) {
	for _, seed := range [][2]string{{"*", ""}, {"a*b*c", "aXbYbZc"}, {"??", "ab"}, {"**a", "ba"}, {"*?", "é"}, {"db", "db"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, id string) {
		if _, err := events.ParseCheck(id); err != nil || pattern == "" || len(pattern)+len(id) > 24 {
			return
		}
		filter, err := events.ParseFilter(events.FilterWords{Check: pattern})
		if err != nil {
			return
		}
		got := filter.MatchName("web01", id)
		if want := matches([]rune(pattern), []rune(id)); got != want {
			t.Fatalf("%q %q: %v, want %v", pattern, id, got, want)
		}
		subject := filter.Subjects()[0]
		if got && !strings.HasSuffix(subject, ".*."+events.Token(id)) && !strings.HasSuffix(subject, ".*.*") {
			t.Fatalf("%q chooses %q, which does not lie on %s", pattern, id, subject)
		}
	})
}

func matches(p, s []rune) bool {
	switch {
	case len(p) == 0:
		return len(s) == 0
	case p[0] == '*':
		return matches(p[1:], s) || len(s) > 0 && matches(p, s[1:])
	}
	return len(s) > 0 && (p[0] == '?' || p[0] == s[0]) && matches(p[1:], s[1:])
}
