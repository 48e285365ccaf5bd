package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/looprock/megaphone/events"
)

// The readers of foreign bytes that have no fuzz function beside their tests.

// FuzzRequest sends whole requests through the handler, while the bus is away,
// so that everything is read and nothing is stored.
func FuzzRequest(f *testing.F) {
	r := start(f)
	r.registered("a", `"http://x/"`, events.Result{Status: events.Warning, Message: "w"})
	r.bus.Close()
	for _, rt := range r.table() {
		f.Add(rt.method, strings.NewReplacer("{host}", "web01", "{id}", "a%2Fb").Replace(rt.pattern), "stale=closed&wait=1", "text/plain;q=0.5,*/*", `{"url":"http://x/"}`)
	}
	f.Add("POST", "/events", "", "application/cloudevents-batch+json", `[{"specversion":"1.0"}]`)
	f.Add("POST", "/events", "", "application/json", `{"status":"OK"}`)
	f.Add("GET", "/events", "after=0&host=web01&check=a&type=x", "", "")
	f.Add("PUT", "/hosts/web01/override", "", "", `{"maintenance":true,"until":"2h","by":"x"}`)
	f.Add("GET", "/hosts", "status=OK,Critical&label=a=b&after=x&limit=3", "application/health+json", "")
	ended, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits
	f.Fuzz(func(t *testing.T, method, path, query, media, body string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		u.RawQuery = query
		req := &http.Request{
			Method: method, URL: u, Host: "127.0.0.1", RemoteAddr: "127.0.0.1:1", ProtoMajor: 1, ProtoMinor: 1,
			Header:        http.Header{"Accept": {media}, "Content-Type": {media}, "Last-Event-Id": {query}, "Ce-Specversion": {"1.0"}, "Ce-Id": {query}, "Ce-Type": {events.TypeResult}},
			ContentLength: int64(len(body)), Body: http.NoBody,
		}
		if body != "" {
			req.Body = readCloser{strings.NewReader(body)}
		}
		rec := httptest.NewRecorder()
		r.ServeHTTP(rec, req.WithContext(ended))
		if rec.Code == http.StatusInternalServerError {
			t.Fatalf("%s %s?%s: %s", method, path, query, rec.Body)
		}
		if rec.Code >= 400 && rec.Header().Get("Content-Type") == "application/problem+json" {
			var p problem
			if err := json.Unmarshal(rec.Body.Bytes(), &p); err != nil || p.Status != rec.Code {
				t.Fatalf("%d: %s", rec.Code, rec.Body)
			}
		}
	})
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// FuzzFind: a path that is found is found again as its names are written.
func FuzzFind(f *testing.F) {
	tree := newRoutes((&Server{}).table())
	for _, path := range []string{"/", "/checks/a%2Fb", "/hosts/web01/checks/%2e%2e/status", "//", "/hosts/%zz", "/hosts/%ff/override"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		n, params := tree.find(path)
		if n == nil || n.methods == nil {
			return
		}
		for _, rt := range n.methods {
			again := rt.pattern
			for _, p := range params {
				again = strings.Replace(again, "{"+p.name+"}", url.PathEscape(p.value), 1)
			}
			m, same := tree.find(again)
			if m != n || !reflect.DeepEqual(same, params) {
				t.Fatalf("%q and %q: %v, %v", path, again, params, same)
			}
		}
	})
}

// FuzzTokens: what is taken for a token file gives each its own name, and to
// nothing that is not in it.
func FuzzTokens(f *testing.F) {
	f.Add("# who\n\nci:secret:1\nops: other \n")
	f.Add(":x\ny:")
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parseTokens(text)
		if err != nil {
			return
		}
		file := &tokenFile{reloaded[[]token]{content: tokens}}
		for line := range strings.Lines(text) {
			name, secret, ok := strings.Cut(line, ":")
			if !ok || strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			owner, known := file.owner(strings.TrimSpace(secret))
			if !known || owner == "" {
				t.Fatalf("%q of %q is not known", secret, name)
			}
			if _, known := file.owner(strings.TrimSpace(secret) + "\n"); known {
				t.Fatalf("%q and more is known", secret)
			}
		}
	})
}

// FuzzBatch: a batch that is taken is taken again as it is written.
func FuzzBatch(f *testing.F) {
	f.Add([]byte(`[{"specversion":"1.0"},5,null]`))
	f.Add([]byte(`[] []`))
	f.Fuzz(func(t *testing.T, body []byte) {
		batch, err := parseBatch(body)
		if err != nil {
			return
		}
		again, err := json.Marshal(batch)
		must(t, err)
		same, err := parseBatch(again)
		if err != nil || len(same) != len(batch) || len(batch) > maxBatch {
			t.Fatalf("%d events, then %d: %v", len(batch), len(same), err)
		}
	})
}

// FuzzTarget: a name is read again as it is written.
func FuzzTarget(f *testing.F) {
	f.Add("web01/a%2Fb")
	f.Add("WEB01./%")
	f.Fuzz(func(t *testing.T, target string) {
		host, check, err := parseTarget(target)
		if err != nil {
			return
		}
		again := host
		if check != "" {
			again += "/" + url.PathEscape(check)
		}
		if h, c, err := parseTarget(again); err != nil || h != host || c != check {
			t.Fatalf("%q: %q %q, then %q %q: %v", target, host, check, h, c, err)
		}
	})
}
