package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/looprock/megaphone/bus"
	"github.com/looprock/megaphone/events"
)

var dateForm = regexp.MustCompile(`"date": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[A-Z+-][A-Z0-9:]*"`)

// undated is a body with its date cut out.
func undated(body string) string { return dateForm.ReplaceAllString(body, `"date": D`) }

func TestLegacyEmpty(t *testing.T) {
	is := is.New(t)
	r := start(t)
	root := r.get("/")
	is.Equal(root.code, 200)
	is.Equal(undated(root.body), `{"status": "Unknown", "date": D, "message": "No checks are registered!"}`)
	is.Equal(root.header.Get("Content-Type"), "application/json")
	is.Equal(root.header.Get("Content-Length"), fmt.Sprint(len(root.body)))
	is.Equal(r.get("/checks").body, `{}`)
	show := r.get("/checks/none")
	is.Equal(show.code, 200)
	is.Equal(show.body, "Sorry, no check none registered!")
	is.Equal(show.header.Get("Content-Type"), "text/html; charset=UTF-8")
}

// What the original answers to statuses: the texts on / and the document.
func TestLegacyStatuses(t *testing.T) {
	r := start(t)
	for name, tt := range map[string]struct {
		url    string
		result events.Result
		root   string // without date
		show   string
		kind   string // content type of show; default JSON
	}{
		"OK is not told": {
			result: events.Result{Status: events.OK, Message: "all well", Document: json.RawMessage(`{"status":"OK","message":"all well"}`)},
			root:   `{"status": "OK", "date": D, "message": "Everything is OK!"}`, show: `{"status": "OK", "message": "all well"}`,
		},
		"Warning": {
			result: events.Result{Status: events.Warning, Message: "disk 91%", Document: json.RawMessage(`{"status":"Warning","message":"disk 91%"}`)},
			root:   `{"status": "Warning", "date": D, "message": "c:Warning:disk 91%"}`, show: `{"status": "Warning", "message": "disk 91%"}`,
		},
		"unicode and HTML": {
			result: events.Result{Status: events.Warning, Message: "☃ | a:b \\ \"q\" <b>\n", Document: json.RawMessage(`{"m":"☃<b>"}`)},
			root:   `{"status": "Warning", "date": D, "message": "c:Warning:\u2603 | a:b \\ \"q\" <b>\n"}`, show: `{"m": "\u2603<b>"}`,
		},
		"an empty message": {
			result: events.Result{Status: events.Critical, Message: "", Document: json.RawMessage(`{"status":"Critical","message":""}`)},
			root:   `{"status": "Critical", "date": D, "message": "c:Critical:"}`, show: `{"status": "Critical", "message": ""}`,
		},
		"a pipe at the end stays": {
			result: events.Result{Status: events.Warning, Message: "x|", Document: json.RawMessage(`{}`)},
			root:   `{"status": "Warning", "date": D, "message": "c:Warning:x|"}`, show: `{}`,
		},
		"numbers and key order of a document": {
			result: events.Result{Status: events.Unknown, Message: "?", Document: json.RawMessage(`{"z":1.50,"a":12345678901234567890123,"b":1e5,"n":{"a":[1,null]}}`)},
			root:   `{"status": "Unknown", "date": D, "message": "c:Unknown:?"}`,
			show:   `{"z": 1.5, "a": 12345678901234567890123, "b": 100000.0, "n": {"a": [1, null]}}`,
		},
		"a string url that fails": {
			result: events.Result{Status: events.Critical, Message: "timeout connecting to http://x/"},
			root:   `{"status": "Critical", "date": D, "message": "c:Critical:timeout connecting to http://x/"}`,
			show:   "Error connecting to: http://x/", kind: htmlType,
		},
		"an object url that fails, with an override": {
			url:    `{"addr": "http://y/", "statusoverride": "OK"}`,
			result: events.Result{Status: events.OK, Message: textOverride},
			root:   `{"status": "OK", "date": D, "message": "Everything is OK!"}`,
			show:   "Error connecting to: http://y/", kind: htmlType,
		},
		"a statusoverride": {
			url:    `{"addr": "http://y/", "jsonpath": "a/b", "statusoverride": "Critical"}`,
			result: events.Result{Status: events.Critical, Message: textOverride, Document: json.RawMessage(`{"status":"OK","version":"1"}`)},
			root:   `{"status": "Critical", "date": D, "message": "c:Critical:NOTICE: statusoverride used!"}`,
			show:   `{"status": "Critical", "version": "1", "message": "NOTICE: statusoverride used!"}`,
		},
		"an invalid statusoverride": {
			url:    `{"addr": "http://y/", "statusoverride": "bad"}`,
			result: events.Result{Status: events.Critical, Message: "ERROR: invalid status 'bad' written to statusoverride!", Document: json.RawMessage(`{"status":"OK"}`)},
			root:   `{"status": "Critical", "date": D, "message": "c:Critical:ERROR: invalid status 'bad' written to statusoverride!"}`,
			show:   `{"status": "Critical", "message": "ERROR: invalid status 'bad' written to statusoverride!"}`,
		},
		"a false statusoverride is none": {
			url:    `{"addr": "http://y/", "statusoverride": false}`,
			result: events.Result{Status: events.OK, Document: json.RawMessage(`{"status":"OK"}`)},
			root:   `{"status": "OK", "date": D, "message": "Everything is OK!"}`, show: `{"status": "OK"}`,
		},
		"an object without addr": {
			url:    `{"statusoverride": "OK"}`,
			result: events.Result{Status: events.Critical, Message: "ERROR: couldn't find addr in url, nothing to check"},
			root:   `{"status": "Critical", "date": D, "message": "c:Critical:ERROR: couldn't find addr in url, nothing to check"}`,
			show:   textNoEndpoint, kind: htmlType,
		},
		"a list of strings is joined": {
			url:    `{"addr": "http://y/"}`,
			result: events.Result{Status: events.Critical, Message: "status document is not a JSON object", Document: json.RawMessage(`["a","é"]`)},
			root:   `{"status": "Critical", "date": D, "message": "c:Critical:status document is not a JSON object"}`,
			show:   "aé", kind: htmlType,
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			if tt.url == "" {
				tt.url = `"http://x/"`
			}
			if tt.kind == "" {
				tt.kind = "application/json"
			}
			r.registered("c", tt.url, tt.result)
			is.Equal(undated(r.get("/").body), tt.root)
			show := r.get("/checks/c")
			is.Equal(show.body, tt.show)
			is.Equal(show.header.Get("Content-Type"), tt.kind)
			is.Equal(show.code, 200)
		})
	}
}

func TestLegacyOrder(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("b", `"http://x/"`, events.Result{Status: events.Warning, Message: "w"})
	r.registered("a", `"http://x/"`, events.Result{Status: events.Unknown, Message: "u"})
	r.registered("c", `"http://x/"`, events.Result{Status: events.OK})
	is.Equal(undated(r.get("/").body), `{"status": "Warning", "date": D, "message": "a:Unknown:u|b:Warning:w"}`)
	is.Equal(r.get("/checks?x=1").body, `{"a": "http://x/", "b": "http://x/", "c": "http://x/"}`)
	is.Equal(r.do("DELETE", "/checks/b", "").code, 200)
	is.Equal(undated(r.get("/").body), `{"status": "Unknown", "date": D, "message": "a:Unknown:u"}`) // at once
	is.Equal(r.get("/checks/b").body, "Sorry, no check b registered!")
}

func TestLegacyRegister(t *testing.T) {
	r := start(t)
	for name, tt := range map[string]struct {
		body string
		code int
		text string // the whole, or a part with an ellipsis at its end
	}{
		"a string":               {`{"id": "a", "url": "http://x/"}`, 200, ""},
		"again":                  {`{"id": "a", "url": "http://y/"}`, 200, ""},
		"unknown keys":           {`{"id": "a", "url": {"addr": "http://y/", "team": "x"}, "owner": "me"}`, 200, ""},
		"over several lines":     {"{\n \"id\": \"a\",\n\t\"url\": \"http://x/\"\n}\n", 200, ""},
		"a byte order mark":      {"\uFEFF" + `{"id": "a", "url": "http://x/"}`, 200, ""},
		"repeated keys":          {`{"id": "z", "url": 5, "id": "a", "url": "http://x/"}`, 200, ""},
		"an unfit scheme":        {`{"id": "d", "url": "gopher://127.0.0.1/"}`, 200, ""},
		"no addr":                {`{"id": "d", "url": {}}`, 200, ""},
		"nothing":                {``, 400, "No data received"},
		"no JSON":                {`hello`, 400, "Error adding new check! The body is not JSON…"},
		"half":                   {`{"id": "a"`, 400, "Error adding new check! The body is not JSON…"},
		"two objects":            {`{"id": "x", "url": "http://x/"}` + "\n" + `{"id": "y", "url": "http://x/"}`, 400, "Error adding new check! There is more data after the object."},
		"no id":                  {`{"url": "http://x/"}`, 400, "No id specified"},
		"an empty id":            {`{"id": "", "url": "http://x/"}`, 400, "No id specified…"},
		"a number as id":         {`{"id": 5, "url": "http://x/"}`, 400, "No id specified…"},
		"null as id":             {`{"id": null, "url": "http://x/"}`, 400, "No id specified…"},
		"a control character":    {`{"id": "a\u0001", "url": "http://x/"}`, 400, "bad name…"},
		"no url":                 {`{"id": "x"}`, 400, "Error adding new check!"},
		"null as url":            {`{"id": "x", "url": null}`, 400, "Error adding new check!…"},
		"a number as url":        {`{"id": "x", "url": 5}`, 400, "Error adding new check!…"},
		"an empty url":           {`{"id": "x", "url": ""}`, 400, "Error adding new check!…"},
		"a number as jsonpath":   {`{"id": "x", "url": {"addr": "http://x/", "jsonpath": 5}}`, 400, "Error adding new check!…"},
		"a list":                 {`["id"]`, 400, "Error adding new check!…"},
		"text":                   {`"an id here"`, 400, "Error adding new check!…"},
		"null":                   {`null`, 400, "Error adding new check!…"},
		"bytes that are no text": {"{\"id\": \"\xff\", \"url\": \"http://x/\"}", 400, "the body must be UTF-8"},
		"another host":           {`{"id": "x", "url": "http://x/", "host": "web02"}`, 400, "Error adding new check! POST /checks is for web01 alone…"},
		"too much":               {`{"id": "x", "url": "` + strings.Repeat("x", maxBody) + `"}`, 413, "the body may have 262144 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			got := r.do("POST", "/checks?wait=0", tt.body)
			is.Equal(got.header.Get("Content-Type"), htmlType)
			want, part := strings.CutSuffix(tt.text, "…")
			if part {
				is.True(strings.HasPrefix(got.body, want)) // the text
				got.body = want
			}
			is.Equal(got.body, want)
			is.Equal(got.code, tt.code)
			is.True(!strings.Contains(r.get("/checks").body, `"x": `)) // nothing is registered of what was refused
		})
	}
}

func TestLegacyRegisterFields(t *testing.T) {
	is := is.New(t)
	r := start(t)
	got := r.do("POST", "/checks", `{"id": "q", "ttl": "60s", "on_silence": "Warning", "labels": {"a": "b"}, "host": "WEB01"}`)
	is.Equal(got.code, 200) // a push check needs no url, and is not waited for
	e, ok := r.reg.Check("web01", "q")
	is.True(ok)
	is.Equal(e.Registration.Silence(), events.Warning)
	is.Equal(e.Registration.Origin, "http")
	is.Equal(r.get("/checks").body, `{"q": null}`)
	is.Equal(r.get("/checks/q").body, `{"status": "Unknown", "message": "no result yet"}`)

	is.Equal(r.do("POST", "/checks?wait=0", `{"id": "a", "url": {"addr":"http://x/", "x":1.0,"n": [1.50]}}`).code, 200)
	is.Equal(r.get("/checks").body, `{"a": {"addr": "http://x/", "x": 1.0, "n": [1.5]}, "q": null}`)
}

func TestLegacyChunked(t *testing.T) {
	is := is.New(t)
	r := start(t)
	req, err := http.NewRequestWithContext(t.Context(), "POST", r.url+"/checks?wait=0", struct{ *strings.Reader }{strings.NewReader(`{"id": "a", "url": "http://x/"}`)})
	is.NoErr(err)
	req.ContentLength = -1
	res, err := client.Do(req)
	is.NoErr(err)
	is.NoErr(res.Body.Close())
	is.Equal(res.StatusCode, 200)
	is.Equal(r.get("/checks").body, `{"a": "http://x/"}`)
}

// POST answers when the first result is in and visible.
func TestLegacyRegisterWaits(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.RegisterWait = 10 * time.Second })
	done := make(chan answer, 1)
	go func() { done <- r.do("POST", "/checks", `{"id": "a", "url": "http://x/"}`) }()
	r.eventually("the registration", func() bool { _, ok := r.reg.Check("web01", "a"); return ok })
	select {
	case <-done:
		t.Fatal("answered before the first result")
	case <-time.After(20 * time.Millisecond):
	}
	r.polled("a", events.Result{Status: events.Warning, Message: "w"})
	is.Equal((<-done).code, 200)
	is.Equal(undated(r.get("/").body), `{"status": "Warning", "date": D, "message": "a:Warning:w"}`)

	// A registration that nobody polls is answered all the same.
	is.Equal(r.do("POST", "/checks?wait=0.02", `{"id": "b", "url": "http://x/"}`).code, 200)
	is.Equal(r.do("POST", "/checks?wait=soon", `{"id": "b", "url": "http://x/"}`).code, 400)
}

// A busy aggregator is waited for: whoever asks next is told of the first result.
func TestLegacyRegisterWaitsForAggregator(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.RegisterWait = 10 * time.Second })
	done := make(chan answer, 1)
	go func() { done <- r.do("POST", "/checks", `{"id": "a", "url": "http://x/"}`) }()
	r.eventually("the registration", func() bool { _, ok := r.reg.Check("web01", "a"); return ok })
	e, _ := r.reg.Check("web01", "a")
	res := events.Result{Status: events.Warning, Message: "w", Reg: e.Position, Lease: 1, Due: time.Now().UnixMilli()}
	pos := r.poll("web01", "a", res)
	select {
	case <-done:
		t.Fatal("answered before the first result counted")
	case <-time.After(6 * settleTime):
	}
	s := live("web01", "a", e.Position, res.Status, res.Message, pos)
	s.Addr = address(t, e)
	s.Order = res.Order()
	r.commit(s)
	is.Equal((<-done).code, 200)
	is.Equal(undated(r.get("/").body), `{"status": "Warning", "date": D, "message": "a:Warning:w"}`)
}

func TestLegacyIDs(t *testing.T) {
	r := start(t)
	for id, path := range map[string]string{
		"é☃": "%C3%A9%E2%98%83", "a.b..c": "a.b..c", "*": "*", ">": "%3E", "50%": "50%25", `o'k"`: "o%27k%22", "a+b": "a+b", "a b": "a%20b",
		"a/b": "a%2Fb", ".": ".", "..": "..", "a/../b": "a%2f..%2Fb", "/": "%2F", "status": "status",
	} {
		t.Run(id, func(t *testing.T) {
			is := is.New(t)
			body, err := json.Marshal(map[string]string{"id": id, "url": "http://x/"})
			is.NoErr(err)
			is.Equal(r.do("POST", "/checks?wait=0", string(body)).code, 200)
			r.polled(id, events.Result{Status: events.Warning, Message: "w", Document: json.RawMessage(`{"status":"Warning"}`)})
			is.Equal(r.get("/checks/"+path).body, `{"status": "Warning"}`)
			key := string(appendPyString(nil, id))
			is.Equal(r.get("/checks").body, `{`+key+`: "http://x/"}`)
			is.Equal(undated(r.get("/").body), `{"status": "Warning", "date": D, "message": `+strings.TrimSuffix(key, `"`)+`:Warning:w"}`)
			got := r.do("DELETE", "/checks/"+path, "")
			is.Equal(got.code, 200)
			is.Equal(got.body, "")
			is.Equal(got.header.Get("Content-Type"), htmlType)
			is.Equal(r.get("/checks").body, `{}`)
		})
	}
}

func TestLegacyDelete(t *testing.T) {
	is := is.New(t)
	r := start(t)
	for _, id := range []string{"nope", "--global"} {
		got := r.do("DELETE", "/checks/"+id, "")
		is.Equal(got.code, 404)
		is.Equal(got.body, "Error deleting check!")
	}
	_, err := r.reg.Register(t.Context(), events.Registration{Host: "web01", ID: "f", URL: json.RawMessage(`"http://x/"`), Origin: "file:a.json"})
	is.NoErr(err)
	got := r.do("DELETE", "/checks/f", "")
	is.Equal(got.code, 409)
	is.True(strings.Contains(got.body, "a.json"))
	got = r.do("POST", "/checks", `{"id": "f", "url": "http://y/"}`)
	is.Equal(got.code, 409)
	is.True(strings.Contains(got.body, "a.json"))
}

func TestLegacyGlobal(t *testing.T) {
	r := start(t)
	r.registered("c", `"http://x/"`, events.Result{Status: events.OK, Document: json.RawMessage(`{"status":"OK"}`)})
	for name, tt := range map[string]struct{ url, shown, show string }{
		"text":      {`"stop"`, `"stop"`, "stop"},
		"empty":     {`""`, `""`, ""},
		"an object": {`{"reason":"deploy","by":"ops"}`, `{"reason": "deploy", "by": "ops"}`, textNoEndpoint},
		"null":      {`null`, `null`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			got := r.do("POST", "/checks", `{"id": "--global", "url": `+tt.url+`}`)
			is.Equal(got.code, 200)
			is.Equal(got.body, "")
			is.Equal(undated(r.get("/").body), `{"status": "Critical", "date": D, "message": `+tt.shown+`}`) // at once
			is.Equal(r.get("/checks").body, `{"--global": `+tt.shown+`, "c": "http://x/"}`)
			is.Equal(r.get("/checks/--global").body, tt.show)
			is.Equal(r.get("/checks/c").body, `{"status": "OK"}`)
		})
	}
	is := is.New(t)
	is.Equal(r.do("DELETE", "/checks/--global", "").code, 200)
	is.Equal(undated(r.get("/").body), `{"status": "OK", "date": D, "message": "Everything is OK!"}`)
	is.Equal(r.do("POST", "/checks", `{"id": "--global"}`).code, 400)
}

func TestLegacyMethods(t *testing.T) {
	r := start(t)
	for req, want := range map[string]struct {
		code  int
		allow string
	}{
		"POST /": {405, "GET"}, "OPTIONS /": {405, "GET"}, "PUT /checks": {405, "GET,POST"}, "PATCH /checks": {405, "GET,POST"},
		"DELETE /checks": {405, "GET,POST"}, "OPTIONS /checks": {405, "GET,POST"}, "PUT /checks/a": {405, "DELETE,GET"},
		"GET /checks/": {404, ""}, "GET /checks/a/b": {404, ""}, "GET //": {404, ""}, "GET //checks": {404, ""}, "GET /checks//": {404, ""},
		"GET /./checks": {404, ""}, "GET /nope": {404, ""}, "HEAD /nope": {404, ""}, "GET /%63hecks": {200, ""}, "GET /checks/..": {200, ""},
		"HEAD /": {200, ""}, "HEAD /checks": {200, ""}, "GET /?x=1": {200, ""},
	} {
		t.Run(req, func(t *testing.T) {
			is := is.New(t)
			method, path, _ := strings.Cut(req, " ")
			got := r.do(method, path, "")
			is.Equal(got.code, want.code)
			is.Equal(got.header.Get("Allow"), want.allow)
			if want.code != 200 {
				is.Equal(got.header.Get("Content-Type"), htmlType)
			}
			if method == "HEAD" && want.code == 200 {
				length, err := strconv.Atoi(got.header.Get("Content-Length"))
				is.NoErr(err)
				is.Equal(length, len(r.get(path).body))
				is.Equal(got.body, "")
			}
		})
	}
}

func TestLegacyPage(t *testing.T) {
	is := is.New(t)
	r := start(t)
	r.registered("<i>", `"http://x/"`, events.Result{Status: events.Warning, Message: "<script>"})
	page := r.do("GET", "/", "", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	is.Equal(page.header.Get("Content-Type"), htmlType)
	is.Equal(page.header.Get("Vary"), "Accept")
	is.True(strings.Contains(page.body, "&lt;script&gt;"))
	is.True(!strings.Contains(page.body, "<script>"))
	for _, accept := range []string{"*/*", "application/json", "text/*", "text/html;q=0"} {
		got := r.do("GET", "/", "", "Accept", accept)
		is.Equal(got.header.Get("Content-Type"), "application/json")
		is.Equal(got.header.Get("Vary"), "Accept")
	}
	// A document of text is HTML by its type: browsers must not run it.
	is.Equal(page.header.Get("X-Content-Type-Options"), "nosniff")
	is.True(strings.Contains(r.get("/checks/nope").header.Get("Content-Security-Policy"), "sandbox"))
}

func TestLegacyCacheUnwritable(t *testing.T) {
	is := is.New(t)
	dir := t.TempDir()
	cache := filepath.Join(dir, "no", "cache.json")
	is.NoErr(os.WriteFile(filepath.Join(dir, "no"), nil, 0o600)) // a file in place of the folder
	r := start(t, func(_ *Config, o *bus.RegistryOptions) { o.Cache = cache })
	got := r.do("POST", "/checks", `{"id": "a", "url": "http://x/"}`)
	is.Equal(got.code, 500)
	is.Equal(got.body, "Error adding new check! the cache file cannot be written: nothing was changed")
	is.Equal(undated(r.get("/").body), `{"status": "Critical", "date": D, "message": "ERROR: cache creation failed!"}`)
	is.Equal(r.get("/checks").body, `{}`) // not half-registered
	is.NoErr(os.Remove(filepath.Join(dir, "no")))
	is.NoErr(os.Mkdir(filepath.Join(dir, "no"), 0o700))
	is.Equal(r.do("POST", "/checks?wait=0", `{"id": "a", "url": "http://x/"}`).code, 200)
	is.Equal(undated(r.get("/").body), `{"status": "Unknown", "date": D, "message": "a:Unknown:no result yet"}`)
}

func TestLegacyWithoutHost(t *testing.T) {
	is := is.New(t)
	r := start(t, func(c *Config, _ *bus.RegistryOptions) { c.Host = "" })
	is.Equal(undated(r.get("/").body), `{"status": "Unknown", "date": D, "message": "No checks are registered!"}`)
	is.Equal(r.get("/checks").body, `{}`)
	is.Equal(r.do("POST", "/checks", `{"id": "a", "url": "http://x/"}`).code, 400)
	is.Equal(r.do("DELETE", "/checks/a", ``).code, 404)
	is.Equal(r.do("PUT", "/checks/a/status", `{"status": "OK"}`).code, 404)
}

// FuzzPosted: what is read is a registration that can be kept: it comes out of a
// second round as it went in.
func FuzzPosted(f *testing.F) {
	for _, s := range []string{
		`{"id": "a", "url": "http://x/"}`, `{"id": "a", "url": {"addr": "http://x/", "jsonpath": "a/b"}, "interval": 5, "labels": {"a": "b"}}`,
		`{"id": "q", "ttl": "60s", "on_silence": "Warning", "url": null}`, `["id"]`, `{"id": "\ud800", "url": ""}`, `{"id": "--global", "url": 1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := parsePosted(body)
		if err != nil {
			return
		}
		id, err := p.id()
		if err != nil || id == events.GlobalID {
			return
		}
		reg, err := p.registration()
		if err != nil || reg.Validate() != nil {
			return
		}
		first, err := json.Marshal(reg)
		if err != nil {
			t.Fatal(err)
		}
		p, err = parsePosted(first)
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		reg, err = p.registration()
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		second, err := json.Marshal(reg)
		if err != nil || string(first) != string(second) {
			t.Fatalf("unstable: %v\n%s\n%s", err, first, second)
		}
	})
}
