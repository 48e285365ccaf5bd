package events_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestSubjects(t *testing.T) {
	is := is.New(t)
	is.Equal(events.Token("web01.example.com"), "web01%2Eexample%2Ecom")
	is.Equal(events.ResultSubject("web01.example.com", "a b"), "megaphone.result.web01%2Eexample%2Ecom.a%20b")
	is.Equal(events.StatusSubject("web01", ""), "megaphone.status.host.web01")
	is.Equal(events.StatusSubject("web01", "db"), "megaphone.status.check.web01.db")
	is.Equal(events.CommitSubject("web01", "db"), "megaphone.commit.check.web01.db")
	is.Equal(events.RegistrationSubject("web01", ""), "megaphone.registration.web01")
	is.Equal(events.SelectSubject("deploy 7"), "megaphone.override._select.deploy%207")
	is.Equal(events.RejectedSubject("result", "", ""), "megaphone.rejected.result._._")
}

func TestParseSubject(t *testing.T) {
	for in, want := range map[string]events.Address{
		"megaphone.result.web01.db":              {Kind: "result", Host: "web01", Check: "db"},
		"megaphone.polled.63.web01.a%2Eb":        {Kind: "polled", Host: "web01", Check: "a.b"}, // as stored
		"megaphone.registration.web01%2Elan.%2A": {Kind: "registration", Host: "web01.lan", Check: "*"},
		"megaphone.registration.web01":           {Kind: "registration", Host: "web01"},
		"megaphone.override.web01":               {Kind: "override", Host: "web01"},
		"megaphone.override._select.x":           {Kind: "override", Select: "x"},
		"megaphone.status.host.web01":            {Kind: "status", Host: "web01"},
		"megaphone.status.check.web01.db":        {Kind: "status", Host: "web01", Check: "db"},
	} {
		t.Run(in, func(t *testing.T) {
			is := is.New(t)
			got, err := events.ParseSubject(in)
			is.NoErr(err)
			is.Equal(got, want)
		})
	}
	for _, in := range []string{
		"", "megaphone", "megaphone.result", "megaphone.result.web01", "other.result.a.b", "megaphone.what.a.b",
		"megaphone.result.Web01.db", "megaphone.result.web01.a%2", "megaphone.result.web01.a%2e", "megaphone.result.web01.%41",
		"megaphone.status.host.a.b", "megaphone.registration.web01.--global", "megaphone.result.web01.%0A",
	} {
		t.Run("refused "+in, func(t *testing.T) {
			is := is.New(t)
			_, err := events.ParseSubject(in)
			is.True(errors.Is(err, events.ErrSubject) || errors.Is(err, events.ErrName)) // with a reason
		})
	}
}

func TestPartitionSpreads(t *testing.T) {
	is := is.New(t)
	var hits [events.Partitions]int
	for i := range 6400 {
		hits[events.CheckPartition("web01", strings.Repeat("c", i%80)+string(rune('a'+i/80%26))+string(rune('a'+i/2080)))]++
	}
	for _, n := range hits {
		is.True(n > 20) // one host's checks use every partition
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"web01", "a.b*>", "é☃", "%41", "a%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		token := events.Token(name)
		if strings.ContainsAny(token, ". *>\t\r\n") {
			t.Fatalf("Token(%q) = %q is not one token", name, token)
		}
		if back, err := events.ParseToken(token); name != "" && (err != nil || back != name) {
			t.Fatalf("ParseToken(%q) = %q, %v", token, back, err)
		}
		if back, err := events.ParseToken(name); err == nil && events.Token(back) != name {
			t.Fatalf("%q is a second token of %q", name, back)
		}
	})
}

func FuzzParseSubject(f *testing.F) {
	f.Add("megaphone.result.web01.db")
	f.Add("megaphone.override._select.x")
	f.Fuzz(func(t *testing.T, s string) {
		a, err := events.ParseSubject(s)
		if err != nil || a.Select != "" {
			return
		}
		b := events.RegistrationSubject(a.Host, a.Check)
		again, err := events.ParseSubject(b)
		if err != nil || again.Host != a.Host || again.Check != a.Check {
			t.Fatalf("%q -> %+v -> %q -> %+v, %v", s, a, b, again, err)
		}
	})
}
