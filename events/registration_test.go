package events_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/looprock/megaphone/events"
	"github.com/matryer/is"
)

func registration(t *testing.T, in string) events.Registration {
	t.Helper()
	var r events.Registration
	if err := json.Unmarshal([]byte(in), &r); err != nil {
		t.Fatalf("%s: %v", in, err)
	}
	return r
}

func TestTarget(t *testing.T) {
	for in, want := range map[string]events.Target{
		`{"id":"a","url":"http://x/"}`:                                 {Addr: "http://x/"},
		`{"id":"a","url":{"addr":"http://x/","jsonpath":"a/b"}}`:       {Addr: "http://x/", JSONPath: "a/b", Object: true},
		`{"id":"a","url":{"addr":"http://x/","statusoverride":"OK"}}`:  {Addr: "http://x/", Override: "OK", Object: true},
		`{"id":"a","url":{"addr":"http://x/","statusoverride":false}}`: {Addr: "http://x/", Object: true},
		`{"id":"a","url":{"addr":"http://x/","statusoverride":null}}`:  {Addr: "http://x/", Object: true},
		`{"id":"a","url":{"addr":"http://x/","statusoverride":[1]}}`:   {Addr: "http://x/", Override: "[1]", Object: true},
		`{"id":"a","url":{}}`:                                            {Object: true},
		`{"id":"a","url":null,"ttl":60}`:                                 {},
		`{"id":"a","url":{"addr":"http://x/","jsonpath":null,"team":1}}`: {Addr: "http://x/", Object: true},
	} {
		t.Run(in, func(t *testing.T) {
			is := is.New(t)
			r := registration(t, in)
			is.NoErr(r.Validate())
			got, err := r.Target()
			is.NoErr(err)
			is.Equal(got, want)
		})
	}
}

func TestValidate(t *testing.T) {
	for name, tt := range map[string]struct {
		in     string
		strict bool
		want   string // part of the error; empty for none
	}{
		"push check":               {in: `{"id":"a","ttl":"60s"}`, strict: true},
		"neither url nor ttl":      {in: `{"id":"a"}`, want: "needs a url"},
		"empty url":                {in: `{"id":"a","url":""}`, want: "must not be empty"},
		"a list":                   {in: `{"id":"a","url":[1]}`, want: "string or an object"},
		"jsonpath of a number":     {in: `{"id":"a","url":{"addr":"http://x","jsonpath":5}}`, want: "jsonpath must be a string"},
		"no id":                    {in: `{"url":"http://x"}`, want: "must not be empty"},
		"rise":                     {in: `{"id":"a","url":"http://x","rise":-1}`, want: "rise"},
		"interval":                 {in: `{"id":"a","url":"http://x","interval":"1ms"}`, want: "interval"},
		"pool":                     {in: `{"id":"a","url":"http://x","pool":"a b"}`, want: "pool"},
		"local pool":               {in: `{"id":"a","url":"http://x","pool":"@web01"}`, strict: true},
		"an object without addr":   {in: `{"id":"a","url":{}}`},
		"the same, strictly":       {in: `{"id":"a","url":{}}`, strict: true, want: "no addr"},
		"a bad override, strictly": {in: `{"id":"a","url":{"addr":"http://x/","statusoverride":"bad"}}`, strict: true, want: "statusoverride"},
		"no scheme, strictly":      {in: `{"id":"a","url":"localhost/x"}`, strict: true, want: "not an address"},
		"a file, strictly":         {in: `{"id":"a","url":"file://h/etc/passwd"}`, strict: true, want: "over the network"},
		"unknown kind, strictly":   {in: `{"id":"a","url":"gopher://h/"}`, strict: true, want: "use one of http, https, tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			r := registration(t, tt.in)
			err := r.Validate()
			if tt.strict {
				err = r.ValidateStrict()
			}
			if tt.want == "" {
				is.NoErr(err)
				return
			}
			is.True(err != nil && strings.Contains(err.Error(), tt.want)) // says what is wrong
		})
	}
}

func TestPoolName(t *testing.T) {
	for in, want := range map[string]string{
		`{"id":"a","host":"h","url":"http://localhost:8080/x"}`:            "@h",
		`{"id":"a","host":"h","url":"http://127.0.0.1/x"}`:                 "@h",
		`{"id":"a","host":"h","url":"http://[::1]:80/x"}`:                  "@h",
		`{"id":"a","host":"h","url":"http://0.0.0.0/x"}`:                   "@h",
		`{"id":"a","host":"h","url":"http://LOCALHOST./x"}`:                "@h",
		`{"id":"a","host":"h","url":"localhost:1/x"}`:                      "@h",
		`{"id":"a","host":"h","url":"http://db.example.com/x"}`:            "default",
		`{"id":"a","host":"h","url":"http://localhost/x","pool":"zone-b"}`: "zone-b",
		`{"id":"a","host":"h","url":{}}`:                                   "@h",
	} {
		is := is.New(t)
		is.Equal(registration(t, in).PoolName(), want)
	}
}

func TestEqualIgnoresOrigin(t *testing.T) {
	is := is.New(t)
	a := registration(t, `{"id":"a","url":"http://x","labels":{"b":"1","a":"2"}}`)
	b := a
	b.Origin = "cli"
	is.True(a.Equal(b))
	b.Rise = 2
	is.True(!a.Equal(b))
}

func TestDuration(t *testing.T) {
	is := is.New(t)
	for in, want := range map[string]time.Duration{
		`"60s"`: time.Minute, `60`: time.Minute, `"60"`: time.Minute, `0.5`: time.Second / 2, `"1h30m"`: 90 * time.Minute,
	} {
		var d events.Duration
		is.NoErr(json.Unmarshal([]byte(in), &d))
		is.Equal(d.D(), want)
	}
	for _, in := range []string{`"x"`, `-1`, `"-1s"`, `1e30`, `"NaN"`, `{}`, `true`} {
		var d events.Duration
		is.True(json.Unmarshal([]byte(in), &d) != nil) // refused
	}
	b, err := json.Marshal(events.Duration(90 * time.Second))
	is.NoErr(err)
	is.Equal(string(b), `"90s"`)
}

// Whatever is taken can be read as it is written: a state with a span that cannot is
// lost.
func TestDurationExtremes(t *testing.T) {
	for _, in := range []string{"2562047h47m16.854775807s", "2562047h", "9223372036.8547758s", "876000h", "3153600000", "1ns"} {
		d, err := events.ParseDuration(in)
		if err != nil {
			continue
		}
		t.Run(in, func(t *testing.T) {
			is := is.New(t)
			_, err := events.ParseDuration(d.String())
			is.NoErr(err)
		})
	}
}

// FuzzRegistration: what is taken is taken again, as the same, as it is written.
func FuzzRegistration(f *testing.F) {
	f.Add([]byte(`{"id":"db","url":{"addr":"tcp://db:5432"},"host":"web01","interval":"5s","labels":{"a":"b"}}`))
	f.Add([]byte(`{"id":"q","host":"web01","ttl":60,"on_silence":"Warning","rise":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var reg, again events.Registration
		if json.Unmarshal(b, &reg) != nil || reg.ValidateStrict() != nil {
			return
		}
		written, err := json.Marshal(reg)
		if err == nil {
			err = json.Unmarshal(written, &again)
		}
		if err == nil {
			err = again.ValidateStrict()
		}
		if err != nil || !reg.Equal(again) {
			t.Fatalf("%s\nthen %s: %v", b, written, err)
		}
	})
}
