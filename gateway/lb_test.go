package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// pushed registers a push check of a host and plays its first push.
func (r *rig) pushed(host, id string, status events.Status, message string) {
	r.tb.Helper()
	if a := r.do("PUT", "/hosts/"+host+"/checks/"+url.PathEscape(id), `{"ttl": "60s"}`); a.code != 201 && a.code != 200 {
		r.tb.Fatalf("PUT: %d %s", a.code, a.body)
	}
	e, _ := r.reg.Check(host, id)
	s := live(host, id, e.Position, status, message, r.num[events.CommitSubject(host, id)]+1)
	s.TTL = events.Duration(time.Minute)
	r.commit(s)
	r.eventually("the push", func() bool {
		v, _ := r.view.Check(host, id, time.Now())
		return v.Status == status && v.Number == r.num[events.CommitSubject(host, id)]
	})
}

func TestBalancer(t *testing.T) {
	is := is.New(t)
	r := start(t)
	is.Equal(r.do("PUT", "/hosts/web02", `{"labels": {"cluster": "front"}}`).code, 201)
	r.pushed("web02", "db", events.OK, "fine")
	r.pushed("web02", "queue", events.OK, "fine")
	expect := func(path string, code int, says string) answer {
		t.Helper()
		var got answer
		for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
			if got = r.do(method, path, ""); got.code != code {
				t.Errorf("%s %s: %d, not %d: %s", method, path, got.code, code, got.body)
			}
			is.Equal(got.body == "", method == "HEAD")
		}
		is.Equal(got.header.Get("Allow"), "GET, HEAD, OPTIONS")
		if !strings.Contains(got.body, says) {
			t.Errorf("%s: %q does not say %q", path, got.body, says)
		}
		return got
	}
	got := expect("/lb/web02", 200, "pass OK web02: Everything is OK! (live, observed ")
	is.Equal(got.header.Get("Cache-Control"), "no-store")
	is.Equal(got.header.Get("X-Envoy-Upstream-Healthchecked-Cluster"), "front")
	is.Equal(got.header.Get("X-Envoy-Degraded"), "")
	age, err := strconv.Atoi(got.header.Get("Age"))
	is.NoErr(err)
	is.True(age >= 0 && age < 10)
	_, err = time.Parse(time.RFC3339, got.header.Get("Megaphone-Observed"))
	is.NoErr(err)
	next, err := strconv.ParseFloat(got.header.Get("Megaphone-Next"), 64)
	is.NoErr(err)
	is.True(next > 50 && next <= 60)

	r.pushed("web02", "db", events.Warning, "slow")
	got = expect("/lb/web02", 200, "warn Warning web02: db:Warning:slow")
	is.Equal(got.header.Get("X-Envoy-Degraded"), "true")
	expect("/lb/web02?warning=fail", 503, "fail Warning")
	expect("/lb/web02/db?warning=fail", 503, "fail Warning web02/db: slow")
	expect("/lb/web02/queue?warning=fail", 200, "pass OK web02/queue: fine")

	r.pushed("web02", "db", events.Critical, "no answer")
	expect("/lb/web02", 503, "fail Critical web02: db:Critical:no answer")
	expect("/lb/WEB02", 503, "fail Critical")

	is.Equal(r.do("PUT", "/hosts/web02/override", `{"maintenance": true, "reason": "disk", "until": "2h"}`).code, 200)
	got = expect("/lb/web02", 503, "drain ")
	is.Equal(got.header.Get("X-Envoy-Immediate-Health-Check-Fail"), "true")
	expect("/lb/web02?drain=404", 404, "drain ")
	expect("/lb/web02/queue?drain=404", 200, "pass")

	is.Equal(r.do("PUT", "/hosts/web03/checks/new", `{"ttl": "60s"}`).code, 201)
	expect("/lb/web03", 200, "warn Unknown web03")
	expect("/lb/web03?unknown=fail", 503, "(pending, never observed)")
	expect("/lb/web01", 200, "No checks are registered!") // the local host is there
	expect("/lb", 200, "web01: No checks are registered!")
	expect("/lb?unknown=fail", 503, "web01")
	r.get("/lb/nope").problem(t, 404)
	r.get("/lb/web02/nope").problem(t, 404)
	r.get("/lb/").problem(t, 404)
	is.True(strings.Contains(r.get("/lb/web02?stale=maybe").problem(t, 400), "last, open or closed"))
	r.do("PUT", "/lb/web02", "").problem(t, 405)
}

// A gateway without a host of its own says so.
func TestBalancerWithoutHost(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.Host = "" })
	is.True(strings.Contains(r.get("/lb").problem(t, 404), "/lb/HOST"))
}

// HAProxy's default request is of HTTP/1.0 and names no host.
func TestBalancerOldHTTP(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.pushed("web02", "db", events.OK, "fine")
	for _, request := range []string{
		"OPTIONS /lb/web02 HTTP/1.0\r\n\r\n", "GET /lb/web02 HTTP/1.0\r\n\r\n", "HEAD /lb/web02 HTTP/1.0\r\n\r\n",
		"GET /lb/web02 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	} {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		is.NoErr(err)
		is.NoErr(c.SetDeadline(time.Now().Add(5 * time.Second)))
		_, err = io.WriteString(c, request)
		is.NoErr(err)
		res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: request[:strings.IndexByte(request, ' ')]})
		is.NoErr(err)
		is.Equal(res.StatusCode, 200)
		is.True(res.ContentLength > 0)
		_, err = io.Copy(io.Discard, res.Body) // to the end: the connection is closed
		is.NoErr(err)
		_, err = c.Read(make([]byte, 1))
		is.Equal(err, io.EOF)
		is.NoErr(c.Close())
	}
}

// A guarded gateway asks load balancers for a token, too.
func TestBalancerGuarded(t *testing.T) {
	is := is.New(t)
	g := newGuard(GuardOptions{ReadToken: true}, nil)
	s := &Server{guard: g}
	table := s.probeTable()
	for i := range table {
		req := httptest.NewRequestWithContext(t.Context(), table[i].method, "/lb/x", nil)
		err := s.admit(&req, &table[i])
		code, _ := codeOf(err)
		is.Equal(code, 401)
	}
}

// BenchmarkBalancer is /lb/{host}, and a handler that writes the same bytes.
func BenchmarkBalancer(b *testing.B) {
	regs := newRegs()
	s := &Server{view: NewView(regs, 10*time.Second), follower: &Follower{}}
	for _, checks := range []int{100, 10_000} {
		host := fmt.Sprintf("h%d", checks)
		for i := range checks {
			regs.add(host, fmt.Sprintf("c%04d", i), 1, false)
		}
		s.view.RefreshRegistration("", "")
		for i := range checks {
			c := live(host, fmt.Sprintf("c%04d", i), 1, events.OK, "fine", 1)
			c.V, c.Number = 1, 1
			s.view.ApplyCheck(c, true)
		}
		req := httptest.NewRequestWithContext(b.Context(), http.MethodGet, "/lb/"+host, nil)
		req.SetPathValue("host", host)
		rec := httptest.NewRecorder()
		s.getBalanced(rec, req)
		if rec.Code != 200 {
			b.Fatal(rec.Code, rec.Body)
		}
		body, header := rec.Body.Bytes(), rec.Header()
		answer := func(w http.ResponseWriter, r *http.Request) {
			if !s.writeKept(w, r, host) {
				s.getBalanced(w, r)
			}
		}
		for name, h := range map[string]http.HandlerFunc{"gateway": answer, "bare": func(w http.ResponseWriter, _ *http.Request) {
			for k := range header {
				w.Header().Set(k, header.Get(k))
			}
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write(body)
		}} {
			b.Run(fmt.Sprintf("%d/%s", checks, name), func(b *testing.B) {
				w := &sinkWriter{h: http.Header{}}
				b.ReportAllocs()
				for b.Loop() {
					clear(w.h)
					h.ServeHTTP(w, req)
				}
			})
		}
	}
}
