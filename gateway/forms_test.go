package gateway

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/events"
)

func TestChooseForm(t *testing.T) {
	const (
		prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5," +
			"text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
		chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
		image  = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
	)
	for accept, want := range map[string]form{
		"": formJSON, "*/*": formJSON, "application/json": formJSON, "application/*": formJSON, chrome: formJSON,
		"text/html": formJSON, "nonsense": formJSON, ";;,,/": formJSON, "text/plain;q=0": formJSON, "text/plain;q=NaN": formJSON,
		"application/health+json": formHealth, "Application/Health+JSON; charset=utf-8": formHealth,
		"application/json;q=0.5, application/health+json": formHealth, "*/*, application/health+json": formHealth,
		"text/plain": formText, "text/*": formText, "text/plain, */*;q=0.1": formText,
		prometheus: formProm, "text/plain;version=0.0.4": formProm, "text/plain;version=0.0.4;q=0.5,*/*;q=0.1": formProm,
		"application/openmetrics-text": formProm,
		image:                          formBadge, "image/svg+xml": formBadge, "image/*": formBadge,
		strings.Repeat("a/b,", 5000): formJSON,
	} {
		t.Run(events.Cut(accept, 40), func(t *testing.T) {
			is.New(t).Equal(chooseForm([]string{accept}), want)
		})
	}
}

func FuzzAccept(f *testing.F) {
	for _, seed := range []string{"", "*/*", "text/plain;version=1;q=0.5,*/*;q=1e9", "a/b;q=;;", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, accept string) {
		if chooseForm([]string{accept}) > formBadge {
			t.Fatal(accept)
		}
	})
}

func TestForms(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.pushed("web02", "db:main/%1", events.Critical, "no\nanswer <&>")
	r.pushed("web02", "queue", events.OK, "fine")
	ask := func(path, accept string, code int, kind string) answer {
		t.Helper()
		is.Helper()
		got := r.do("GET", path, "", "Accept", accept)
		is.Equal(got.code, code)
		is.True(strings.HasPrefix(got.header.Get("Content-Type"), kind))
		is.Equal(got.header.Get("Vary"), "Accept")
		is.True(got.header.Get("Megaphone-Number") != "")
		return got
	}
	const check = "/hosts/web02/checks/db%3Amain%2F%251"
	for _, accept := range []string{"*/*", "application/json", "text/html", "a/b"} { // what is not to be had is JSON
		is.Equal(ask("/hosts/web02", accept, 200, "application/json").object(t)["status"], "Critical")
		v := ask(check, accept, 200, "application/json").object(t)
		is.Equal(v["status"], "Critical")
		is.True(v["observed"] != nil && v["age_seconds"] != nil && v["next_seconds"] != nil)
	}
	host := r.get("/hosts/web02").object(t)
	is.True(host["observed"] != nil && host["age_seconds"] != nil && host["next_seconds"].(float64) > 30)

	got := ask("/hosts/web02", "application/health+json", 503, "application/health+json")
	maxAge, err := strconv.Atoi(strings.TrimPrefix(got.header.Get("Cache-Control"), "max-age="))
	is.NoErr(err)
	is.True(maxAge > 30 && maxAge <= 60)
	v := got.object(t)
	is.Equal(v["status"], "fail")
	is.Equal(v["serviceId"], "web02")
	one := v["checks"].(map[string]any)["db%3Amain/%251:status"].([]any)[0].(map[string]any)
	is.Equal(one["componentId"], "db:main/%1")
	is.Equal(one["observedValue"], "Critical")
	is.Equal(one["status"], "fail")
	is.Equal(one["output"], "no\nanswer <&>")
	two := v["checks"].(map[string]any)["queue:status"].([]any)[0].(map[string]any)
	is.Equal(two["status"], "pass")
	is.Equal(two["output"], nil) // omitted where all is well
	extra := two["megaphone"].(map[string]any)
	is.Equal(extra["phase"], "live")
	is.Equal(extra["seq"], 1.0)
	is.True(extra["age_seconds"] != nil && extra["next_seconds"] != nil && extra["observed"] != nil)
	is.Equal(ask("/hosts/web02/checks/queue", "application/health+json", 200, "application/health+json").object(t)["status"], "pass")
	r.pushed("web02", "db:main/%1", events.Warning, "slow")
	is.Equal(ask("/hosts/web02", "application/health+json", 200, "application/health+json").object(t)["status"], "warn")
	is.Equal(ask("/hosts/web02?warning=fail", "application/health+json", 503, "application/health+json").object(t)["status"], "fail")
	r.do("GET", "/hosts/web02?warning=maybe", "", "Accept", "application/health+json").problem(t, 400)

	got = ask("/hosts/web02", "text/plain", 200, "text/plain")
	is.True(strings.HasPrefix(got.body, "Warning web02: db:main/%1:Warning:slow (live, observed ") && strings.HasSuffix(got.body, " s)\n"))
	is.True(got.header.Get("Age") != "" && got.header.Get("Megaphone-Next") != "")

	got = ask("/hosts/web02", "text/plain;version=0.0.4", 200, "text/plain; version=0.0.4")
	for _, line := range []string{
		`megaphone_host_status{host="web02",status="warning"} 1`, `megaphone_check_status{check="queue",host="web02",status="ok"} 1`,
		`megaphone_age_seconds{check="",host="web02"} `, `megaphone_next_seconds{check="",host="web02"} `,
		`megaphone_check_last_result_timestamp_seconds{check="queue",host="web02"} `,
	} {
		is.True(strings.Contains(got.body, line))
	}
	got = ask("/hosts/web02/checks/queue", "application/openmetrics-text", 200, "application/openmetrics-text")
	is.True(strings.HasSuffix(got.body, "# EOF\n") && !strings.Contains(got.body, "db:main") && !strings.Contains(got.body, "megaphone_host_status"))

	for _, got := range []answer{
		ask(check, "image/svg+xml", 200, "image/svg+xml"), r.get("/hosts/web02/badge.svg"), r.get(check + "/badge.svg"),
	} {
		is.Equal(got.code, 200)
		is.Equal(got.header.Get("Content-Type"), "image/svg+xml")
		is.True(strings.Contains(got.body, ">Warning<") && strings.Contains(got.body, "age "))
		dec := xml.NewDecoder(strings.NewReader(got.body))
		for err = nil; err == nil; {
			_, err = dec.Token()
		}
		is.True(errors.Is(err, io.EOF)) // well-formed
	}
	for _, accept := range []string{"*/*", "application/health+json", "text/plain", "image/svg+xml", "application/openmetrics-text"} {
		r.do("GET", "/hosts/nope", "", "Accept", accept).problem(t, 404)
		r.do("GET", "/hosts/web02/checks/nope", "", "Accept", accept).problem(t, 404)
	}
	r.get("/hosts/nope/badge.svg").problem(t, 404)
	is.Equal(r.do("GET", "/hosts/web01", "", "Accept", "application/health+json").object(t)["status"], "warn") // the local one, without checks
}

func TestProbe(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("web", `"http://x/"`, events.Result{Status: events.OK})
	c := live("web01", "web", 1, events.OK, "", 1<<60)
	c.LatencySeconds = 0.25
	r.commit(c)
	r.eventually("the latency", func() bool { v, _ := r.view.Check("web01", "web", time.Now()); return v.LatencySeconds > 0 })
	r.pushed("web02", "a/b", events.Critical, "no answer")
	for path, want := range map[string][]string{
		"target=web01":                        {"probe_success 1", "probe_duration_seconds 0\n", `megaphone_host_status{host="web01",status="ok"} 1`},
		"target=web01/web&module=http_2xx":    {"probe_success 1", "probe_duration_seconds 0.25"},
		"target=web02":                        {"probe_success 0", `megaphone_host_status{host="web02",status="critical"} 1`, "megaphone_age_seconds"},
		"target=web02/a/b":                    {"probe_success 0", `megaphone_check_status{check="a/b",host="web02",status="critical"} 1`},
		"target=nope":                         {"probe_success 0"},
		"target=web01&max-age=1ms":            {"probe_success 0"},
		"target=web01&stale=closed":           {"probe_success 1"},
		"target=web01&max-age=1ms&stale=last": {"probe_success 1"},
	} {
		got := r.get("/probe?" + path)
		is.Equal(got.code, 200)
		for _, line := range want {
			if !strings.Contains(got.body, line) {
				t.Errorf("%s: %s is not in\n%s", path, line, got.body)
			}
		}
	}
	r.get("/probe").problem(t, 400)
	r.get("/probe?target=we%20b").problem(t, 400)
	r.get("/probe?target=web01&stale=maybe").problem(t, 400)
	r.get("/probe?target=web01&satle=open").problem(t, 400)
}

func TestServiceDiscovery(t *testing.T) {
	is := is.New(t)
	r := start(t)
	is.Equal(r.get("/sd").body, "[]\n")
	is.Equal(r.do("PUT", "/hosts/web01", `{"address": "10.0.0.1", "labels": {"zone": "b", "app.kind/x": "é"}}`).code, 201)
	is.Equal(r.do("PUT", "/hosts/web02", `{"address": "10.0.0.2:9100"}`).code, 201)
	is.Equal(r.do("PUT", "/hosts/web03/checks/a", `{"ttl": "60s"}`).code, 201)
	is.Equal(r.do("PUT", "/hosts/web04", `{"address": "fd00::4"}`).code, 201)
	got := r.get("/sd")
	is.Equal(got.code, 200)
	is.Equal(got.header.Get("Content-Type"), "application/json")
	is.Equal(got.body, `[{"targets":["10.0.0.1"],"labels":{"__meta_megaphone_host":"web01","__meta_megaphone_label_app_kind_x":"é","__meta_megaphone_label_zone":"b"}},`+
		`{"targets":["10.0.0.2:9100"],"labels":{"__meta_megaphone_host":"web02"}},{"targets":["web03"],"labels":{"__meta_megaphone_host":"web03"}},`+
		`{"targets":["fd00::4"],"labels":{"__meta_megaphone_host":"web04"}}]`+"\n")
	got = r.get("/sd?port=9100")
	for _, target := range []string{`"10.0.0.1:9100"`, `"10.0.0.2:9100"`, `"web03:9100"`, `"[fd00::4]:9100"`} {
		is.True(strings.Contains(got.body, target))
	}
	is.True(!strings.Contains(r.get("/sd?label=zone%3Db").body, "web02"))
	r.get("/sd?port=0").problem(t, 400)
}

func TestLongPoll(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.pushed("web02", "db", events.OK, "fine")
	r.commitHost(events.HostState{Host: "web02", Status: events.OK, Phase: events.Live, Since: time.Now()})
	r.eventually("the host", func() bool { return r.get("/hosts/web02").header.Get("Megaphone-Number") == "1" })

	begin := time.Now()
	is.Equal(r.get("/hosts/web02?after_number=0&wait=60s").code, 200) // it knows less
	is.Equal(r.get("/hosts/web02?after_number=7&wait=60s").code, 200) // numbers began again
	r.get("/hosts/nope?after_number=0&wait=60s").problem(t, 404)
	is.Equal(r.get("/hosts/web02/checks/db?after_number=1&wait=10ms").code, 200) // time is up
	is.True(time.Since(begin) < 30*time.Second)
	r.get("/hosts/web02?after_number=x").problem(t, 400)
	r.get("/hosts/web02?after_number=1&wait=long").problem(t, 400)

	// Those who wait are answered by the change: on the host, on its check, in any form.
	var waiting sync.WaitGroup
	answers := make(chan answer, 3)
	for _, path := range []string{"/hosts/web02", "/hosts/web02/checks/db", "/hosts/web02/checks/db"} {
		waiting.Go(func() {
			answers <- r.do("GET", path+"?after_number=1&wait=60s", "", "Accept", map[bool]string{true: "text/plain", false: "*/*"}[path == "/hosts/web02"])
		})
	}
	r.eventually("they wait", func() bool { return r.waiters.Load() == 3 })
	r.pushed("web02", "db", events.Critical, "no answer")
	r.commitHost(events.HostState{Host: "web02", Status: events.Critical, Phase: events.Live, Since: time.Now()})
	waiting.Wait()
	for range 3 {
		a := <-answers
		is.Equal(a.code, 200)
		is.Equal(a.header.Get("Megaphone-Number"), "2")
		is.True(strings.Contains(a.body, "Critical"))
	}
	is.Equal(r.waiters.Load(), int64(0))

	// What goes, and a gateway that stops, end the waiting.
	done := make(chan answer, 1)
	go func() { done <- r.get("/hosts/web02/checks/db?after_number=2") }()
	r.eventually("it waits", func() bool { return r.waiters.Load() == 1 })
	is.Equal(r.do("DELETE", "/hosts/web02/checks/db", "").code, 204)
	(<-done).problem(t, 404)
	is.Equal(r.do("PUT", "/hosts/web03", `{}`).code, 201)
	go func() { done <- r.get("/hosts/web03?after_number=0") }()
	r.eventually("it waits again", func() bool { return r.waiters.Load() == 1 })
	r.stop()
	is.Equal((<-done).code, 200)
}

// Too many who wait are told so.
func TestLongPollBounded(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.waiters.Store(maxWaiters)
	is.True(strings.Contains(r.get("/hosts/web01?after_number=0").problem(t, http.StatusServiceUnavailable), fmt.Sprint(maxWaiters)))
	is.Equal(r.get("/hosts/web01").code, 200)
	is.Equal(r.waiters.Load(), int64(maxWaiters))
}

// The list of hosts in its forms.
func TestHostListForms(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.pushed("web02", "db", events.Critical, "no answer")
	is.Equal(r.do("PUT", "/hosts/web03", `{}`).code, 201)
	got := r.do("GET", "/hosts", "", "Accept", "text/plain")
	is.Equal(got.code, 200)
	is.Equal(got.header.Get("Vary"), "Accept")
	lines := strings.Split(got.body, "\n")
	is.Equal(len(lines), 3)
	is.True(strings.HasPrefix(lines[0], "Critical web02: db:Critical:no answer (live, observed ") && strings.Contains(lines[0], "next in "))
	is.True(strings.HasPrefix(lines[1], "Unknown web03: No checks are registered! (gone"))
	is.Equal(r.do("GET", "/hosts?limit=1", "", "Accept", "text/plain").header.Get("Link"), `</hosts?after=web02>; rel="next"`)
	is.Equal(r.do("GET", "/hosts?status=OK", "", "Accept", "text/plain").body, "")
	got = r.do("GET", "/hosts", "", "Accept", "text/plain;version=0.0.4")
	is.True(strings.Contains(got.body, `megaphone_host_status{host="web02",status="critical"} 1`))
	is.True(r.do("GET", "/hosts", "", "Accept", "image/svg+xml").object(t)["hosts"] != nil)
}
