package events_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func TestParseHost(t *testing.T) {
	for name, tt := range map[string]struct {
		in, want string
		bad      bool
	}{
		"plain":             {in: "web01", want: "web01"},
		"folded":            {in: "Web01.Example.COM", want: "web01.example.com"},
		"an address":        {in: "fe80::1", want: "fe80::1"},
		"empty":             {bad: true},
		"dot at the end":    {in: "web01.", bad: true},
		"a blank":           {in: "web 01", bad: true},
		"not ASCII":         {in: "wéb", bad: true},
		"a slash":           {in: "a/b", bad: true},
		"longest":           {in: strings.Repeat("a", 253), want: strings.Repeat("a", 253)},
		"too long":          {in: strings.Repeat("a", 254), bad: true},
		"reserved":          {in: "_select", bad: true},
		"a Kelvin sign (K)": {in: "\u212a", bad: true}, // folds to k in Unicode
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			got, err := events.ParseHost(tt.in)
			if tt.bad {
				is.True(errors.Is(err, events.ErrName)) // refused
				return
			}
			is.NoErr(err)
			is.Equal(got, tt.want)
		})
	}
}

func TestParseCheck(t *testing.T) {
	is := is.New(t)
	for _, id := range []string{"db", "a b", "*", ">", "50%", "é☃", "a/b", "..", `o'k"`, "a.b..c"} {
		got, err := events.ParseCheck(id)
		is.NoErr(err)
		is.Equal(got, id)
	}
	for _, id := range []string{"", "a\nb", "a\x00", "\x7f", "\xff", "--global", strings.Repeat("x", 513)} {
		_, err := events.ParseCheck(id)
		is.True(errors.Is(err, events.ErrName)) // refused
	}
}
