package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// asked runs the plugin against a server with these answers by path.
func asked(t *testing.T, answers map[string]string, args ...string) (int, string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := answers[r.URL.EscapedPath()]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = `{"title":"Not Found","detail":"no host is registered as that"}`
		}
		fmt.Fprint(w, body)
	}))
	defer srv.Close()
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	var out, problems bytes.Buffer
	args = append([]string{"nagios", "-H", u.Hostname(), "-p", u.Port()}, args...)
	code := run(t.Context(), args, strings.NewReader(""), &out, &problems)
	return code, strings.ReplaceAll(out.String(), u.Host, "GATEWAY") + problems.String()
}

func TestNagios(t *testing.T) {
	const checks = `{"db": "http://x/", "queue": "http://y/", "c|d": "http://z/", "ok": {"addr": "http://o/"}}`
	for name, tt := range map[string]struct {
		answers map[string]string
		args    []string
		code    int
		want    string
	}{
		"an original that is well": {
			answers: map[string]string{"/": `{"status": "OK", "date": "x", "message": "Everything is OK!"}`, "/checks": checks},
			want:    "OK - 127.0.0.1: Everything is OK! | checks=4;;;0 ok=4;;;0;4 warning=0;0;;0;4 critical=0;;0;0;4 unknown=0;;;0;4\n",
		},
		"an original that is not": {
			answers: map[string]string{
				"/":       `{"status": "Critical", "date": "x", "message": "db:Critical:timeout\nconnecting to x|queue:Warning:long: a|b"}`,
				"/checks": checks,
			},
			code: 2,
			want: "CRITICAL - 127.0.0.1: 1 critical, 1 warning of 4 (db: timeout; connecting to x; queue: long: a; b) | checks=4;;;0 ok=2;;;0;4 warning=1;0;;0;4 critical=1;;0;0;4 unknown=0;;;0;4\n",
		},
		"an original's override": {
			answers: map[string]string{"/": `{"status": "Critical", "date": "x", "message": {"a": 1}}`, "/checks": `{"--global": {"a": 1}, "db": "x"}`},
			code:    2, want: "CRITICAL - 127.0.0.1: {\"a\":1}\n",
		},
		"nothing registered": {
			answers: map[string]string{"/": `{"status": "Unknown", "date": "x", "message": "No checks are registered!"}`, "/checks": "{}"},
			code:    3, want: "UNKNOWN - 127.0.0.1: No checks are registered! | checks=0;;;0 ok=0;;;0;0 warning=0;0;;0;0 critical=0;;0;0;0 unknown=0;;;0;0\n",
		},
		"a host by name": {
			args: []string{"--host", "web01"},
			answers: map[string]string{"/hosts/web01": `{"host":"web01","status":"Warning","phase":"live","message":"q:Warning:a|b","age_seconds":3.21,` +
				`"checks":{"OK":5,"Unknown":0,"Warning":1,"Critical":0,"pending":1}}`},
			code: 1, want: "WARNING - web01: 1 warning, 1 pending of 7 (q: a; b) | checks=7;;;0 ok=5;;;0;7 warning=1;0;;0;7 critical=0;;0;0;7 unknown=0;;;0;7 age=3.2s;;;0\n",
		},
		"maintenance is told, not counted": {
			args:    []string{"--host", "web01"},
			answers: map[string]string{"/hosts/web01": `{"host":"web01","status":"Critical","phase":"maintenance","message":"maintenance: disk","checks":{}}`},
			want:    "OK - web01: maintenance, Critical without it: maintenance: disk | checks=0;;;0 ok=0;;;0;0 warning=0;0;;0;0 critical=0;;0;0;0 unknown=0;;;0;0\n",
		},
		"a check of a host": {
			args:    []string{"--host", "web01", "--check", "a/b"},
			answers: map[string]string{"/hosts/web01/checks/a%2Fb": `{"host":"web01","check":"a/b","status":"Critical","phase":"live","message":"x|y\nz","age_seconds":1}`},
			code:    2, want: "CRITICAL - a/b on web01: x/y; z | age=1.0s;;;0\n",
		},
		"a check of an original":      {args: []string{"--check", "db"}, answers: map[string]string{"/checks/db": `{"status": "Warning", "message": "m"}`}, code: 1, want: "WARNING - db: m\n"},
		"its service does not answer": {args: []string{"--check", "db"}, answers: map[string]string{"/checks/db": `Error connecting to: http://x/`}, code: 2, want: "CRITICAL - http://GATEWAY/checks/db answers 200 OK: Error connecting to: http://x/\n"},
		"an unknown host":             {args: []string{"--host", "nobody"}, code: 3, want: "UNKNOWN - http://GATEWAY/hosts/nobody answers 404 Not Found: no host is registered as that\n"},
		"an answer that is no JSON":   {answers: map[string]string{"/": "<html>"}, code: 3, want: "UNKNOWN - http://GATEWAY/ answers 200 OK: <html>\n"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			code, out := asked(t, tt.answers, tt.args...)
			is.Equal(out, tt.want)
			is.Equal(code, tt.code)
			is.True(pluginLine.MatchString(out))
		})
	}
}

func TestNagiosWithoutAnswer(t *testing.T) {
	is := is.New(t)
	var out bytes.Buffer
	// Nothing listens on port 1.
	code := run(t.Context(), []string{"nagios", "-H", "127.0.0.1", "-p", "1", "-t", "2"}, nil, &out, &out)
	is.Equal(code, 2)
	is.True(strings.HasPrefix(out.String(), "CRITICAL - Unable to communicate with http://127.0.0.1:1: "))
}

func TestNagiosUsage(t *testing.T) {
	is := is.New(t)
	for _, args := range [][]string{{"nagios"}, {"nagios", "-H", "x", "--what"}, {"nagios", "-H", "x", "more"}, {"megaphone_check"}} {
		var out bytes.Buffer
		is.Equal(run(t.Context(), args, nil, &out, &out), 3) // Unknown
	}
}

// pluginLine is the grammar of the plugin guidelines: text, then perhaps "|" and
// 'label'=value[unit];[warn];[crit];[min];[max], of which the last may be left out.
var pluginLine = func() *regexp.Regexp {
	const (
		number = `-?[0-9]+(\.[0-9]+)?`
		limit  = `(@?((` + number + `|~)?:)?(` + number + `)?)`
		figure = `('([^'=|\n]|\'\')+'|[^'=|\s]+)=(U|` + number + `(s|us|ms|%|B|KB|MB|TB|c)?)(;` + limit + `(;` + limit + `(;(` + number + `)?(;(` + number + `)?)?)?)?)?`
	)
	return regexp.MustCompile(`^(OK|WARNING|CRITICAL|UNKNOWN) - [^|\n\r]*( \| ` + figure + `( ` + figure + `)*)?\n$`)
}()

func TestPluginLine(t *testing.T) {
	is := is.New(t)
	for line, want := range map[string]bool{
		"OK - x\n": true, "OK - x | a=1\n": true, "OK - x | 'a b'=1.5s;10;20;0;100 c=U\n": true, "OK - x | a=1;@5:10;~:20;;9\n": true,
		"OK - x": false, "OK - x | a\n": false, "OK - x | a b=1\n": false, "OK - x | a=1;;;;;\n": false, "OK - x | a=1 | b=2\n": false,
		"OK - x | a=1;ten\n": false, "OK - x\ny\n": false, "Ok - x\n": false, "OK - x | a=1h\n": false,
	} {
		is.Equal(pluginLine.MatchString(line), want) // of line
	}
}

// FuzzNagios demands that whatever a gateway answers becomes a line that Nagios
// reads, and an exit code that says the same.
func FuzzNagios(f *testing.F) {
	for _, body := range []string{
		`{"status": "Critical", "date": "x", "message": "db:Critical:timeout\nconnecting to x|queue:Warning:long: a|b"}`,
		`{"host":"web01","status":"Warning","phase":"live","message":"q:Warning:a|b","age_seconds":3.21,"checks":{"OK":5,"Warning":1,"pending":1}}`,
		`{"host":"a|b\n","check":"x\r\ny","status":"OK","phase":"maintenance","message":"|","age_seconds":-1e300,"checks":{"OK":-9223372036854775808}}`,
		`{"db": "http://x/", "queue": 1}`, `{"title":"|","detail":"a\r\nb"}`, "<html>", "", "null", "{\"status\":\"OK\",\"message\":\"\xff\\u2028\"}",
	} {
		f.Add([]byte(body), "", "")
		f.Add([]byte(body), "web01", "")
		f.Add([]byte(body), "web01", "q/d")
		f.Add([]byte(body), "", "q")
	}
	var answer []byte // one is asked for at a time
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(answer) }))
	f.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		f.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte, host, check string) {
		answer = body
		var out bytes.Buffer
		asks := &nagiosFlags{address: u.Hostname(), port: port, host: host, check: check, timeout: time.Minute}
		code := 0
		if err := asks.run(t.Context(), &out); err != nil {
			var exit *exitError
			if !errors.As(err, &exit) || exit.err != nil {
				t.Fatal(err)
			}
			code = exit.code
		}
		if !pluginLine.MatchString(out.String()) {
			t.Fatalf("%q", out.String())
		}
		word, _, _ := strings.Cut(out.String(), " ")
		for _, row := range nagiosTable {
			if row.code == code && row.word != word {
				t.Fatalf("%d: %q", code, out.String())
			}
		}
	})
}
