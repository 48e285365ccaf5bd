package gateway

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/matryer/is"
	"github.com/nats-io/nats.go"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

const (
	uuid      = "5bd7b5b7-3b5e-4f3e-9a3c-1d1a7a5d2f10"
	kumaToken = "GbIzY3vkQ8"
)

// startPush is a gateway with a token for each of its checks, and a reader of
// the results that it stores.
func startPush(t *testing.T) (*rig, func() events.Result) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(file, []byte("# nightly\n"+uuid+" web01 backup 26h\n"+kumaToken+" web02 a%20b%2Fc\nservice:web-1 web01 web\npolled-token web01 polled\n"), 0o600))
	r := start(t, func(c *Config, _ *bus.RegistryOptions) {
		c.PushTokens = file
		c.Guard = GuardOptions{TokenFile: "", ReadToken: true, WriteFrom: nil}
	})
	sub, err := r.conn.NATS().SubscribeSync("megaphone.result.>")
	must(t, err)
	must(t, r.conn.NATS().Flush())
	return r, func() events.Result {
		t.Helper()
		m, err := sub.NextMsg(5 * time.Second)
		must(t, err)
		return decodePush(t, m)
	}
}

func decodePush(t *testing.T, m *nats.Msg) (r events.Result) {
	t.Helper()
	e, err := events.Decode(m.Data)
	must(t, err)
	must(t, events.DataAs(e, &r))
	if want := events.ResultSubject(subjectNames(t, e.Subject())); m.Subject != want {
		t.Fatalf("stored as %s, says %s", m.Subject, want)
	}
	return r
}

func subjectNames(t *testing.T, subject string) (host, check string) {
	t.Helper()
	host, check, err := parseSubjectName(subject)
	must(t, err)
	return host, check
}

func TestPing(t *testing.T) {
	is := is.New(t)
	r, next := startPush(t)
	base := "/compat/healthchecks/" + uuid
	rid := "?rid=AF5FA0B3-2ABF-46B6-A0A7-0CB3AD86ADF1"
	for _, method := range []string{"HEAD", "GET", "POST"} {
		got := r.do(method, base, "")
		is.Equal(got.code, 200)
		is.Equal(got.header.Get("Ping-Body-Limit"), "10000")
		is.Equal(got.header.Get("Cache-Control"), "no-store")
		if method != "HEAD" {
			is.Equal(got.body, "OK")
		}
		res := next()
		is.Equal(res.Status, events.OK)
		is.Equal(res.Message, "success")
		is.Equal(res.TTL.D(), 26*time.Hour) // that of the token's line
		is.Equal(res.Origin, "healthchecks")
		is.Equal(res.LatencySeconds, 0.0) // no start
		is.Equal(len(res.Document), 0)
	}
	is.Equal(r.do("POST", base+"/fail", "step 1 done\nno space left on device\n").code, 200)
	res := next()
	is.Equal(res.Status, events.Critical)
	is.Equal(res.Message, "fail: no space left on device")
	is.Equal(string(res.Document), `{"ping":"fail","log":"step 1 done\nno space left on device\n"}`)
	is.Equal(r.get(base+"/0").code, 200)
	is.Equal(next().Status, events.OK)
	is.Equal(r.do("HEAD", base+"/127"+rid, "").code, 200)
	res = next()
	is.Equal(res.Status, events.Critical)
	is.Equal(res.Message, "exit status 127")

	// A run: start, log, log, end. Another one, without an id, in between.
	is.Equal(r.do("POST", base+"/start"+rid, "begins").code, 200)
	is.Equal(r.get(base+"/start").body, "OK")
	is.Equal(r.do("POST", base+"/log"+rid, "half\n").code, 200)
	is.Equal(r.do("POST", base+"/log"+rid, "more\n").code, 200)
	is.Equal(r.do("POST", base+rid, "done\n").code, 200)
	res = next() // start and log have stored nothing
	is.Equal(res.Status, events.OK)
	is.Equal(res.Message, "success: done")
	is.True(res.LatencySeconds > 0)
	is.True(strings.Contains(string(res.Document), `"log":"begins\nhalf\nmore\ndone\n"`))
	is.Equal(r.get(base).code, 200)
	is.True(next().LatencySeconds > 0) // of its own start
	is.Equal(r.get(base).code, 200)
	is.Equal(next().LatencySeconds, 0.0) // that run has ended

	// A log of any size and of any bytes is taken, and bounded.
	for _, log := range []string{strings.Repeat("x", 3<<20), strings.Repeat("\xff<", 10000), strings.Repeat("\x00", 20000)} {
		is.Equal(r.do("POST", base, log).code, 200)
		res := next()
		is.True(len(res.Message) <= events.MaxMessage)
		is.True(len(res.Document) <= events.MaxDocument)
	}

	for path, want := range map[string]int{
		base + "/nope": 404, base + "/": 404, base + "/256": 400, base + "/-1": 404, base + "/99999999999999999999": 400,
		base + "?rid=5": 400, "/compat/healthchecks/" + strings.ToUpper(uuid): 404, "/compat/healthchecks/": 404,
		"/compat/healthchecks/" + kumaToken + "x": 404, base + "/start/x": 404,
	} {
		is.Equal(r.get(path).code, want) // of path
	}
	is.Equal(r.do("DELETE", base, "").code, 405)
}

func TestKuma(t *testing.T) {
	is := is.New(t)
	r, next := startPush(t)
	base := "/compat/uptime-kuma/api/push/" + kumaToken
	for _, method := range []string{"GET", "POST", "PUT"} {
		got := r.do(method, base+"?status=up&msg=OK&ping=", "")
		is.Equal(got.code, 200)
		is.Equal(got.body, `{"ok":true}`+"\n")
		res := next()
		is.Equal(res.Status, events.OK)
		is.Equal(res.Message, "OK")
		is.Equal(res.LatencySeconds, 0.0)
		is.Equal(res.TTL, events.Duration(0)) // that of the registration
	}
	is.Equal(r.get(base+"?status=down&msg=no%20route&ping=23.5").code, 200)
	res := next()
	is.Equal(res.Status, events.Critical)
	is.Equal(res.Message, "no route")
	is.Equal(res.LatencySeconds, 0.0235)
	is.Equal(r.get(base).code, 200)
	is.Equal(next().Status, events.OK)
	got := r.get("/compat/uptime-kuma/api/push/nobody-knows-it?status=up")
	is.Equal(got.code, 404)
	is.Equal(got.body, `{"ok":false,"msg":"no such token"}`+"\n")
}

func TestConsul(t *testing.T) {
	is := is.New(t)
	r, next := startPush(t)
	base := "/compat/consul/v1/agent/check/"
	for _, tt := range []struct {
		path, body string
		status     events.Status
		message    string
	}{
		{"pass/service:web-1", "", events.OK, events.NoMessage(events.OK)},
		{"pass/service%3Aweb-1?note=fine", "", events.OK, "fine"},
		{"warn/service:web-1?note=slow", "", events.Warning, "slow"},
		{"fail/service:web-1?note=a+b%0Ac", "", events.Critical, "a b\nc"},
		{"update/service:web-1", `{"Status": "passing", "Output": "curl reported a failure:\n\n..."}`, events.OK, "curl reported a failure:\n\n..."},
		{"update/service:web-1", `{"status": "warning", "output": ""}`, events.Warning, events.NoMessage(events.Warning)},
		{"update/service:web-1", `{"Status": "critical"}`, events.Critical, events.NoMessage(events.Critical)},
	} {
		got := r.do("PUT", base+tt.path, tt.body, "Content-Type", "application/x-www-form-urlencoded") // as curl --data says
		is.Equal(got.code, 200)
		is.Equal(got.body, "")
		res := next()
		is.Equal(res.Status, tt.status)
		is.Equal(res.Message, tt.message)
	}
	for path, want := range map[string]int{
		"pass/unknown-token": 404, "update/unknown-token": 404, "deregister/service:web-1": 404, "update/service:web-1": 400,
	} {
		is.Equal(r.do("PUT", base+path, `{"Status":"ok"}`).code, want) // of path
	}
	is.Equal(r.do("PUT", base+"update/service:web-1", `{"Status":"passing","Output":"`+strings.Repeat("x", maxBody)+`"}`).code, 413)
	is.Equal(r.get(base+"pass/service:web-1").code, 405)
}

// A token is the permission to push to its check from anywhere, through anything,
// and to nothing else; it does not get into the log.
func TestPushTokensPermit(t *testing.T) {
	is := is.New(t)
	var log strings.Builder
	file := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(file, []byte(kumaToken+" web01 pushed\npolled-token web01 polled\n"), 0o600))
	r := start(t, func(c *Config, _ *bus.RegistryOptions) {
		c.PushTokens = file
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	push := func(token string) answer {
		return r.do("GET", "/compat/uptime-kuma/api/push/"+token, "", "X-Forwarded-For", "10.0.0.1", "Host", "status.example", "Authorization", "Bearer wrong")
	}
	is.Equal(push(kumaToken).code, 200)
	is.Equal(r.do("PUT", "/hosts/web01/checks/polled", `{"url":"http://x/"}`).code, 201)
	is.Equal(push("polled-token").code, 409)
	is.Equal(r.do("PUT", "/hosts/web01/checks/pushed/status", `{"status":"OK"}`, "Authorization", "Bearer "+kumaToken).code, 401)
	is.Equal(r.get("/metrics").code, 200)

	must(t, os.WriteFile(file, []byte("another-token web01 pushed\n"), 0o600)) // revoked
	r.eventually("the file is read again", func() bool { return push("another-token").code == 200 })
	is.Equal(push(kumaToken).code, 404)

	r.bus.Close()
	r.eventually("the bus is gone", func() bool { return !r.conn.NATS().IsConnected() })
	got := push("another-token")
	is.Equal(got.code, 503)
	is.Equal(got.header.Get("Retry-After"), "1")
	r.stop()
	is.True(strings.Contains(log.String(), "push was not carried out"))
	is.True(!strings.Contains(log.String(), "another-token"))
}

func TestParsePushTokens(t *testing.T) {
	is := is.New(t)
	got, err := parsePushTokens("\n# a\n0123456789 WEB01 a%20%2525 90\n  abcdefghijkl\tweb.example:1\tx\t1h \n")
	is.NoErr(err)
	is.Equal(len(got), 2)
	is.Equal([]string{got[0].host, got[0].check, got[1].host}, []string{"web01", "a %25", "web.example:1"})
	is.Equal([]time.Duration{got[0].ttl.D(), got[1].ttl.D()}, []time.Duration{90 * time.Second, time.Hour})
	for text, says := range map[string]string{
		"short web01 a":                                 "10 bytes",
		"0123456789/1 web01 a":                          "no slash",
		"0123456789 web01":                              "line 1",
		"0123456789 web01 a 1s b":                       "line 1",
		"0123456789 web/01 a":                           "host",
		"0123456789 web01 a%zz":                         "%25",
		"0123456789 web01 --global":                     "override",
		"0123456789 web01 a soon":                       "60s",
		"0123456789 web01 a 0":                          "at least",
		"0123456789 web01 a\n\n0123456789 web01 b":      "line 3",
		strings.Repeat("x", 70000):                      "too long",
		numbered(maxPushTokens+1, "token-%06d web01 a"): "10000 tokens",
	} {
		_, err := parsePushTokens(text)
		is.True(err != nil)
		is.True(strings.Contains(err.Error(), says)) // says what is wrong
	}
}

func numbered(n int, line string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, line+"\n", i)
	}
	return b.String()
}

func TestJobs(t *testing.T) {
	is := is.New(t)
	var j jobs
	at := func(s int) time.Time { return time.Unix(1e9, 0).Add(time.Duration(s) * time.Second) }
	key := func(n int) jobKey { return jobKey{rid: fmt.Sprint(n)} }
	run := func(n, s int) time.Duration { took, _ := j.run(key(n), at(s)); return took }
	is.Equal(run(0, 0), time.Duration(0))
	j.note(key(0), true, "", at(0))
	is.Equal(run(0, 5), 5*time.Second)
	is.Equal(run(0, 6), 6*time.Second) // until it is ended: a push may have failed
	j.note(key(0), true, "", at(7))
	is.Equal(run(0, 8), time.Second) // started again
	j.note(key(0), true, "", at(9))  // the next one, before the push of the end at 8 was stored
	j.end(key(0), at(8))
	is.Equal(run(0, 10), time.Second)
	j.end(key(0), at(10))
	is.Equal(run(0, 11), time.Duration(0))
	for n := range maxJobs + 1 {
		j.note(key(n), true, "log", at(n))
	}
	is.Equal(len(j.runs), maxJobs)
	is.Equal(run(0, 5000), time.Duration(0)) // the oldest one was forgotten
	is.Equal(run(1, 5001), 5000*time.Second)
	is.Equal(run(1, 1+int(jobKept/time.Second)+1), time.Duration(0)) // too long ago
}

// FuzzPing: no ping is anything but a refusal or a result that can be stored.
func FuzzPing(f *testing.F) {
	for _, action := range []string{"", "start", "fail", "log", "0", "255", "256", "00", "-1", "1e3", "x"} {
		f.Add(action, "line\r\nlast \xff", "")
	}
	f.Fuzz(func(t *testing.T, action, body, before string) {
		a, err := parsePing(action)
		if err != nil {
			if code, _ := codeOf(err); code != http.StatusNotFound && code != http.StatusBadRequest {
				t.Fatal(code, err)
			}
			return
		}
		log := joinLogs(cutTo(strings.ToValidUTF8(before, ""), pingLimit), cutTo(strings.ToValidUTF8(body, "\uFFFD"), pingLimit))
		if a.end() {
			storable(t, a.result(uuid, log, time.Second))
		}
	})
}

func FuzzKuma(f *testing.F) {
	for _, q := range []string{"status=up&msg=OK&ping=", "status=down&ping=1e300", "ping=NaN", "ping=-1&msg=%ff", "status=up&status=down"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		q, _ := url.ParseQuery(query) // what it could read, as the server does
		storable(t, readKuma(q))
	})
}

func FuzzConsul(f *testing.F) {
	for _, b := range []string{`{"Status":"passing","Output":"x"}`, `{"status":"warning"}`, `{"Status":1}`, `[]`, ``, `null`} {
		f.Add([]byte(b))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		res, err := readConsulUpdate(body)
		if err == nil {
			storable(t, res)
		} else if code, _ := codeOf(err); code != http.StatusBadRequest {
			t.Fatal(code, err)
		}
	})
}

// storable fails unless readers of the bus can read what a push becomes.
func storable(t *testing.T, r *events.Result) {
	t.Helper()
	r.Message = events.Cut(strings.ToValidUTF8(r.Message, "\uFFFD"), events.MaxMessage)
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	back, err := readResult(b)
	if err != nil || back.Status != r.Status || back.LatencySeconds != r.LatencySeconds || !utf8.Valid(b) {
		t.Fatalf("%s: %v", b, err)
	}
}

func FuzzPushTokens(f *testing.F) {
	f.Add("# a\n0123456789 web01 a%20b 90s\n")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parsePushTokens(text)
		if err != nil {
			return
		}
		for _, k := range tokens {
			if _, err := events.ParseCheck(k.check); err != nil {
				t.Fatal(err)
			}
		}
	})
}
