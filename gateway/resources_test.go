package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

// object reads an answer's body.
func (a answer) object(tb testing.TB) map[string]any {
	tb.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		tb.Fatalf("%v: %s", err, a.body)
	}
	return v
}

// problem checks that an answer is a problem document and returns its detail.
func (a answer) problem(tb testing.TB, code int) string {
	tb.Helper()
	if a.code != code || a.header.Get("Content-Type") != "application/problem+json" {
		tb.Fatalf("%d %s: %s", a.code, a.header.Get("Content-Type"), a.body)
	}
	v := a.object(tb)
	if v["status"] != float64(code) || v["title"] == "" {
		tb.Fatalf("%s", a.body)
	}
	detail, _ := v["detail"].(string)
	return detail
}

func TestCheckResource(t *testing.T) {
	is := is.New(t)
	r := start(t)
	const path = "/hosts/web02/checks/a%2Fb"
	is.True(strings.Contains(r.get(path).problem(t, 404), `"a/b"`))
	got := r.do("PUT", path, `{"url": {"addr":"http://x/", "jsonpath":"s"}, "interval": "30s", "labels": {"tier":"db"}}`)
	is.Equal(got.code, 201)
	v := got.object(t)
	is.Equal(v["host"], "web02")
	is.Equal(v["check"], "a/b")
	is.Equal(v["phase"], "pending")
	is.Equal(v["origin"], "http")
	is.Equal(fmt.Sprint(v["registration"].(map[string]any)["url"]), "map[addr:http://x/ jsonpath:s]")
	is.Equal(r.do("PUT", path, `{"url": "http://y/"}`).code, 200)
	is.Equal(r.do("PUT", "/hosts/WEB02/checks/a%2Fb", `{"url": "http://y/", "id": "a/b", "host": "web02"}`).code, 200)

	e, _ := r.reg.Check("web02", "a/b")
	pos := r.poll("web02", "a/b", events.Result{
		Status: events.Warning, Message: "w", Reg: e.Position, Lease: 1, Due: 1, LatencySeconds: 0.25, Document: json.RawMessage(`{"status":"Warning","x":1.50}`),
	})
	r.commit(live("web02", "a/b", e.Position, events.Warning, "w", pos))
	r.eventually("the result", func() bool { return r.get(path).object(t)["document"] != nil && r.get(path).object(t)["number"] == 1.0 })
	got = r.get(path)
	v = got.object(t)
	is.Equal(v["status"], "Warning")
	is.Equal(v["phase"], "live")
	is.Equal(v["message"], "w")
	is.True(strings.Contains(got.body, `"document":{"status":"Warning","x":1.50}`)) // untouched
	is.True(v["next_seconds"].(float64) > 5)
	is.True(v["age_seconds"].(float64) < 5)

	list := r.get("/hosts/web02/checks").object(t)["checks"].([]any)
	is.Equal(len(list), 1)
	is.Equal(list[0].(map[string]any)["document"], nil)
	is.Equal(r.do("DELETE", path, "").code, 204)
	r.do("DELETE", path, "").problem(t, 404)
	r.get("/hosts/web02/checks").problem(t, 404)
}

func TestCheckResourceRefuses(t *testing.T) {
	r := start(t)
	for name, tt := range map[string]struct {
		path, body string
		code       int
		says       string
	}{
		"an object without addr": {"a", `{"url": {}}`, 400, "addr"},
		"an unfit scheme":        {"a", `{"url": "ftp://x/"}`, 400, "use one of http, https"},
		"no url and no ttl":      {"a", `{"labels": {}}`, 400, "ttl"},
		"a bad override":         {"a", `{"url": {"addr": "http://x/", "statusoverride": "bad"}}`, 400, "statusoverride"},
		"a bad status":           {"a", `{"ttl": 5, "on_silence": "bad"}`, 400, "OK, Unknown, Warning"},
		"a bad interval":         {"a", `{"url": "http://x/", "interval": "soon"}`, 400, "60s"},
		"an unknown key":         {"a", `{"url": "http://x/", "intervall": 5}`, 400, "intervall"},
		"another id":             {"a", `{"id": "b", "url": "http://x/"}`, 400, `"b"`},
		"another host":           {"a", `{"host": "b", "url": "http://x/"}`, 400, `"b"`},
		"no object":              {"a", `[]`, 400, "object"},
		"nothing":                {"a", ``, 400, "object"},
		"trailing data":          {"a", `{"url": "http://x/"} x`, 400, "more after it"},
		"--global":               {"--global", `{"url": "http://x/"}`, 400, "--global"},
		"a long id":              {strings.Repeat("x", 600), `{"url": "http://x/"}`, 400, "512"},
		"too much":               {"a", `"` + strings.Repeat("x", maxBody), 413, "262144"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.True(strings.Contains(r.do("PUT", "/hosts/web02/checks/"+tt.path, tt.body).problem(t, tt.code), tt.says))
		})
	}
	is := is.New(t)
	is.True(strings.Contains(r.get("/hosts/we%20b").problem(t, 400), "a-z"))
	got := r.do("PATCH", "/hosts/web02", "")
	got.problem(t, 405)
	is.Equal(got.header.Get("Allow"), "DELETE,GET,PUT")
	r.get("/hosts/web02/nope").problem(t, 404)
}

func TestHostResource(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.get("/hosts/web02").problem(t, 404)
	is.Equal(r.get("/hosts/web01").object(t)["phase"], "gone") // the local one is there, without checks
	got := r.do("PUT", "/hosts/web02", `{"address": "10.0.0.2", "labels": {"zone": "b"}}`)
	is.Equal(got.code, 201)
	is.Equal(got.object(t)["address"], "10.0.0.2")
	is.Equal(r.do("PUT", "/hosts/web02", `{"labels": {"zone": "c"}}`).code, 200)
	is.Equal(r.do("PUT", "/hosts/web02/checks/a", `{"url": "http://x/", "labels": {"tier": "db"}}`).code, 201)
	check := r.get("/hosts/web02/checks/a").object(t)
	is.Equal(fmt.Sprint(check["labels"]), "map[tier:db zone:c]") // the host's are inherited

	r.commit(live("web02", "a", 1, events.Critical, "down", 1))
	r.commitHost(events.HostState{Host: "web02", Status: events.Critical, Phase: events.Live, Since: time.Now()})
	r.eventually("the status", func() bool { return r.get("/hosts/web02").object(t)["number"] == 1.0 })
	host := r.get("/hosts/web02").object(t)
	is.Equal(host["status"], "Critical")
	is.Equal(host["message"], "a:Critical:down")
	is.Equal(host["checks"].(map[string]any)["Critical"], 1.0)

	is.Equal(r.do("DELETE", "/hosts/web02", "").code, 204)
	r.get("/hosts/web02").problem(t, 404)
	r.do("DELETE", "/hosts/web02", "").problem(t, 404)
}

func TestHostList(t *testing.T) {
	is := is.New(t)
	r := start(t)
	for i := range 5 {
		host := fmt.Sprintf("h%d", i)
		is.Equal(r.do("PUT", "/hosts/"+host, fmt.Sprintf(`{"labels": {"n": "%d", "odd": "%v"}}`, i, i%2 == 1)).code, 201)
		is.Equal(r.do("PUT", "/hosts/"+host+"/checks/a", `{"url": "http://x/"}`).code, 201)
		r.commit(live(host, "a", 1, events.Statuses()[i%4], "m", 1))
	}
	names := func(query string) (list []string, next any) {
		v := r.get("/hosts" + query).object(t)
		for _, h := range v["hosts"].([]any) {
			list = append(list, h.(map[string]any)["host"].(string))
		}
		return list, v["next"]
	}
	r.eventually("all statuses, of which the last host's is OK", func() bool { list, _ := names("?status=OK"); return len(list) == 2 })
	for query, want := range map[string]string{
		"":                       "h0 h1 h2 h3 h4 <nil>",
		"?limit=2":               "h0 h1 h1",
		"?limit=2&after=h1":      "h2 h3 h3",
		"?limit=2&after=h3":      "h4 <nil>",
		"?status=OK":             "h0 h4 <nil>",
		"?status=OK,Critical":    "h0 h3 h4 <nil>",
		"?status=OK&status=odd":  "",
		"?label=odd%3Dtrue":      "h1 h3 <nil>",
		"?label=odd&label=n%3D2": "h2 <nil>",
		"?label=none":            "<nil>",
		"?limit=0":               "",
	} {
		t.Run(query, func(t *testing.T) {
			is := is.New(t)
			if want == "" {
				r.get("/hosts"+query).problem(t, 400)
				return
			}
			list, next := names(query)
			is.Equal(strings.TrimSpace(strings.Join(list, " ")+" "+fmt.Sprint(next)), want)
		})
	}
	is.Equal(r.get("/hosts?label=none").body, `{"hosts":[]}`+"\n")
}

func TestPush(t *testing.T) {
	is := is.New(t)
	r := start(t)
	const path = "/hosts/web01/checks/q/status"
	is.Equal(r.do("PUT", "/hosts/web01/checks/q", `{"ttl": "60s"}`).code, 201)
	e, _ := r.reg.Check("web01", "q")
	r.commit(live("web01", "q", e.Position, events.OK, "fine", 1))
	r.eventually("the state", func() bool { v, _ := r.view.Check("web01", "q", time.Now()); return v.Number == 1 })

	// The same status: visible without any transition.
	is.Equal(r.do("PUT", path, `{"status": "OK", "message": "still fine", "document": {"n": 1}, "worker": "forged"}`).code, 204)
	v := r.get("/hosts/web01/checks/q").object(t)
	is.Equal(v["message"], "still fine")
	is.Equal(r.get("/checks/q").body, `{"n": 1}`)
	is.Equal(r.do("PUT", "/checks/q/status", `{"status": "OK"}`).code, 204)
	is.Equal(r.get("/checks/q").body, `{"status": "OK", "message": "Detected OK state [no message specified]"}`)
	is.True(v["next_seconds"].(float64) > 50)

	// Another status: visible with its transition, and answered without one too.
	begin := time.Now()
	is.Equal(r.do("PUT", path, `{"status": "Critical", "message": "down"}`).code, 204)
	is.True(time.Since(begin) >= settleTime)
	is.Equal(r.get("/hosts/web01/checks/q").object(t)["status"], "OK")

	r.do("PUT", path, `{"message": "no status"}`).problem(t, 400)
	r.do("PUT", path, `{"status": "bad"}`).problem(t, 400)
	r.do("PUT", path, `OK`).problem(t, 400)
	is.Equal(r.do("PUT", "/hosts/web01/checks/p", `{"url": "http://x/"}`).code, 201)
	is.True(strings.Contains(r.do("PUT", "/hosts/web01/checks/p/status", `{"status": "OK"}`).problem(t, 409), "polled"))
	is.Equal(r.do("PUT", "/hosts/web09/checks/new/status", `{"status": "OK", "ttl": 60}`).code, 204) // unknown: the aggregator registers it
}

// A push is answered as soon as its transition is there.
func TestPushSettles(t *testing.T) {
	is := is.New(t)
	r := start(t)
	is.Equal(r.do("PUT", "/hosts/web01/checks/q", `{"ttl": "60s"}`).code, 201)
	e, _ := r.reg.Check("web01", "q")
	r.commit(live("web01", "q", e.Position, events.OK, "", 1))
	r.eventually("the state", func() bool { v, _ := r.view.Check("web01", "q", time.Now()); return v.Number == 1 })
	sub, err := r.conn.NATS().SubscribeSync(events.ResultSubject("web01", "q"))
	is.NoErr(err)
	done := make(chan answer, 1)
	go func() { done <- r.do("PUT", "/checks/q/status", `{"status": "Critical", "message": "down"}`) }()
	_, err = sub.NextMsg(5 * time.Second)
	is.NoErr(err)
	info, err := r.conn.JetStream().Stream(t.Context(), bus.StreamResults)
	is.NoErr(err)
	r.eventually("it is stored", func() bool {
		i, err := info.Info(t.Context())
		return err == nil && i.State.Msgs == 1
	})
	r.commit(live("web01", "q", e.Position, events.Critical, "down", info.CachedInfo().State.LastSeq))
	is.Equal((<-done).code, 204)
	is.Equal(undated(r.get("/").body), `{"status": "Critical", "date": D, "message": "q:Critical:down"}`)
}

func TestOverrideResource(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("a", `"http://x/"`, events.Result{Status: events.Warning, Message: "w"})
	r.get("/hosts/web01/override").problem(t, 404)
	got := r.do("PUT", "/hosts/web01/override", `{"status": "OK", "reason": "deploy", "by": "ops", "until": "2h"}`)
	is.Equal(got.code, 200)
	until, err := time.Parse(time.RFC3339, got.object(t)["until"].(string))
	is.NoErr(err)
	is.True(time.Until(until) > 119*time.Minute)
	host := r.get("/hosts/web01").object(t)
	is.Equal(host["status"], "OK")
	is.Equal(host["phase"], "overridden")
	is.Equal(host["reported"], "Warning")
	is.Equal(undated(r.get("/").body), `{"status": "OK", "date": D, "message": "overridden by ops: deploy"}`)
	is.Equal(r.get("/hosts/web01/override").object(t)["reason"], "deploy")
	is.Equal(r.do("DELETE", "/hosts/web01/override", "").code, 204)
	is.Equal(r.get("/hosts/web01").object(t)["status"], "Warning")
	r.do("DELETE", "/hosts/web01/override", "").problem(t, 404)

	is.Equal(r.do("PUT", "/hosts/web01/checks/a/override", `{"maintenance": true, "until": "forever"}`).code, 200)
	is.Equal(r.get("/hosts/web01/checks/a/override").object(t)["forever"], true)
	is.Equal(r.do("PUT", "/hosts/web01/checks/a/override", `{"status": "OK", "until": "`+time.Now().Add(time.Hour).Format(time.RFC3339)+`"}`).code, 200)
	is.Equal(r.do("DELETE", "/hosts/web01/checks/a/override", "").code, 204)
	for body, says := range map[string]string{
		`{"status": "OK"}`: "until", `{"until": "1h"}`: "maintenance", `{"status": "OK", "until": "yesterday"}`: "RFC 3339",
		`{"status": "OK", "until": "2001-01-01T00:00:00Z"}`: "future", `{"status": "bad", "until": 5}`: "OK, Unknown", `{"statu": 1}`: "statu",
	} {
		is.True(strings.Contains(r.do("PUT", "/hosts/web01/checks/a/override", body).problem(t, 400), says))
	}
	r.do("PUT", "/hosts/web01/checks/nope/override", `{"status": "OK", "until": 5}`).problem(t, 404)
	r.do("PUT", "/hosts/web09/override", `{"status": "OK", "until": 5}`).problem(t, 404)
}
